"""Precopy passes: one bandwidth limit over all, and what is left to send at any moment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from guest.memory import GuestMemory
from protocol import events
from protocol.channels import Channel
from protocol.errors import GaveUp
from protocol.geometry import Geometry, RamBlock
from protocol.messages import Message, PassEnd
from source.convergence import SwitchRule
from source.passes import FRAME_SECONDS_MAX
from tests.guests import KIB, FakeGuest, bytes_of, fake_guest, patterned_memory
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
    rig.events.on(events.PageSent, lambda: guest.board.dirty.__setitem__(slice(None), 1))


async def test_the_limit_holds_over_all_passes(
    memory: GuestMemory, guest: FakeGuest, autojump_clock: MockClock
) -> None:
    """No pass begins with a burst of its own: so many passes take as long as their bytes."""
    autojump_clock.autojump_threshold = 0.03
    rule = SwitchRule(postcopy_after=8, downtime_ms_max=0)
    async with make_rig(memory, rule=rule, bandwidth=RATE) as rig:
        dirty_all(rig, guest)
        ends: list[float] = []
        rig.events.on(events.PassEnd, lambda: ends.append(trio.current_time()))
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


async def test_a_switch_over_by_hand_ends_a_pass(
    memory: GuestMemory, guest: FakeGuest, autojump_clock: MockClock
) -> None:
    """It ends between two frames; what it did not send, and all that is dirty, is postcopy's."""
    autojump_clock.autojump_threshold = 0.03
    rule = SwitchRule(postcopy_after=None, downtime_ms_max=0)
    # At this rate a pass takes a minute, and a frame the longest that one may take.
    slow = SMALL.length_bytes // 60
    async with make_rig(memory, rule=rule, bandwidth=slow, chunk_bytes=256 * KIB) as rig:
        sent: list[int] = []

        def order() -> None:
            if not sent:
                rig.steering.convergence.order()
            sent.append(rig.migration.scheduler.remaining_bytes)

        rig.events.on(events.PageSent, order)
        await rig.transfer(guest)
        assert bytes_of(rig.dest.memory) == bytes_of(memory)
    # One frame went before the switch-over, and was not the whole pass.
    assert rig.dest.heard_types(Channel.PRECOPY)[:4] == [
        "Setup", "PageData", "Discard", "SwitchOver",
    ]  # fmt: skip
    assert sent[0] == SMALL.length_bytes - 64 * KIB
    assert rig.migration.meter.pass_count == 0
    assert rig.migration.switch_over_reason == "switch-over"
    assert rig.dest.finished().target_pages == PAGES


async def test_a_new_limit_holds_at_once(
    memory: GuestMemory, guest: FakeGuest, autojump_clock: MockClock
) -> None:
    """What waits for its bandwidth does not wait at the old one; and the limit may be lifted."""
    autojump_clock.autojump_threshold = 0.03
    rule = SwitchRule(postcopy_after=1, downtime_ms_max=0)
    # A frame takes an hour.
    async with make_rig(
        memory, seconds=1e6, rule=rule, bandwidth=64 * KIB // 3600, chunk_bytes=64 * KIB
    ) as rig:

        async def lift() -> None:
            await trio.sleep(10)
            await rig.steering.set_limits("max-bandwidth=0")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lift)
            await rig.transfer(guest)
        assert trio.current_time() < 100


async def test_what_cannot_be_sent_is_given_up_all_the_same(
    memory: GuestMemory, guest: FakeGuest, autojump_clock: MockClock
) -> None:
    """A frame that takes for ever is not waited for when the time is over, nor is a word."""
    autojump_clock.autojump_threshold = 0.03
    rule = SwitchRule(None, downtime_ms_max=0, give_up_after_seconds=20)
    async with make_rig(memory, seconds=1e6, rule=rule, bandwidth=1) as rig:
        error = await rig.fail(guest)
        assert isinstance(error, GaveUp)
        assert 20 <= trio.current_time() <= 20 + FRAME_SECONDS_MAX + 1

    async def say_nothing(_: Message) -> None:
        await trio.sleep_forever()

    async with make_rig(memory, seconds=1e6, rule=rule) as rig:
        rig.dest.instead[PassEnd] = say_nothing
        error = await rig.fail(guest)
        assert isinstance(error, GaveUp)
        assert rig.migration.guest_side == "source"
        assert guest.calls == []


async def test_passes_that_stop_shrinking_are_said(memory: GuestMemory, guest: FakeGuest) -> None:
    """The user and the events hear of the first pass that leaves as much dirty, if one follows."""
    for passes, lines_said in ((1, 0), (4, 1)):
        rule = SwitchRule(postcopy_after=passes, downtime_ms_max=0)
        async with make_rig(memory, rule=rule) as rig:
            dirty_all(rig, guest)
            lines: list[str] = []
            rig.steering.warn = lines.append
            await rig.transfer(guest)
        assert len(lines) == lines_said
        assert len(rig.events.of(events.NotConverging)) == lines_said
