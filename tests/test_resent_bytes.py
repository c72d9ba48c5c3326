"""Counted on the wire: what a destination held when all broke does not go again.

A cut lets pass what went before it, so the proxy knows to the byte what has arrived.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import trio

from guest.programs import ProgramSpec
from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from protocol.messages import PageData, PageRest, Resume
from protocol.policy import preset
from scripts.injection.actions import NetworkAction
from scripts.injection.marks import Direction, Mark, Marks
from scripts.injection.proxy import Proxy
from source.convergence import SwitchRule
from tests.bounds import bounded, nothing_left
from tests.breaking import Breaking, Place, PlacedMarks
from tests.guests import HUGE, KIB, SEED

GEOMETRY = Geometry((RamBlock("ram", 2 * HUGE, HUGE), RamBlock("rom", 32 * 4 * KIB, 4 * KIB)))
TOUCH = (700, 1030)
SPEC = ProgramSpec(seed=SEED, vcpu_count=len(TOUCH))
RULE = SwitchRule(postcopy_after=0, downtime_ms_max=0)
CUT = NetworkAction("cut", (Channel.PRECOPY,))


class Counter:
    """Counts how often each byte of the guest has passed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Listen to all that pass places from now on."""
        self.times = [np.zeros(block.length_bytes, np.uint8) for block in GEOMETRY.blocks]
        # Behind a cut nothing arrives, until the source is back.
        self._is_cut = False
        passed, act, look = Marks.page_passed, Proxy.act, PlacedMarks.look

        def cut(proxy: Proxy, action: NetworkAction) -> None:
            self._is_cut = True
            act(proxy, action)

        def hear(marks: PlacedMarks, *said: Any) -> list[Mark]:  # noqa: ANN401 - as it is
            self._is_cut = self._is_cut and not isinstance(said[2], Resume)
            return look(marks, *said)

        def count(marks: Marks, channel: Channel, span: Span, now_ns: int) -> list[Mark]:
            if not self._is_cut:
                self.times[span.block][span.offset : span.end] += 1
            return passed(marks, channel, span, now_ns)

        # Not of what has only come to the proxy: that is followed by marks of another kind.
        monkeypatch.setattr(PlacedMarks, "page_passed", count)
        monkeypatch.setattr(Proxy, "act", cut)
        monkeypatch.setattr(PlacedMarks, "look", hear)

    def again(self) -> dict[int, list[tuple[int, int]]]:
        """Return what passed more than once: by block, (target page, how many of its bytes)."""
        found = {}
        for number, times in enumerate(self.times):
            counts = (times.reshape(-1, TARGET_PAGE_BYTES) > 1).sum(axis=1)
            pages = np.flatnonzero(counts)
            found[number] = list(zip(pages.tolist(), counts[pages].tolist(), strict=True))
        return found


@pytest.mark.parametrize("behind", [1, 3 * 4096 + 100, 65535])
@pytest.mark.parametrize("nth", [2, 40])
async def test_what_is_held_does_not_go_again(
    breaking: Breaking, monkeypatch: pytest.MonkeyPatch, nth: int, behind: int
) -> None:
    """Of a page cut at any byte none that had come goes again."""
    counter = Counter(monkeypatch)
    place = Place(Channel.PRECOPY, Direction.FORWARD, PageData, nth, behind)
    await trio.to_thread.run_sync(int)
    with nothing_left(), bounded(30):
        run = await breaking.run(
            GEOMETRY, {place: CUT}, policy=preset("vanilla"), rule=RULE, spec=SPEC
        )
    assert not run.errors
    assert not run.unreached
    assert not any(counter.again().values())
    assert run.reports["source"]["midstream"]["bytes-sent-twice"] == 0
    assert all(times.all() for times in counter.times)


async def test_nothing_goes_again_of_a_rest(
    breaking: Breaking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a target page may be cut off in its turn, and goes on from there."""
    counter = Counter(monkeypatch)
    first = Place(Channel.PRECOPY, Direction.FORWARD, PageData, 5, 1000)
    again = [Place(Channel.PRECOPY, Direction.FORWARD, PageRest, nth, 700) for nth in (1, 2)]
    await trio.to_thread.run_sync(int)
    with nothing_left(), bounded(30):
        run = await breaking.run(
            GEOMETRY, dict.fromkeys((first, *again), CUT), policy=preset("vanilla"), rule=RULE,
            spec=SPEC,
        )  # fmt: skip
    assert not run.errors
    assert not run.unreached
    assert not any(counter.again().values())
    assert run.reports["source"]["midstream"]["recoveries"] == 3
    assert all(times.all() for times in counter.times)


async def test_nothing_goes_again_over_two_channels(
    breaking: Breaking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Urgent and half-sent pages go on where they stopped, three breaks in a row.

    Nothing is overtaken, which would go again for that.
    """
    counter = Counter(monkeypatch)
    urgent = Place(Channel.POSTCOPY, Direction.FORWARD, PageData, 3, 5000, urgent=True)
    others = [Place(Channel.PRECOPY, Direction.FORWARD, PageData, nth, 9000) for nth in (30, 40)]
    both = NetworkAction("cut", tuple(Channel))
    await trio.to_thread.run_sync(int)
    with nothing_left(), bounded(30):
        run = await breaking.run(
            GEOMETRY, dict.fromkeys((urgent, *others), both), touch=TOUCH,
            policy=replace(preset("critical-first"), overtakes=False), rule=RULE, spec=SPEC,
            chunk_bytes=16 * KIB,
            postcopy_bandwidth=32 << 20,
        )  # fmt: skip
    assert not run.errors
    assert not any(counter.again().values())
    report = run.reports["source"]["midstream"]
    assert report["recoveries"] == 3 - len(run.unreached)
    assert report["bytes-sent-twice"] == 0
