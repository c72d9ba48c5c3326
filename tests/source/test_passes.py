"""Precopy passes: one bandwidth limit over all, and what is left to send at any moment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from guest.memory import GuestMemory
from protocol import events
from protocol.geometry import Geometry, RamBlock
from source.convergence import SwitchRule
from tests.helpers import KIB, FakeGuest, fake_guest, patterned_memory
from tests.source.test_migration import Rig, make_rig

SMALL = Geometry((RamBlock("ram", 256 * KIB, 4 * KIB),))
PAGES = SMALL.target_page_count

# A pass takes as long as a burst, and half as long again.
RATE = 256 * KIB * 1000 // 30


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """64 base pages."""
    with patterned_memory(SMALL) as made:
        yield made


@pytest.fixture
def guest() -> Iterator[FakeGuest]:
    """A guest that does nothing by itself."""
    with fake_guest(SMALL) as made:
        yield made


def dirty_all(rig: Rig, guest: FakeGuest) -> None:
    """Have the guest write to all its memory in each pass, as soon as a part of it went."""
    rig.events.on(events.PAGE_SENT, lambda: guest.board.dirty.__setitem__(slice(None), 1))


async def test_the_limit_holds_over_all_passes(
    memory: GuestMemory, guest: FakeGuest, autojump_clock: MockClock
) -> None:
    """No pass begins with a burst of its own: so many passes take as long as their bytes."""
    autojump_clock.autojump_threshold = 0.03
    rule = SwitchRule(postcopy_after=8, downtime_ms_max=0)
    async with make_rig(memory, rule=rule, bandwidth=RATE) as rig:
        dirty_all(rig, guest)
        ends: list[float] = []
        rig.events.on(events.PASS_END, lambda: ends.append(trio.current_time()))
        await rig.transfer(guest)
    assert len(ends) == 8
    for count, end in enumerate(ends, 1):
        assert end >= count * SMALL.length_bytes / RATE


async def test_what_is_left_to_send_is_true_at_any_moment(
    memory: GuestMemory, guest: FakeGuest, autojump_clock: MockClock
) -> None:
    """It begins with all memory, and falls with each byte though all of it is one frame."""
    autojump_clock.autojump_threshold = 0.03
    rule = SwitchRule(postcopy_after=2, downtime_ms_max=0)
    seen: list[tuple[int, int]] = []

    async def look() -> None:
        while True:
            if hasattr(rig, "migration") and rig.migration.epochs:
                migration = rig.migration
                seen.append((migration.meter.pass_count, migration.remaining_bytes))
            await trio.sleep(0.002)

    async with make_rig(memory, rule=rule, bandwidth=RATE, chunk_bytes=256 * KIB) as rig:
        dirty_all(rig, guest)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await rig.transfer(guest)
            nursery.cancel_scope.cancel()
        assert rig.migration.remaining_bytes == 0
    for number in (0, 1):
        left = [remaining_bytes for count, remaining_bytes in seen if count == number]
        assert left == sorted(left, reverse=True)
        assert all(0 <= each <= SMALL.length_bytes for each in left)
        assert len(set(left)) > 2, "it fell all at once"
    assert seen[0] == (0, SMALL.length_bytes)
