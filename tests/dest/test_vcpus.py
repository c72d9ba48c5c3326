"""Scripted touches: strictly one after the other, each on a vCPU that has nothing else to do."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dest.vcpus import Toucher, read_touches
from guest.programs import ProgramSpec
from protocol.errors import GuestFailed, LocalProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, PageId
from tests.bounds import bounded
from tests.guests import HUGE, FakeGuest, fake_guest, small_geometry

PER_PAGE = HUGE // TARGET_PAGE_BYTES


@asynccontextmanager
async def touching(vcpu_count: int) -> AsyncIterator[tuple[Toucher, FakeGuest]]:
    """Run a toucher over a guest; the block is bounded."""
    geometry = small_geometry()
    with bounded(), fake_guest(geometry, ProgramSpec(vcpu_count=vcpu_count)) as guest:
        toucher = Toucher(geometry, guest.handle)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(toucher.run)
            yield toucher, guest
            nursery.cancel_scope.cancel()


async def test_a_page_is_touched_at_its_first_target_page() -> None:
    """A page of any block is touched by the flat number of where it begins, or of another 4 KiB."""
    async with touching(2) as (toucher, guest):
        toucher.ask(PageId(0, 3))
        await wait_all_tasks_blocked()
        toucher.faulted(0)
        toucher.ask(PageId(1, 7))
        await wait_all_tasks_blocked()
        assert guest.touches == [(0, 3 * PER_PAGE), (1, 4 * PER_PAGE + 7)]
        toucher.touched(1)
        toucher.ask(PageId(0, 2), PER_PAGE - 1)
        await wait_all_tasks_blocked()
        assert guest.touches[-1] == (1, 3 * PER_PAGE - 1)


async def test_the_next_touch_waits_until_the_one_before_has_faulted() -> None:
    """Though vCPUs are idle, no touch is made before it is known what became of the last one."""
    async with touching(3) as (toucher, guest):
        for index in range(3):
            toucher.ask(PageId(0, index))
        for done in range(1, 4):
            await wait_all_tasks_blocked()
            assert guest.touches == [(vcpu, vcpu * PER_PAGE) for vcpu in range(done)]
            toucher.faulted(done - 1)


async def test_a_touch_that_does_not_fault_lets_the_next_one_go() -> None:
    """Where the page was there already, the touch's end is what the next one waits for."""
    async with touching(1) as (toucher, guest):
        toucher.ask(PageId(0, 0))
        toucher.ask(PageId(0, 1))
        await wait_all_tasks_blocked()
        assert len(guest.touches) == 1
        assert toucher.touched(0) == PageId(0, 0)
        await wait_all_tasks_blocked()
        assert guest.touches == [(0, 0), (0, PER_PAGE)]


async def test_a_vcpu_that_waits_for_a_page_is_given_no_other() -> None:
    """With all vCPUs asleep the next touch waits for the first that wakes, whichever it is."""
    async with touching(2) as (toucher, guest):
        for index in range(4):
            toucher.ask(PageId(0, index))
        for vcpu in range(2):
            await wait_all_tasks_blocked()
            toucher.faulted(vcpu)
        await wait_all_tasks_blocked()
        assert [vcpu for vcpu, _ in guest.touches] == [0, 1]
        toucher.touched(1)
        await wait_all_tasks_blocked()
        assert [vcpu for vcpu, _ in guest.touches] == [0, 1, 1]
        # The other one's end does not let a touch go before the one under way has faulted.
        toucher.touched(0)
        await wait_all_tasks_blocked()
        assert len(guest.touches) == 3
        toucher.faulted(1)
        await wait_all_tasks_blocked()
        assert [vcpu for vcpu, _ in guest.touches] == [0, 1, 1, 0]


async def test_a_fault_of_another_vcpu_lets_nothing_go() -> None:
    """A vCPU that faults again, as after a pause, is not taken for the one that was told."""
    async with touching(3) as (toucher, guest):
        toucher.ask(PageId(0, 0))
        await wait_all_tasks_blocked()
        toucher.faulted(0)
        toucher.ask(PageId(0, 1))
        toucher.ask(PageId(0, 2))
        await wait_all_tasks_blocked()
        toucher.faulted(0)
        await wait_all_tasks_blocked()
        assert len(guest.touches) == 2
        toucher.faulted(1)
        await wait_all_tasks_blocked()
        assert len(guest.touches) == 3


async def test_a_guest_that_takes_no_orders_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with a touch is not swallowed."""

    async def touch(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise GuestFailed("the guest process died")

    monkeypatch.setattr(FakeGuest, "touch", touch)
    with bounded(), fake_guest(small_geometry()) as guest:
        toucher = Toucher(small_geometry(), guest.handle)
        toucher.ask(PageId(0, 0))
        with pytest.raises(GuestFailed):
            await toucher.run()


async def test_pages_come_out_of_a_pipe(tmp_path: Path) -> None:
    """Each line of a named pipe is a page to touch, however it is cut; its end is the end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR)
    pages: list[tuple[PageId, int]] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_touches, path, lambda *asked: pages.append(asked))
            os.write(fd, b"0 5 0\n1 ")
            await wait_all_tasks_blocked()
            os.write(fd, b"7 511\n")
            os.close(fd)
    assert pages == [(PageId(0, 5), 0), (PageId(1, 7), 511)]


async def test_a_line_that_is_no_page_is_refused(tmp_path: Path) -> None:
    """What else comes out of the pipe ends the migration with a reason, as a missing pipe does."""
    path = tmp_path / "pipe"
    with pytest.raises(LocalProtocolError, match="No such file"):
        await read_touches(path, lambda *_: None)
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR)
    os.write(fd, b"0 5 0\nfive\n")
    with trio.fail_after(10), pytest.raises(LocalProtocolError, match="five"):
        await read_touches(path, lambda *_: None)
    os.close(fd)
