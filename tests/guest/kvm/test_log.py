"""KVM's dirty log of real guests: it tells what was written, all of it, and nothing else."""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext

import numpy as np
import pytest
import trio

from guest import services
from guest.dirty_log import DirtyLog
from guest.handle import GuestHandle, open_guest
from guest.memory import GuestMemory
from guest.slices import finish
from guest.spec import KVM, ProgramSpec
from guest.states import VcpuState
from guest.trace import Trace
from protocol.errors import GuestFailed
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock
from tests.huge_pages import huge_pages
from tests.machines import needs_kvm

pytestmark = needs_kvm

HUGE = 2 << 20
GUEST = Geometry((RamBlock("ram", 48 << 20, HUGE), RamBlock("rom", 65 << 12, TARGET_PAGE_BYTES)))
PAGE_COUNT = GUEST.target_page_count

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@asynccontextmanager
async def logged(
    spec: ProgramSpec,
    service: str = services.KVM_LOG,
    backing: str = "base",
    geometry: Geometry = GUEST,
) -> AsyncIterator[tuple[GuestMemory, GuestHandle, DirtyLog]]:
    """Start a guest with a log; it stands still."""
    try:
        memory = GuestMemory.create(geometry, backing)
    except GuestFailed as error:
        pytest.skip(str(error))
    with memory:
        finish(memory.populate())
        async with open_guest(memory, spec, service) as guest:
            log, reason = guest.choose_dirty_log()
            if reason:
                pytest.skip(reason)
            yield memory, guest, log


def writes_to(pages: list[int]) -> ProgramSpec:
    """Return a program of one vCPU that writes to flat target pages, and then does nothing."""
    count = len(pages)
    trace = Trace(np.zeros(count, np.uint8), np.array(pages, np.uint64), np.ones(count, np.bool_))
    return ProgramSpec("trace", image=True, trace=trace, kind=KVM)


async def test_what_was_written_is_told_and_nothing_else(until: Until) -> None:
    """Thousands of random target pages come out as they are, the last of all too, and once."""
    random = np.random.default_rng(5)
    written = [*random.choice(PAGE_COUNT - 1, 5000, replace=False).tolist(), PAGE_COUNT - 1]
    async with logged(writes_to(written)) as (_, guest, log):
        assert log.name == "kvm"
        log.start()
        assert log.harvest().tolist() == []
        await guest.run()
        await until(lambda: guest.board.counters(0).step == len(written))
        assert log.harvest().tolist() == sorted(written)
        assert log.harvest().tolist() == []
        await guest.pause()
        log.stop()


async def test_what_was_written_before_the_start_is_forgotten(until: Until) -> None:
    """A log that is started anew begins with nothing, and misses nothing after that."""
    async with logged(writes_to([5, 9, 5, 700])) as (_, guest, log):
        for _ in range(2):
            log.start()
            await guest.load((VcpuState(0, 0),))
            await guest.run()
            await until(lambda: guest.board.counters(0).step == 4)
            await guest.pause()
        assert log.harvest().tolist() == [5, 9, 700]


async def test_nothing_is_lost_while_the_guest_writes_on() -> None:
    """What is copied after each harvest is in the end the guest's memory, byte for byte."""
    spec = ProgramSpec("uniform", 2, write_ratio=1.0, seed=11, image=True, kind=KVM)
    geometry = Geometry((RamBlock("ram", 4 << 20, HUGE), RamBlock("rom", 1 << 20, 4096)))
    async with logged(spec, geometry=geometry) as (memory, guest, log):
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
        snapshot = await guest.pause(anywhere=True)
        copy(log.harvest().tolist())
        assert [bytes(view) for view in memory.views] == copies
        assert min(counters.writes for counters in snapshot.counters) > 0


@pytest.mark.parametrize("backing", ["base", "thp", "hugetlb"])
async def test_all_logs_agree_with_the_truth(backing: str, until: Until) -> None:
    """KVM's tells 4 KiB apart whatever the memory is made of; the kernel's, hugetlb as a whole."""
    written = [3, 700, 5000]
    whole = sorted({page // 512 * 512 + each for page in written for each in range(512)})
    truth = {services.KVM_LOG: written, services.DIRTY_LOG: written}
    if backing == "hugetlb":
        truth[services.DIRTY_LOG] = whole
    geometry = Geometry((RamBlock("ram", 24 << 20, HUGE),))
    with huge_pages(geometry.page_count) if backing == "hugetlb" else nullcontext():
        for service, pages in truth.items():
            async with logged(writes_to(written), service, backing, geometry) as (_, guest, log):
                log.start()
                await guest.run()
                await until(lambda guest=guest: guest.board.counters(0).step == 3)  # type: ignore[misc]
                assert log.harvest().tolist() == pages


async def test_a_guest_that_is_gone_keeps_no_log() -> None:
    """The engine is told, and does not wait."""
    async with logged(writes_to([3])) as (_, guest, log):
        log.start()
        os.kill(guest.pid, signal.SIGKILL)
        with pytest.raises(GuestFailed, match="KVM's dirty log"):
            log.harvest()


async def test_a_guest_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that somebody has stopped holds the engine up for a bounded time."""
    monkeypatch.setattr("guest.kvm.log._ANSWER_SECONDS_MAX", 0.2)
    async with logged(writes_to([3])) as (_, guest, log):
        log.start()
        os.kill(guest.pid, signal.SIGSTOP)
        # Until all its threads are.
        os.waitid(os.P_PID, guest.pid, os.WSTOPPED | os.WNOWAIT)  # noqa: ASYNC222 - it is at once
        with pytest.raises(GuestFailed, match="no answer in"):
            log.harvest()
