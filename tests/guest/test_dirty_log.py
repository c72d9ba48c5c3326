"""The dirty log, the kernel's and the software's, of real guest processes that write."""

from collections.abc import Awaitable, Callable

import numpy as np
import pytest
import trio

from guest import services
from guest.handle import open_guest
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from guest.states import VcpuState
from protocol.errors import GuestFailed
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock
from tests.logs import HUGE, LOGS, PAGE_COUNT, logged, writes_to

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@LOGS
async def test_what_was_written_is_told_and_nothing_else(
    name: str, kind: str, until: Until
) -> None:
    """Thousands of random target pages come out as they are, the last of all too, and once."""
    random = np.random.default_rng(5)
    written = [*random.choice(PAGE_COUNT - 1, 10_000, replace=False).tolist(), PAGE_COUNT - 1]
    async with logged(name, writes_to(written, kind)) as (_, guest, log):
        log.start()
        assert log.harvest().tolist() == []
        await guest.run()
        await until(lambda: guest.board.counters(0).step == len(written))
        assert log.harvest().tolist() == sorted(written)
        assert log.harvest().tolist() == []
        # The vCPU need not mark what the kernel marks, or KVM.
        assert bool(guest.board.dirty.any()) is False
        await guest.pause()
        log.stop()


@LOGS
async def test_what_was_written_before_the_start_is_forgotten(
    name: str, kind: str, until: Until
) -> None:
    """A log that is started anew begins with nothing, and misses nothing after that."""
    async with logged(name, writes_to([5, 9, 5, 700], kind)) as (_, guest, log):
        for _ in range(2):
            log.start()
            await guest.load((VcpuState(0, 0),))
            await guest.run()
            await until(lambda: guest.board.counters(0).step == 4)
            await guest.pause()
        assert log.harvest().tolist() == [5, 9, 700]


@LOGS
async def test_nothing_is_lost_while_the_guest_writes_on(name: str, kind: str) -> None:
    """What is copied after each harvest is in the end the guest's memory, byte for byte."""
    spec = ProgramSpec("uniform", 2, write_ratio=1.0, seed=11, image=True, kind=kind)
    geometry = Geometry((RamBlock("ram", 4 << 20, HUGE), RamBlock("rom", 1 << 20, 4096)))
    async with logged(name, spec, geometry=geometry) as (memory, guest, log):
        log.start()
        await guest.run()
        copies = [bytearray(view) for view in memory.views]

        def copy(flat_pages: list[int]) -> None:
            for flat in flat_pages:
                block, page = geometry.locate(flat)
                part = slice(page * TARGET_PAGE_BYTES, (page + 1) * TARGET_PAGE_BYTES)
                copies[block][part] = memory.views[block][part]

        harvests = 0
        while harvests < 30 or min(guest.counters(vcpu).writes for vcpu in range(2)) <= 1000:
            copy(log.harvest().tolist())
            await trio.sleep(0.002)
            harvests += 1
        # In the midst of an access, where a guest can be stopped there.
        await guest.pause(anywhere=True)
        copy(log.harvest().tolist())
        assert [bytes(view) for view in memory.views] == copies


@LOGS
@pytest.mark.parametrize("backing", ["base", "thp", "hugetlb"])
async def test_all_logs_agree_with_the_truth(
    name: str, kind: str, backing: str, until: Until
) -> None:
    """They tell 4 KiB apart whatever memory is made of; the kernel's alone, hugetlb as a whole."""
    written = [3, 700, 5000]
    whole = sorted(page // 512 * 512 + each for page in written for each in range(512))
    geometry = Geometry((RamBlock("ram", 24 << 20, HUGE),))
    async with logged(name, writes_to(written, kind), backing, geometry) as (_, guest, log):
        log.start()
        await guest.run()
        await until(lambda: guest.board.counters(0).step == len(written))
        is_whole = name == "kernel" and backing == "hugetlb"
        assert log.harvest().tolist() == (whole if is_whole else written)


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
