"""Breaks one scenario's connections at random bytes, run after run, and looks at how each ends.

A run ends well in one of two ways: the migration is completed and every byte is right, though the
source need not have heard the destination's last word; or it failed before the guest was handed
over, and then the source says so and nothing ran on the destination.
Anything else, a hang above all, is a fault; its seed tells how to have it again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from protocol.channels import Channel
from protocol.states import State
from scripts.injection.actions import NetworkAction
from scripts.injection.marks import BytesMark, Direction
from scripts.injection.outcome import Outcome
from scripts.injection.scenario import Scenario, Step
from scripts.injection.triggers import Passed

# How often one run's connections are broken at most; the later ones break recoveries.
BREAKS_MAX = 3

# Some breaks end both directions at once, others only one.
_KINDS = ("cut", "cut", "half-close")

Passages = Mapping[tuple[Channel, Direction], int]


class Ending(NamedTuple):
    """How a run ended.

    Attributes:
        fault: What was wrong with that, empty if nothing.
        recovered: It was completed after a break.
    """

    fault: str
    recovered: bool


def broken_at_random(scenario: Scenario, passages: Passages, seed: int) -> Scenario:
    """Return a scenario whose only steps are breaks at random bytes.

    Args:
        scenario: What is migrated, and how.
        passages: How many bytes pass on each channel, each way, when nothing breaks; without any,
            nothing does.
        seed: What decides where.
    """
    rng = random.Random(seed)
    steps = []
    # One that never comes makes a run go through the proxy.
    never = BytesMark(1 << 62, Channel.PRECOPY, Direction.FORWARD)
    if not passages:
        steps.append(Step(1, 0, Passed(never), NetworkAction("cut", (Channel.PRECOPY,))))
    for number in range(1, rng.randint(1, BREAKS_MAX) + 1 if passages else 1):
        # Few bytes go backward, and much hangs on them: each way has the same chance.
        channel, direction = rng.choice(sorted(passages, key=str))
        mark = BytesMark(rng.randint(1, passages[channel, direction]), channel, direction)
        directions = tuple(Direction)
        do = rng.choice(_KINDS)
        if do == "half-close":
            directions = (rng.choice(directions),)
        action = NetworkAction(do, (channel,), directions)
        steps.append(Step(number, 0, Passed(mark), action))
    return replace(scenario, steps=tuple(steps))


def judge_storm(outcome: Outcome) -> Ending:
    """Return whether a run whose connections broke ended as it may."""
    words = "; ".join(f"{side}: {reason}" for side, reason in outcome.reasons.items())
    states = {side: _states_of(outcome, side) for side in ("source", "dest")}
    if outcome.timed_out:
        return Ending(f"it hung: {states}", recovered=False)
    if outcome.count("mismatches"):
        return Ending(f"the guest found wrong memory ({words})", recovered=False)
    # That of a migration that failed has nothing about the memory.
    if outcome.report is not None and "verified" in outcome.report["midstream"]:
        if outcome.exit_status or not outcome.report["midstream"]["verified"]["digest-equal"]:
            return Ending(f"completed, and yet {outcome.statuses} ({words})", recovered=False)
        return Ending("", recovered=outcome.report["midstream"]["recoveries"] > 0)
    if _may_end_so(outcome, states):
        return Ending("", recovered=False)
    return Ending(f"it ended with {outcome.statuses} in {states} ({words})", recovered=False)


def _may_end_so(outcome: Outcome, states: Mapping[str, list[str]]) -> bool:
    """Return whether a run may end so without the source's word that all is right."""
    # What nobody heard is the last word, and the guest is whole over there.
    if [states[side][-1:] for side in ("source", "dest")] == 2 * [[State.COMPLETED.value]]:
        return dict(outcome.statuses) == {"source": 1, "dest": 0}
    before_handing_over = not {State.POSTCOPY_ACTIVE.value, State.POSTCOPY_PAUSED.value} & {
        *states["source"]
    }
    ran = State.POSTCOPY_ACTIVE.value in states["dest"]
    return before_handing_over and not ran and dict(outcome.statuses) == {"source": 1, "dest": 1}


def _states_of(outcome: Outcome, side: str) -> list[str]:
    return [event["state"] for event in outcome.named("state") if event["side"] == side]
