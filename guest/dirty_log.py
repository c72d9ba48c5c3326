"""Which target pages a guest has written to since it was last asked: the dirty log.

Three kinds, chosen once for a guest, before it runs:

    kvm         KVM notes what the vCPUs of a virtual machine write to (guest/kvm/log.py)
    kernel      the guest mapping is write-protected (userfaultfd, UFFD_FEATURE_WP_ASYNC): the first
                write to a page takes the protection away, without a word to anybody, and the
                PAGEMAP_SCAN ioctl tells of the pages that have lost it and protects them again, in
                one go (Documentation/admin-guide/mm/pagemap.rst, since Linux 6.7)
    software    vCPUs mark what they have written on the board (guest/board.py)

The kernel tells pages of 4 KiB apart, also where transparent huge pages back them.  A hugetlb page
is dirty as a whole.
"""

from __future__ import annotations

import fcntl
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from guest import abi, services
from guest.board import Board
from guest.services import Service
from protocol.errors import GuestFailed
from protocol.geometry import TARGET_PAGE_BYTES, Geometry

# How many dirty stretches one call may tell of: 384 KiB of room for the answer.  Where there are
# more of them the next call goes on behind the last.
_REGION_COUNT = 16 * 1024

_NOTHING = np.empty(0, dtype=np.int64)


class DirtyLog(Protocol):
    """Call `start` before the guest's memory is first read, and `harvest` from then on.

    A page's bytes may be read when the harvest that tells of it has returned: what is written to it
    after that is told of by the next one.
    """

    name: str

    def start(self) -> None:
        """Forget all that was written so far."""

    def harvest(self) -> NDArray[np.int64]:
        """Return the flat target pages written to since the last harvest, or `start`; ascending.

        Raises:
            GuestFailed: The kernel does not tell any more.
        """

    def stop(self) -> None:
        """Leave the guest alone: from now on writing costs it nothing."""


def choose_dirty_log(board: Board, service: Service, geometry: Geometry) -> tuple[DirtyLog, str]:
    """Return the kernel's log if the guest has one that works, else the software's, and why.

    Call it before the guest runs.

    Args:
        board: The guest's.
        service: What its process was asked for: DIRTY_LOG, or something else for the software's.
        geometry: Its blocks.
    """
    software = SoftwareDirtyLog(board)
    if service.name == services.KVM_LOG:
        # Imported late: only a virtual machine has it.
        from guest.kvm.log import KvmDirtyLog  # noqa: PLC0415

        return KvmDirtyLog(geometry, *service.log_fds), ""
    if service.name != services.DIRTY_LOG:
        return software, service.reason
    kernel = KernelDirtyLog(geometry, service)
    try:
        kernel.probe()
    except OSError as error:
        return software, f"PAGEMAP_SCAN: {error.strerror}"
    board.kernel_logs[0] = 1
    return kernel, ""


class SoftwareDirtyLog:
    """What the vCPUs mark on the board."""

    name = "software"

    def __init__(self, board: Board) -> None:
        """Read this board."""
        self._board = board

    def start(self) -> None:
        """Forget all that was written so far."""
        self._board.harvest_dirty()

    def harvest(self) -> NDArray[np.int64]:
        """Return the flat target pages written to since the last harvest, ascending."""
        return self._board.harvest_dirty()

    def stop(self) -> None:
        """Do nothing: to mark a page is part of what a vCPU does."""


class KernelDirtyLog:
    """What the kernel tells of the mapping that the vCPUs write to, in their process."""

    name = "kernel"

    def __init__(self, geometry: Geometry, service: Service) -> None:
        """Take the service DIRTY_LOG of a guest process; it stays the guest's to close."""
        assert service.userfaultfd is not None
        self._geometry = geometry
        self._addresses = service.addresses
        self._protection = service.userfaultfd
        self._pagemap_fd = service.pagemap_fd
        self._regions = np.zeros((_REGION_COUNT, 3), dtype=np.uint64)

    def probe(self) -> None:
        """Look at the first page, which changes nothing.

        Raises:
            OSError: This kernel does not tell, or not this process.
        """
        self._scan(self._addresses[0], self._addresses[0] + TARGET_PAGE_BYTES, flags=0)

    def start(self) -> None:
        """Protect everything.

        Raises:
            GuestFailed: The guest process is gone.
        """
        for address, block in zip(self._addresses, self._geometry.blocks, strict=True):
            self._protection.write_protect(address, block.length_bytes)

    def harvest(self) -> NDArray[np.int64]:
        """Return the flat target pages written to since the last harvest, ascending.

        Raises:
            GuestFailed: The kernel does not tell any more.
        """
        # Nothing is lost, because a page is told of and protected again in one step, under the lock
        # of its page table, and the ioctl returns after all processors have forgotten the old
        # entry (the TLB flush).  A write before that step is in memory before we read the page.  A
        # write after it faults, and so takes the protection away for the next harvest to see.  And
        # no processor goes on writing through an entry from before, once the ioctl has returned.
        parts = [
            self._harvest_block(address, base, block.length_bytes)
            for address, base, block in zip(
                self._addresses,
                self._geometry.target_page_bases,
                self._geometry.blocks,
                strict=True,
            )
        ]
        return np.concatenate(parts)

    def stop(self) -> None:
        """Take the protection away."""
        for address, block in zip(self._addresses, self._geometry.blocks, strict=True):
            self._protection.write_protect(address, block.length_bytes, protect=False)

    def _harvest_block(self, address: int, base: int, length_bytes: int) -> NDArray[np.int64]:
        """Return the flat target pages of a block whose first one is `base`."""
        start, end = address, address + length_bytes
        parts = [_NOTHING]
        flags = abi.PM_SCAN_WP_MATCHING | abi.PM_SCAN_CHECK_WPASYNC
        while start < end:
            try:
                regions, reached = self._scan(start, end, flags)
            except OSError as error:
                raise GuestFailed(f"the dirty log: PAGEMAP_SCAN: {error.strerror}") from error
            if reached <= start:
                raise GuestFailed("the dirty log: PAGEMAP_SCAN does not come to an end")
            start = reached
            parts.append(_pages_of(regions, address, base))
        return np.concatenate(parts)

    def _scan(self, start: int, end: int, flags: int) -> tuple[NDArray[np.uint64], int]:
        """Return the written regions from an address on, and how far that was looked."""
        fields = (
            abi.PM_SCAN_ARG_STRUCT.size, flags, start, end, 0,
            self._regions.ctypes.data, len(self._regions), 0,
            0, abi.PAGE_IS_WRITTEN, 0, abi.PAGE_IS_WRITTEN,
        )  # fmt: skip
        argument = bytearray(abi.PM_SCAN_ARG_STRUCT.pack(*fields))
        count = fcntl.ioctl(self._pagemap_fd, abi.PAGEMAP_SCAN, argument)
        reached: int = abi.PM_SCAN_ARG_STRUCT.unpack(argument)[4]
        return self._regions[:count], reached


def _pages_of(regions: NDArray[np.uint64], address: int, base: int) -> NDArray[np.int64]:
    """Return the flat target pages of regions of a block, given by addresses."""
    edges = (regions[:, :2] - np.uint64(address)).astype(np.int64) // TARGET_PAGE_BYTES
    counts = edges[:, 1] - edges[:, 0]
    before = np.cumsum(counts) - counts
    total = int(counts.sum())
    return np.repeat(edges[:, 0] - before + base, counts) + np.arange(total)
