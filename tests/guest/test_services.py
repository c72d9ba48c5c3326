"""A guest process sets the kernel up and hands its engine what is needed, or says why not."""

import fcntl
import os
import signal

import numpy as np
import pytest
import trio

from guest import abi, services
from guest.handle import GuestHandle, open_guest
from guest.mapping import GuestMapping
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from protocol.errors import GuestFailed
from tests.bounds import open_files

SCRIPTED = ProgramSpec("scripted", 2, seed=7)


def skip_without(guest: GuestHandle) -> None:
    """Skip a test where the kernel does not do what it is about."""
    if guest.service.reason:
        pytest.skip(guest.service.reason)


async def test_nothing_is_set_up_unless_asked_for(memory: GuestMemory) -> None:
    """A guest that looks at the board has no userfaultfd; its addresses and threads are told."""
    async with open_guest(memory, SCRIPTED) as guest:
        service = guest.service
        assert (service.name, service.reason, service.userfaultfd) == (services.NONE, "", None)
        assert len(service.addresses) == 2
        for thread_id in service.thread_ids:
            assert await trio.Path(f"/proc/{guest.pid}/task/{thread_id}").exists()


async def test_a_stopped_vcpu_is_told_and_let_go(memory: GuestMemory) -> None:
    """The engine hears of a touch in the other process, by thread, and maps the page there."""
    async with open_guest(memory, SCRIPTED, services.USERFAULT) as guest:
        skip_without(guest)
        faults = guest.service.userfaultfd
        assert faults is not None
        address = guest.service.addresses[1] + 2 * 4096
        with trio.fail_after(10):
            await guest.discard([(address, 4096)])
            await guest.run()
            await guest.touch(1, 1026)
            await trio.lowlevel.wait_readable(faults.fd)
            (fault,) = faults.read_faults()
            assert (fault.address & -4096, fault.thread_id) == (
                address,
                guest.service.thread_ids[1],
            )
            faults.map_pages(address, 4096, 4096)
            await guest.receive()
            assert (await guest.pause()).counters[1].reads_checked == 1


async def test_written_pages_are_marked(memory: GuestMemory) -> None:
    """Through the pagemap that was passed the engine finds what the guest has written to."""
    async with open_guest(memory, ProgramSpec("sequential", 1, (500.0,), 1.0, 7), services.DIRTY_LOG
    ) as guest:  # fmt: skip
        skip_without(guest)
        protection = guest.service.userfaultfd
        assert protection is not None
        lengths = [block.length_bytes for block in memory.geometry.blocks]
        for address, length in zip(guest.service.addresses, lengths, strict=True):
            protection.write_protect(address, length)
        guest.board.set_present(slice(None))
        await guest.run()
        with trio.fail_after(10):
            while guest.board.counters(0).step < 5:  # noqa: ASYNC110 (another process's doing)
                await trio.sleep(0.001)
        await guest.pause()
        first = guest.service.addresses[0]
        regions = np.zeros((8, 3), np.uint64)
        scan = abi.PM_SCAN_ARG_STRUCT.pack(
            abi.PM_SCAN_ARG_STRUCT.size, 0, first, first + lengths[0], 0, regions.ctypes.data,
            len(regions), 0, 0, abi.PAGE_IS_WRITTEN, 0, abi.PAGE_IS_WRITTEN,
        )  # fmt: skip
        found = fcntl.ioctl(guest.service.pagemap_fd, abi.PAGEMAP_SCAN, bytearray(scan))
        written = guest.board.harvest_dirty()
        assert found == 1
        assert ((regions[0, :2] - first) // 4096).tolist() == [0, len(written)]


async def test_a_service_that_cannot_be_had_is_explained(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """The guest runs without it, and the engine has the reason in one line."""
    monkeypatch.setitem(services._FEATURES, services.USERFAULT, 1 << 60)
    mapping = GuestMapping.attach(memory.geometry, tuple(os.dup(fd) for fd in memory.fds))
    with services.provided(services.USERFAULT, mapping, memory.kinds) as (reason, fds):
        assert "lacks" in reason
        assert fds == []
    granted = services.Service.of_answer(services.NONE, reason, mapping.addresses, (1,), ())
    assert (granted.name, granted.reason) == (services.NONE, reason)
    granted.close()
    mapping.detach()


@pytest.mark.parametrize("service", [services.USERFAULT, services.DIRTY_LOG])
async def test_nothing_stays_open(memory: GuestMemory, service: str) -> None:
    """With the guest its userfaultfd and pagemap are gone."""
    before = open_files()
    async with open_guest(memory, SCRIPTED, service) as guest:
        skip_without(guest)
    del guest
    assert open_files() - before == set()


async def test_a_guest_that_is_gone_takes_no_pages(memory: GuestMemory) -> None:
    """Mapping a page of a process that was killed is that process's failure."""
    async with open_guest(memory, SCRIPTED, services.USERFAULT) as guest:
        skip_without(guest)
        os.kill(guest.pid, signal.SIGKILL)
        with pytest.raises(GuestFailed, match="SIGKILL"):
            await guest.receive()
        assert guest.service.userfaultfd is not None
        with pytest.raises(GuestFailed, match="gone"):
            guest.service.userfaultfd.map_pages(guest.service.addresses[0], 4096, 4096)
        with pytest.raises(GuestFailed, match="gone"):
            guest.service.userfaultfd.unregister(guest.service.addresses[0], 4096)
