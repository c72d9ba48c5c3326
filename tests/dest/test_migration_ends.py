"""What ends a destination's migration: a source that goes, or waits, or a guest that dies."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from guest.interface import GuestEvent
from protocol.errors import ConnectionLost, GuestFailed, PeerAborted
from protocol.geometry import TARGET_PAGE_BYTES, PageId
from protocol.messages import Abort, Account, End, Finished, Running
from tests.dest_migrations import PRE, Lie, make_rig
from tests.sides import HandSource


async def test_the_last_to_wake_is_counted() -> None:
    """A vCPU that waited for the very last page is in the figures, though it says so late."""
    async with make_rig() as rig:
        source = rig.source
        rig.guest.drowsy = True
        await source.start_postcopy()
        await source.main.expect(Running)
        rig.guest.fault(0, 0)
        await source.send_rest()
        await source.end()
        await source.main.skip_to(Finished)
        await wait_all_tasks_blocked()
        rig.guest.say_awake()
        message, payload = await source.main.receive()
        assert isinstance(message, Account)
        assert payload
        source.close()
    assert rig.migration.hosted.engine.waits.latencies.faults.count == 1


async def test_a_vcpu_that_never_wakes_is_not_waited_for(mock_clock: MockClock) -> None:
    """Who does not say that it runs again holds up the account for a second at most."""
    async with make_rig() as rig:
        source = rig.source
        rig.guest.drowsy = True
        await source.start_postcopy()
        await source.main.expect(Running)
        rig.guest.fault(0, 0)
        await source.send_rest()
        await source.end()
        await source.main.skip_to(Finished)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.main.expect, Account)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            mock_clock.jump(1)
        source.close()


async def vanish_in_precopy(source: HandSource) -> None:
    """Go while the guest is the source's."""
    await source.send_page(PRE, PageId(0, 0))


async def vanish_in_postcopy(source: HandSource) -> None:
    """Go with pages missing."""
    await source.start_postcopy()
    await source.send_page(PRE, PageId(0, 0))


async def vanish_after_the_last_page(source: HandSource) -> None:
    """Go when everything was sent, without the End."""
    await source.start_postcopy()
    await source.send_rest()


async def vanish_between_the_ends(source: HandSource) -> None:
    """Go with one channel ended."""
    await source.start_postcopy()
    await source.send_rest()
    count = source.geometry.target_page_count
    await source.main.send(End(target_pages=count, data_bytes=count * TARGET_PAGE_BYTES))


async def vanish_before_the_verdict(source: HandSource) -> None:
    """Go when the account is due to be compared."""
    await source.start_postcopy()
    await source.send_rest()
    await source.end()
    await source.hear_account()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "before",
    [
        vanish_in_precopy,
        vanish_in_postcopy,
        vanish_after_the_last_page,
        vanish_between_the_ends,
        vanish_before_the_verdict,
    ],
)
async def test_a_source_that_vanishes_is_a_lost_connection(before: Lie, how: str) -> None:
    """An end of file, or a reset, is never success, however much has come."""
    async with make_rig() as rig:
        await before(rig.source)
        for peer in rig.source.peers.values():
            getattr(peer, how)()
    assert isinstance(rig.cause, ConnectionLost), repr(rig.cause)


async def test_one_lost_connection_is_enough() -> None:
    """With the postcopy connection gone the migration is over, though the other one lives."""
    async with make_rig() as rig:
        await rig.source.start_postcopy()
        rig.source.second.close()
    assert isinstance(rig.cause, ConnectionLost)
    assert "postcopy connection" in str(rig.cause)


async def test_an_abort_is_the_sources_word() -> None:
    """A reason that comes with the end is kept, though both connections end at once."""
    async with make_rig() as rig:
        await rig.source.start_postcopy()
        await rig.source.main.send(Abort(reason="cancelled by its user", cancelled=True))
        await wait_all_tasks_blocked()
        rig.source.close()
    assert isinstance(rig.cause, PeerAborted)


async def test_a_source_that_does_not_close_is_not_waited_for(mock_clock: MockClock) -> None:
    """After Bye the destination waits a moment for the source to close first, and no longer."""
    async with make_rig() as rig:
        source = rig.source
        await source.start_postcopy()
        await source.send_rest()
        await source.end()
        await source.hear_account()
        await source.say_verdict()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.main.wait_closed)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            mock_clock.jump(2)
    assert rig.cause is None


async def test_a_guest_that_dies_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the vCPUs' process is gone there is nothing to migrate."""

    async def receive() -> GuestEvent:
        await trio.lowlevel.checkpoint()
        raise GuestFailed("the guest process was killed by SIGKILL")

    async with make_rig() as rig:
        monkeypatch.setattr(rig.guest, "receive", receive)
        rig.guest.fault(0, 0)
        await rig.source.main.wait_closed()
    assert isinstance(rig.cause, GuestFailed)
