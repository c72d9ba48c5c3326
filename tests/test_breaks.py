"""Connections break at random bytes: no memory is lost, nothing hangs, and who fails says so."""

from __future__ import annotations

import os
import random

import pytest
import trio

from guest.programs import ProgramSpec
from guest.states import encode_states
from protocol.channels import Channel
from protocol.errors import ConnectionLost, PeerAborted
from protocol.geometry import Geometry, RamBlock
from protocol.messages import PROTOCOL_VERSION, SwitchOver, SwitchOverAhead, Welcome
from protocol.policy import PRESETS, preset
from protocol.session_messages import offer
from protocol.wire import encode
from scripts.injection.actions import NetworkAction
from scripts.injection.marks import BytesMark, Direction
from tests.bounds import bounded, nothing_left
from tests.breaking import RULES, Breaking, Breaks, Place, judge
from tests.guests import HUGE, KIB, SEED

GEOMETRY = Geometry((RamBlock("ram", HUGE, HUGE), RamBlock("rom", 32 * 4 * KIB, 4 * KIB)))
# Pages of both blocks, one of them twice.
TOUCH = (3, 300, 530, 3)
SPEC = ProgramSpec(seed=SEED, vcpu_count=len(TOUCH))

# Bytes that changed before a break and were not yet compared when it came; a source that comes back
# to say that it keeps the guest.
FOUND = {261, 339, 1031}

# Each is a policy, a rule and a few breaks of its own; more than a few are for a patient person:
# MIDSTREAM_BREAKS=1000 pytest tests/test_breaks.py
SEEDS = sorted({*range(int(os.environ.get("MIDSTREAM_BREAKS", "12"))), *FOUND})

# About what passes on each channel, each way; a break beyond the end never comes.
PASSAGES = {
    (Channel.PRECOPY, Direction.FORWARD): GEOMETRY.length_bytes + 2000,
    (Channel.PRECOPY, Direction.BACKWARD): 900,
    (Channel.POSTCOPY, Direction.FORWARD): GEOMETRY.length_bytes // 2,
    (Channel.POSTCOPY, Direction.BACKWARD): 60,
}


def random_breaks(rng: random.Random, channels: list[Channel]) -> Breaks:
    """Return one to three breaks, each of one channel at one byte."""
    breaks: Breaks = {}
    for _ in range(rng.randint(1, 3)):
        channel, direction = rng.choice([key for key in PASSAGES if key[0] in channels])
        mark = BytesMark(rng.randint(1, PASSAGES[channel, direction]), channel, direction)
        do = rng.choice(["cut", "cut", "half-close"])
        ways = (rng.choice(list(Direction)),) if do == "half-close" else tuple(Direction)
        breaks[mark] = NetworkAction(do, (channel,), ways)
    return breaks


def random_flips(rng: random.Random) -> Breaks:
    """Return places from which on a few bits of pages flip."""
    forward = (Direction.FORWARD,)
    counts = [rng.randint(1, PASSAGES[Channel.PRECOPY, Direction.FORWARD]) for _ in range(2)]
    return {
        BytesMark(count, Channel.PRECOPY, Direction.FORWARD): NetworkAction(
            "corrupt", tuple(Channel), forward, bits=rng.choice([1, 5])
        )
        for count in counts
    }


@pytest.mark.parametrize("seed", SEEDS)
async def test_breaks_at_random_bytes(breaking: Breaking, seed: int) -> None:
    """Whatever breaks where, all memory arrives; or it ends before the guest was handed over.

    In every other run bits flip, too, and checksums find them.
    """
    rng = random.Random(seed)
    policy = preset(rng.choice(list(PRESETS)))
    rule = RULES[rng.choice(["postcopy", "postcopy", *RULES])]
    breaks = random_breaks(rng, list(Channel) if policy.own_channel else [Channel.PRECOPY])
    checked = seed % 2 == 1
    if checked:
        breaks |= random_flips(rng)
    await trio.to_thread.run_sync(int)
    with nothing_left(), bounded(30):
        run = await breaking.run(
            GEOMETRY, breaks, touch=TOUCH, policy=policy, rule=rule, spec=SPEC, checksum=checked,
        )  # fmt: skip
    assert judge(run) == "", f"{policy.name} {rule} {breaks}"


@pytest.mark.parametrize("rule", ["postcopy", "precopy"])
async def test_exactly_one_side_runs_the_guest(breaking: Breaking, rule: str) -> None:
    """Cut before, inside and after SwitchOver and Running: one side runs the guest, never both."""
    calm = await breaking.run(GEOMETRY, {}, rule=RULES[rule], spec=SPEC)
    end = calm.last_byte_of_switch_over
    state_bytes = len(encode_states(breaking.guests["source"].made[-1].states))
    head = SwitchOver(payload_bytes=state_bytes, postcopy=rule == "postcopy")
    begin = end - len(encode(head)) - state_bytes
    forward = [begin - 30, begin - 1, begin, begin + 1, (begin + end) // 2, end - 1, end]
    marks = [BytesMark(count, Channel.PRECOPY, Direction.FORWARD) for count in forward]
    # Ready, SwitchOverAck and Running, whatever is before and after the last.
    welcome_bytes = len(encode(Welcome(version=PROTOCOL_VERSION, capabilities=offer())))
    back = range(welcome_bytes + 3, welcome_bytes + 35, 8)
    marks += [BytesMark(count, Channel.PRECOPY, Direction.BACKWARD) for count in back]
    resumed = []
    cut = NetworkAction("cut", (Channel.PRECOPY,))
    for mark in marks:
        run = await breaking.run(
            GEOMETRY, {mark: cut}, rule=RULES[rule], spec=SPEC, dest={"wait_seconds": 0.6}
        )
        ours, theirs = (breaking.guests[side].made[-1].calls for side in ("source", "dest"))
        if run.errors:
            assert ours[-1] == "run", "the source has the guest, and runs it"
            assert "run" not in theirs
            assert [error.exit_status for error in run.errors.values()] == [1, 1]
        else:
            assert ours == ["run", "pause"]
            assert theirs == ["load", "run", "pause"]
            resumed.append(mark)
    # Whoever waits for a source that stayed where it was is told.
    cut_ahead: Breaks = {Place(Channel.PRECOPY, Direction.FORWARD, SwitchOverAhead): cut}
    run = await breaking.run(
        GEOMETRY, cut_ahead, rule=RULES[rule], spec=SPEC, dest={"wait_seconds": 20.0}
    )
    assert isinstance(run.errors["source"], ConnectionLost)
    assert isinstance(run.errors["dest"], PeerAborted)
    assert str(run.errors["source"]) in str(run.errors["dest"])
    # From the byte on with which its end is inside, a SwitchOver has left: nothing may fail.
    assert set(marks[3:7]) <= set(resumed)
