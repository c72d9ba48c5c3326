"""The board: what an engine and its guest process share besides the guest's memory.

One memfd, laid out by both sides from the geometry and the number of vCPUs:

    offset        what                              written by
    0             int64 run generation              engine
    8             int64 kernel logs                 engine
    16            int64 stops anywhere              engine
    64            per vCPU, uint8 stopped           the engine sets, its vCPU clears
    4096          per vCPU, 64 bytes apart:         its vCPU while it runs, the engine while not
                  int64 step, reads_checked,
                  reads_unchecked, writes,
                  mismatches, blackout_ns,
                  stall_ns
    8192          per vCPU, int64 latency bins      its vCPU
    (rounded up)  uint8 dirty, per target page      vCPUs set, the engine clears
    (rounded up)  uint8 present, per target page    engine

Each part begins on a page of its own.  The run generation is odd while the vCPUs shall run and even
while they shall not; every `run` and `pause` counts it up.
"""

from __future__ import annotations

import mmap
import os
import threading
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from guest.latency import BIN_COUNT, histogram_of
from protocol.errors import GuestFailed
from protocol.geometry import Geometry
from protocol.limits import VCPU_COUNT_MAX

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

_PAGE_BYTES = 4096
# vCPUs count in cache lines of their own.
_LINE_WORDS = 8
_KERNEL_LOGS_OFFSET = 8
_ANYWHERE_OFFSET = 16
_VCPU_OFFSET = _PAGE_BYTES
_LATENCY_OFFSET = 2 * _PAGE_BYTES
_STOPPED_OFFSET = 64
assert VCPU_COUNT_MAX * _LINE_WORDS * 8 <= _PAGE_BYTES
assert _STOPPED_OFFSET + VCPU_COUNT_MAX <= _PAGE_BYTES


@dataclass(frozen=True)
class VcpuCounters:
    """What a vCPU has done since its process started; `step` alone crosses with a migration.

    Attributes:
        blackout_ns: How long its own clock stood still when it came here, in nanoseconds; 0 where
            it has no clock, or has not come from anywhere.
        stall_ns: The longest time between two looks at its clock since then, but for its sleep.
    """

    step: int = 0
    reads_checked: int = 0
    reads_unchecked: int = 0
    writes: int = 0
    mismatches: int = 0
    blackout_ns: int = 0
    stall_ns: int = 0


class Board:
    """Run control, counters, the software dirty log and the map of present pages.

    Attributes:
        fd: The board's memfd; -1 when closed.
        generation: int64, shape (1,), the run generation.
        kernel_logs: int64, shape (1,), not 0 while the kernel logs writes: then vCPUs do not mark
            them.  Changes only before the guest first runs.
        stops_anywhere: int64, shape (1,), not 0 where the next pause is to tell all of a vCPU that
            there is, wherever it is; set before the generation is counted up.
        stopped: uint8, one per vCPU, not 0 from when the engine knows that the kernel has stopped
            the vCPU at a page until the vCPU has seen that it runs again.
        vcpu_words: int64, shape (vCPUs, 8), the fields of VcpuCounters in their order.
        latency_bins: int64, shape (vCPUs, BIN_COUNT), access latencies (guest/latency.py).
        dirty: uint8, one per flat target page, not 0 where a vCPU has written.
        present: uint8, one per flat target page, not 0 where a vCPU may touch.  All 0 at first.
    """

    def __init__(self, geometry: Geometry, vcpu_count: int, fd: int) -> None:
        """Map a board's memfd and take it over; use `create` or `attach`."""
        self._layout = layout = _lay_out(geometry, vcpu_count)
        mapping = mmap.mmap(fd, layout.length_bytes)
        self.fd = fd
        self.generation = np.frombuffer(mapping, np.int64, 1)
        self.kernel_logs = np.frombuffer(mapping, np.int64, 1, _KERNEL_LOGS_OFFSET)
        self.stops_anywhere = np.frombuffer(mapping, np.int64, 1, _ANYWHERE_OFFSET)
        self.stopped = np.frombuffer(mapping, np.uint8, vcpu_count, _STOPPED_OFFSET)
        self.vcpu_words = np.frombuffer(
            mapping, np.int64, vcpu_count * _LINE_WORDS, _VCPU_OFFSET
        ).reshape(vcpu_count, _LINE_WORDS)
        self.latency_bins = np.frombuffer(
            mapping, np.int64, vcpu_count * BIN_COUNT, _LATENCY_OFFSET
        ).reshape(vcpu_count, BIN_COUNT)
        page_count = geometry.target_page_count
        self.dirty = np.frombuffer(mapping, np.uint8, page_count, layout.dirty_offset)
        self.present = np.frombuffer(mapping, np.uint8, page_count, layout.present_offset)
        self._fence = threading.Lock()

    @classmethod
    def create(cls, geometry: Geometry, vcpu_count: int) -> Self:
        """Make a board for a guest, all zero.

        Raises:
            GuestFailed: There is no memory for it.
        """
        fd = os.memfd_create("midstream-board", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, _lay_out(geometry, vcpu_count).length_bytes)
            return cls(geometry, vcpu_count, fd)
        except OSError as error:
            os.close(fd)
            raise GuestFailed(f"cannot make the guest's board: {error.strerror}") from error

    @classmethod
    def attach(cls, geometry: Geometry, vcpu_count: int, fd: int) -> Self:
        """Map a board that another process made; takes the fd over."""
        return cls(geometry, vcpu_count, fd)

    def harvest_dirty(self) -> NDArray[np.int64]:
        """Take the dirty log: return the flat target pages written since the last call, ascending.

        Read a page's bytes only after this has returned.
        """
        # Nothing is lost, because a vCPU marks a page after it has written to it, and we read the
        # page after we have cleared its mark.  A write whose mark we take or wipe out was in memory
        # before that, so the read to come sees it.  A write that the read misses comes later than
        # the clearing, and so does its mark, for the next harvest.  Only marks that were seen set
        # are cleared: one set meanwhile on another page must stay.
        # The search is in a copy: NumPy refuses to look for what changes while it looks.
        pages = np.flatnonzero(self.dirty.copy())
        self.dirty[pages] = 0
        # A processor may let a load overtake an earlier store.  Taking and giving back a lock is a
        # full barrier: no byte of these pages is read before the marks are gone for all to see.
        with self._fence:
            return pages

    def set_present(self, pages: slice | NDArray[np.integer]) -> None:
        """Let vCPUs touch these flat target pages; then `GuestHandle.wake` who waits for them."""
        self.present[pages] = 1

    def clear_present(self, pages: slice | NDArray[np.integer]) -> None:
        """Make vCPUs fault on these flat target pages; only while the guest is paused."""
        self.present[pages] = 0

    def counters(self, vcpu: int) -> VcpuCounters:
        """Return what a vCPU has done so far: exact while it is paused, nearly so while it runs."""
        return VcpuCounters(*self.vcpu_words[vcpu, : len(fields(VcpuCounters))].tolist())

    def accesses(self) -> HdrHistogram:
        """Return the access latencies of all vCPUs in nanoseconds, from when each was due.

        Takes some milliseconds: not for the downtime.
        """
        return histogram_of(self.latency_bins.sum(axis=0))

    def offsets(self, vcpu: int) -> dict[str, int]:
        """Return where a vCPU's parts begin, in bytes from the board's begin, by their names.

        Its counters are `words`, its latencies `bins`, and `marks` are those of the dirty log.
        """
        return {
            "generation": 0,
            "kernel_logs": _KERNEL_LOGS_OFFSET,
            "anywhere": _ANYWHERE_OFFSET,
            "stopped": _STOPPED_OFFSET,
            "words": _VCPU_OFFSET + vcpu * _LINE_WORDS * 8,
            "bins": _LATENCY_OFFSET + vcpu * BIN_COUNT * 8,
            "marks": self._layout.dirty_offset,
            "present": self._layout.present_offset,
        }

    @property
    def address(self) -> int:
        """Where this process has it."""
        return self.generation.ctypes.data

    @property
    def counters_bytes(self) -> int:
        """How much of it vCPUs need that neither look nor mark: all before the two maps."""
        return self._layout.dirty_offset

    def close(self) -> None:
        """Close the memfd; more calls do nothing.  The arrays stay readable until dropped."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


@dataclass(frozen=True)
class _Layout:
    """Where the parts that depend on the guest begin, and where the board ends."""

    dirty_offset: int
    present_offset: int
    length_bytes: int


def _lay_out(geometry: Geometry, vcpu_count: int) -> _Layout:
    map_bytes = _round_up(geometry.target_page_count)
    dirty_offset = _round_up(_LATENCY_OFFSET + vcpu_count * BIN_COUNT * 8)
    return _Layout(dirty_offset, dirty_offset + map_bytes, dirty_offset + 2 * map_bytes)


def _round_up(length_bytes: int) -> int:
    return -(-length_bytes // _PAGE_BYTES) * _PAGE_BYTES
