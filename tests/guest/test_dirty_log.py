"""The dirty log, the kernel's and the software's, of real guest processes that write."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
import trio

from guest import services
from guest.dirty_log import DirtyLog
from guest.handle import GuestHandle, open_guest
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from guest.slices import finish
from guest.trace import Trace
from protocol.errors import GuestFailed
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock
from tests.huge_pages import huge_pages

HUGE = 2 << 20
GUEST = Geometry((RamBlock("ram", 48 << 20, HUGE), RamBlock("rom", 16 << 20, TARGET_PAGE_BYTES)))
PAGE_COUNT = GUEST.target_page_count

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@asynccontextmanager
async def logged(
    kind: str, spec: ProgramSpec, backing: str = "base", geometry: Geometry = GUEST
) -> AsyncIterator[tuple[GuestMemory, GuestHandle, DirtyLog]]:
    """Start a guest with a log of a kind; it may touch everything, and stands still."""
    service = services.DIRTY_LOG if kind == "kernel" else services.NONE
    with GuestMemory.create(geometry, backing) as memory:
        finish(memory.populate())
        async with open_guest(memory, spec, service) as guest:
            log, reason = guest.choose_dirty_log()
            if reason:
                pytest.skip(reason)
            assert log.name == kind
            guest.board.set_present(slice(None))
            yield memory, guest, log


def writes_to(pages: list[int]) -> ProgramSpec:
    """Return a program of one vCPU that writes to flat target pages, and then does nothing."""
    count = len(pages)
    trace = Trace(np.zeros(count, np.uint8), np.array(pages, np.uint64), np.ones(count, np.bool_))
    # What lies there at first is nobody's business here.
    return ProgramSpec("trace", image=True, trace=trace)


KINDS = pytest.mark.parametrize("kind", ["kernel", "software"])


@KINDS
async def test_what_was_written_is_told_and_nothing_else(kind: str, until: Until) -> None:
    """Ten thousand random target pages come out as they are, and are told of once."""
    written = np.random.default_rng(5).choice(PAGE_COUNT, 10_000, replace=False).tolist()
    async with logged(kind, writes_to(written)) as (_, guest, log):
        log.start()
        assert log.harvest().tolist() == []
        await guest.run()
        await until(lambda: guest.board.counters(0).step == len(written))
        assert log.harvest().tolist() == sorted(written)
        assert log.harvest().tolist() == []
        # The vCPU need not mark what the kernel marks.
        assert bool(guest.board.dirty.any()) is False
        await guest.pause()
        log.stop()


@KINDS
async def test_what_was_written_before_the_start_is_forgotten(kind: str, until: Until) -> None:
    """A log that is started anew begins with nothing, and misses nothing after that."""
    async with logged(kind, writes_to([5, 9, 5, 700])) as (_, guest, log):
        for _ in range(2):
            log.start()
            guest.board.vcpu_words[0, 0] = 0
            await guest.run()
            await until(lambda: guest.board.counters(0).step == 4)
            await guest.pause()
        assert log.harvest().tolist() == [5, 9, 700]


@KINDS
async def test_nothing_is_lost_while_the_guest_writes_on(kind: str) -> None:
    """What is copied after each harvest is in the end the guest's memory, byte for byte."""
    spec = ProgramSpec("uniform", 2, write_ratio=1.0, seed=11, image=True)
    geometry = Geometry((RamBlock("ram", 4 << 20, HUGE), RamBlock("rom", 1 << 20, 4096)))
    async with logged(kind, spec, geometry=geometry) as (memory, guest, log):
        log.start()
        await guest.run()
        copies = [bytearray(view) for view in memory.views]

        def copy(flat_pages: list[int]) -> None:
            for flat in flat_pages:
                block, page = geometry.locate(flat)
                part = slice(page * TARGET_PAGE_BYTES, (page + 1) * TARGET_PAGE_BYTES)
                copies[block][part] = memory.views[block][part]

        for _ in range(30):
            copy(log.harvest().tolist())
            await trio.sleep(0.002)
        snapshot = await guest.pause()
        copy(log.harvest().tolist())
        assert [bytes(view) for view in memory.views] == copies
        assert min(counters.writes for counters in snapshot.counters) > 1000


async def test_more_stretches_than_one_answer_holds(
    monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """Where the kernel has more to tell than there is room for, it is asked on from there."""
    monkeypatch.setattr("guest.dirty_log._REGION_COUNT", 7)
    written = [*range(1, 400, 2), PAGE_COUNT - 1]
    async with logged("kernel", writes_to(written)) as (_, guest, log):
        log.start()
        await guest.run()
        await until(lambda: guest.board.counters(0).step == len(written))
        assert log.harvest().tolist() == written
        assert log.harvest().tolist() == []


async def test_after_the_stop_writing_costs_nothing(until: Until) -> None:
    """A guest that goes on is no longer protected: to the kernel all of it is written."""
    async with logged("kernel", writes_to([3, 4])) as (_, guest, log):
        log.start()
        log.stop()
        assert len(log.harvest()) == PAGE_COUNT
        await guest.run()
        await until(lambda: guest.board.counters(0).step == 2)


async def test_a_huge_page_set_aside_is_dirty_as_a_whole(until: Until) -> None:
    """Hugetlb memory is told of page by page, not by 4 KiB."""
    with huge_pages(GUEST.blocks[0].page_count):
        async with logged("kernel", writes_to([700]), "hugetlb") as (_, guest, log):
            log.start()
            await guest.run()
            await until(lambda: guest.board.counters(0).step == 1)
            assert log.harvest().tolist() == list(range(512, 1024))


async def test_transparent_huge_pages_are_told_of_by_4_kib(until: Until) -> None:
    """The kernel splits what it maps, so that a write to 4 KiB makes no more of them dirty."""
    try:
        GuestMemory.create(GUEST, "thp").close()
    except GuestFailed as error:
        pytest.skip(str(error))
    async with logged("kernel", writes_to([700, 3]), "thp") as (_, guest, log):
        log.start()
        await guest.run()
        await until(lambda: guest.board.counters(0).step == 2)
        assert log.harvest().tolist() == [3, 700]


async def test_without_the_kernels_help_vcpus_mark(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """Where the scan is refused the log is the software's, with the reason, and misses nothing."""
    monkeypatch.setattr("guest.abi.PAGEMAP_SCAN", 0xC0606611)
    async with open_guest(memory, writes_to([3, 1030]), services.DIRTY_LOG) as guest:
        log, reason = guest.choose_dirty_log()
        assert log.name == "software"
        if guest.service.name == services.DIRTY_LOG:
            assert reason.startswith("PAGEMAP_SCAN: ")
        else:
            assert reason == guest.service.reason
        guest.board.set_present(slice(None))
        log.start()
        await guest.run()
        await until(lambda: guest.board.counters(0).step == 2)
        assert log.harvest().tolist() == [3, 1030]


async def test_a_scan_that_fails_ends_the_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot tell any more is an error with a reason, not an empty harvest."""
    async with logged("kernel", writes_to([3])) as (_, _guest, log):
        log.start()
        monkeypatch.setattr("guest.abi.PAGEMAP_SCAN", 0xC0606611)
        with pytest.raises(GuestFailed, match="PAGEMAP_SCAN"):
            log.harvest()
