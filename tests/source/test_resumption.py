"""Who comes back after a break: only the destination that was left, and what it lacks is sent."""

from __future__ import annotations

import socket

import pytest

from guest.memory import GuestMemory
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from protocol.messages import Message, PageRequest, Running, Standing, SwitchOver
from protocol.pageset import PageSet
from protocol.policy import preset
from protocol.states import Event
from source.recovery import Lacking
from source.resumption import Resumption
from source.scheduler import Scheduler
from tests.guests import FakeGuest
from tests.source.test_migration import make_rig

GEOMETRY = Geometry((RamBlock("ram", 16 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES),))


def pages(first: int, stop: int) -> PageSet:
    """Return a set of target pages."""
    found = PageSet(GEOMETRY)
    found.add(Span(0, first * TARGET_PAGE_BYTES, (stop - first) * TARGET_PAGE_BYTES))
    return found


def left(scheduler: Scheduler, unsent: PageSet) -> Resumption:
    """Return what is known after a break that left all but four target pages to miss."""
    resumption = Resumption(GEOMETRY, preset("ordered"), scheduler)
    resumption.hand_over(pages(4, 16))
    scheduler.add(unsent, postcopy=True)
    return resumption


def new_scheduler() -> Scheduler:
    """Return a scheduler with nothing to send."""
    return Scheduler(GEOMETRY, preset("ordered"), TARGET_PAGE_BYTES)


def standing_of(missing: PageSet, *, running: bool = True) -> tuple[Standing, Lacking]:
    """Return what a destination says that lacks some pages, and none in part."""
    standing = Standing(running=running, target_pages=len(missing), dropped_bytes=0)
    return standing, Lacking(missing, {})


@pytest.mark.parametrize("seen", ["running", "asking", "nothing"])
async def test_who_says_that_no_guest_runs_there(
    memory: GuestMemory, guest: FakeGuest, seen: str
) -> None:
    """A destination that was seen to run the guest is not one that does not.

    Where nothing was seen the guest is handed over anew, if need be to a stranger; the one that was
    left is known again all the same, though it holds what went before that.
    """
    nothing = standing_of(PageSet(memory.geometry), running=False)
    async with make_rig(memory) as rig:

        async def break_off(_: Message) -> None:
            if seen == "running":
                await rig.dest.main.send(Running())
            if seen == "asking":
                await rig.dest.main.send(PageRequest(block=1, page=3, target_page=0))
            rig.dest.main.sock.shutdown(socket.SHUT_WR)

        rig.dest.instead[SwitchOver] = break_off
        assert isinstance(await rig.fail(guest), ConnectionLost)
        rig.lifecycle.interrupt()
        if seen != "nothing":
            with pytest.raises(RemoteProtocolError, match="ran the guest and says that it does no"):
                rig.migration.resumption.check(*nothing)
            return
        rig.migration.resumption.check(*nothing)
        rig.lifecycle.fire(Event.RECONNECTED)
        with pytest.raises(ExceptionGroup):
            await rig.resume(*nothing)
        missing = PageSet(memory.geometry)
        missing.fill()
        missing.remove(memory.geometry.span_of(1, range(5)))
        rig.migration.resumption.check(*standing_of(missing))


def test_what_it_lacks_is_what_goes_then() -> None:
    """What is missing there is to be sent, and what of it had gone is counted as lost."""
    scheduler = new_scheduler()
    resumption = left(scheduler, pages(10, 16))
    standing, _ = standing_of(pages(7, 16))
    lacking = Lacking(pages(7, 16), {(0, 8): 96})
    resumption.check(standing, lacking)
    assert scheduler.counts.lost_bytes == 0
    resumption.take(standing, lacking)
    assert resumption.runs_there
    assert scheduler.counts.lost_bytes == 3 * TARGET_PAGE_BYTES - 96
    assert resumption.rest_bytes == TARGET_PAGE_BYTES - 96
    assert scheduler.remaining_bytes == 8 * TARGET_PAGE_BYTES


def test_dropped_bytes_are_counted_once() -> None:
    """A destination says what it dropped since its beginning, and never less than before."""
    scheduler = new_scheduler()
    resumption = left(scheduler, pages(4, 16))
    lacking = Lacking(pages(4, 16), {})
    for dropped_bytes in (100, 100, 250):
        standing = Standing(running=True, target_pages=12, dropped_bytes=dropped_bytes)
        resumption.check(standing, lacking)
        resumption.take(standing, lacking)
        assert scheduler.counts.resent_bytes == dropped_bytes
    standing = Standing(running=True, target_pages=12, dropped_bytes=249)
    with pytest.raises(RemoteProtocolError, match="takes back what it dropped"):
        resumption.check(standing, lacking)


def test_a_hand_over_anew_may_find_more_there() -> None:
    """Only where the guest was handed over again can more be there than is known to have gone."""
    more = standing_of(pages(12, 16))
    resumption = left(new_scheduler(), pages(10, 16))
    with pytest.raises(RemoteProtocolError, match="said to be there that never went"):
        resumption.check(*more)
    scheduler = new_scheduler()
    resumption = left(scheduler, pages(10, 16))
    resumption.hand_over_again()
    assert scheduler.remaining_bytes == 0
    scheduler.add(pages(4, 16), postcopy=True)
    resumption.check(*more)
    resumption.take(*more)
    assert scheduler.remaining_bytes == 4 * TARGET_PAGE_BYTES
