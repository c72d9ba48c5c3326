"""Bits flip on the way: with checksums all memory arrives, without them the digest finds it."""

from __future__ import annotations

import random

import pytest
import trio

from guest.programs import ProgramSpec
from protocol import events
from protocol.channels import Channel
from protocol.errors import WrongMemory
from protocol.geometry import Geometry, RamBlock
from protocol.policy import PRESETS, preset
from scripts.injection.actions import NetworkAction
from scripts.injection.marks import BytesMark, Direction
from scripts.injection.tap import Part
from tests.bounds import bounded, nothing_left
from tests.breaking import RULES, Breaking, Breaks
from tests.guests import HUGE, KIB, SEED

GEOMETRY = Geometry((RamBlock("ram", HUGE, HUGE), RamBlock("rom", 32 * 4 * KIB, 4 * KIB)))
TOUCH = (3, 300, 530, 3)
SPEC = ProgramSpec(seed=SEED, vcpu_count=len(TOUCH))


def flips(rng: random.Random, part: Part = Part.PAGE) -> Breaks:
    """Return a few places on the precopy channel from which on bits flip in page bytes."""
    counts = rng.sample(range(100, GEOMETRY.length_bytes - 70 * KIB), 3)
    forward = (Direction.FORWARD,)
    return {
        BytesMark(count, Channel.PRECOPY, Direction.FORWARD): NetworkAction(
            "corrupt", tuple(Channel), forward, bits=rng.choice([1, 9]), part=part
        )
        for count in counts
    }


@pytest.mark.parametrize("policy", PRESETS)
async def test_what_comes_changed_goes_again(breaking: Breaking, policy: str) -> None:
    """With every policy, in every phase, changed bytes go again, and both sides count them."""
    rng = random.Random(policy)
    for rule in RULES.values():
        with nothing_left(), bounded(30):
            await trio.to_thread.run_sync(int)
            run = await breaking.run(
                GEOMETRY, flips(rng), touch=TOUCH, policy=preset(policy), rule=rule, spec=SPEC,
                checksum=True,
            )  # fmt: skip
        assert not run.errors, run.errors
        changed = run.events["dest"].of(events.FrameChanged)
        checksums = run.reports["source"]["midstream"]["checksums"]
        assert 1 <= len(changed) <= 6
        assert checksums == {
            "used": True,
            "changed": len(changed),
            "changed-bytes": sum(event["bytes"] for event in changed),
        }
        assert run.reports["dest"]["midstream"]["verified"]["digest-equal"]


@pytest.mark.parametrize("rule", RULES)
async def test_without_checksums_the_digest_finds_it(breaking: Breaking, rule: str) -> None:
    """Changed bytes that nobody looked at are wrong memory in the end, never a success."""
    with bounded(30):
        run = await breaking.run(GEOMETRY, flips(random.Random(rule)), rule=RULES[rule], spec=SPEC)
    assert {side: type(error) for side, error in run.errors.items()} == {
        "source": WrongMemory, "dest": WrongMemory
    }  # fmt: skip
