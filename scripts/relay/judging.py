"""Runs a scenario between two QEMUs, and says what was not as it expects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protocol.events import RELAY
from scripts.injection.checks import Failure
from scripts.relay.pair import PairOutcome, PairRun
from scripts.relay.scenario import PairScenario
from scripts.runtime.looping import run_until_signalled
from scripts.screen.recorder import Recorder


def run_pair(scenario: PairScenario, folder: Path) -> tuple[tuple[object, ...], list[Failure]]:
    """Run a scenario; return the steps that were done, and what was not as expected.

    Args:
        scenario: Which.
        folder: Where the relay's events are left.

    Raises:
        MidstreamError: A QEMU could not be started, or is none that this is about.
        MigrationCancelled: A signal came.
    """
    with Recorder(RELAY, folder / "events.jsonl") as recorder:
        outcome = run_until_signalled(PairRun(scenario, recorder).run)
    done = {step.number for step in scenario.steps} - set(outcome.undone)
    return tuple(sorted(done)), unmet(scenario, outcome)


def unmet(scenario: PairScenario, outcome: PairOutcome) -> list[Failure]:
    """Return what was not as expected; what went wrong on the way is added to it."""
    found = list(_unmet(scenario, outcome))
    if found and outcome.trouble:
        found.append(Failure("run", "no trouble", "; ".join(outcome.trouble)))
    return found


def _unmet(scenario: PairScenario, outcome: PairOutcome) -> Iterator[Failure]:
    expect, seen = scenario.expect, _seen(outcome)
    for key, wanted in expect.items():
        if key == "channels":
            for page, channel in wanted.items():
                had = [by for name, by in outcome.served if name == page]
                if had != [channel]:
                    yield Failure(f"channels of {page}", str(channel), ", ".join(had) or "none")
        elif key == "memory-equal":
            if (outcome.differing_bytes == 0) is not wanted:
                yield Failure(key, str(wanted).lower(), f"{outcome.differing_bytes} bytes differ")
        elif seen[key] != wanted:
            yield Failure(key, _words(wanted), _words(seen[key]))
    for step in scenario.steps:
        if step.number in outcome.undone:
            what = f"step {step.number} ({scenario.path.name}:{step.line})"
            yield Failure(what, "its moment", "it never came")
    if outcome.timed_out:
        yield Failure("end", f"by itself in {scenario.timeout_seconds:g} s", _words(outcome.states))


def _seen(outcome: PairOutcome) -> dict[str, Any]:
    return {
        "source": outcome.states.get("source", ""),
        "dest": outcome.states.get("dest", ""),
        "source-states": outcome.history.get("source", []),
        "dest-states": outcome.history.get("dest", []),
        "served": [name for name, _ in outcome.served],
        "differing-bytes": outcome.differing_bytes,
        "breaks": outcome.breaks,
    }


def _words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return str(value)
