"""A simulated vCPU: a thread that makes its program's accesses and checks what it reads.

Before it touches a target page a vCPU looks whether the page is present; if not it tells the engine
and sleeps until woken.  Where the kernel stops it at missing pages it just touches, and afterwards
looks whether the engine has noted that it was stopped.  It touches guest memory through
`libc.memcpy` only (guest/mapping.py).
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Iterable
from itertools import repeat
from time import monotonic_ns

import numpy as np
from numpy.typing import NDArray

from guest import libc
from guest.board import Board
from guest.latency import add_latencies
from guest.mapping import GuestMapping
from guest.messages import Touched, Woke
from guest.programs import AccessBatch, Program
from guest.thread import VcpuThread

# Accesses are computed ahead in batches, whose cost is nearly the same for any size up to this one.
_BATCH_STEPS_MAX = 1024
# Counters become visible after each batch: a slow program's batch is of so many seconds.
_BATCH_NS = 50_000_000

# What a program without pause plans: each access is due when the one before it has ended.
_UNPLANNED = 0


class Vcpu(VcpuThread):
    """A vCPU whose accesses are made in the interpreter."""

    def __init__(
        self,
        number: int,
        program: Program,
        mapping: GuestMapping,
        board: Board,
        wake_fd: int,
        sockets: tuple[socket.socket, socket.socket],
    ) -> None:
        """Connect a vCPU to its guest, see `VcpuThread`; it does what `program` says."""
        super().__init__(number, program.spec, board, wake_fd, sockets)
        self._program = program
        self._mapping = mapping
        self._stopped = board.stopped.data
        self._dirty = board.dirty.data
        self._kernel_logs = board.kernel_logs.data
        self._words = board.vcpu_words[number]
        self._latency_bins = board.latency_bins[number]
        # What memcpy reads into and writes from: a word each.
        self._word_buffers = (ctypes.c_uint64 * 2)()
        self._buffers = memoryview(self._word_buffers).cast("B").cast("Q")

    def load(self, state: bytes) -> None:  # type: ignore[explicit-override]
        """Take nothing over: the step on the board is all there is."""
        assert not state, "a thread has no state but its step"

    def _run(self, generation: int) -> None:  # type: ignore[explicit-override]
        if self._spec.name == "scripted":
            self._run_touches(generation)
        else:
            self._run_program(generation)

    def _run_program(self, generation: int) -> None:
        start_ns, first_step = monotonic_ns(), int(self._words[0])
        step = first_step
        while self._generation[0] == generation:
            dues_ns = self._program.dues_ns(self._number, first_step, step, _BATCH_STEPS_MAX)
            size = _BATCH_STEPS_MAX if dues_ns is None else _count_near(dues_ns)
            batch = self._program.batch(self._number, step, size)
            if not len(batch):
                self._sleep()  # The trace has ended.
                continue
            planned_ns: Iterable[int] = repeat(_UNPLANNED)
            if dues_ns is not None:
                planned_ns = (start_ns + dues_ns[:size]).tolist()
            step += self._access(generation, step, batch, planned_ns)

    def _run_touches(self, generation: int) -> None:
        while self._generation[0] == generation:
            if not self._touches:
                self._sleep()
                continue
            flat_page, t_told_ns = self._touches[0]
            batch = self._program.first_reads(self._number, np.array([flat_page], dtype=np.uint64))
            if self._access(generation, int(self._words[0]), batch, [t_told_ns]):
                self._touches.popleft()
                self._report(Touched(self._number, flat_page))

    def _access(
        self, generation: int, first_step: int, batch: AccessBatch, dues_ns: Iterable[int]
    ) -> int:
        """Make the accesses of a batch, each when it is due, and count them.

        Returns:
            How many were made: all, unless the run generation changed.
        """
        # This loop is what a vCPU costs.  It calls nothing that it can do without.
        current, present, dirty, buffers = (
            self._generation,
            self._present,
            self._dirty,
            self._buffers,
        )
        number, stopped, just_touches = self._number, self._stopped, self._is_stopped_by_kernel
        marks_writes = not self._kernel_logs[0]
        memcpy = libc.memcpy
        touched_ns = 0
        seen_address = ctypes.addressof(self._word_buffers)
        new_address = seen_address + 8
        latencies_ns: list[int] = []
        addresses = self._mapping.page_addresses(batch.flat_pages) + batch.slot_offsets
        ended_ns = monotonic_ns()
        for flat_page, address, expected, has_expected, is_write, new_value, planned_ns in zip(
            batch.flat_pages.tolist(),
            addresses.tolist(),
            batch.expected.tolist(),
            batch.has_expected.tolist(),
            batch.is_write.tolist(),
            batch.new_values.tolist(),
            dues_ns,
            strict=False,
        ):
            if current[0] != generation:
                break
            due_ns = planned_ns or ended_ns
            if ended_ns < due_ns and not self._wait_until(due_ns, generation):
                break
            if just_touches:
                touched_ns = monotonic_ns()
            elif not present[flat_page] and not self._wait_for_page(flat_page, generation):
                break
            memcpy(seen_address, address, 8)
            if just_touches and stopped[number]:
                stopped[number] = 0
                self._report(Woke(number, flat_page, touched_ns, monotonic_ns()))
            if buffers[0] != expected and has_expected:
                step = first_step + len(latencies_ns)
                self._report_mismatch(flat_page, step, expected, buffers[0])
            if is_write:
                buffers[1] = new_value
                memcpy(address, new_address, 8)
                if marks_writes:
                    # After the write, never before it: see Board.harvest_dirty.
                    dirty[flat_page] = 1
            ended_ns = monotonic_ns()
            latencies_ns.append(ended_ns - due_ns)
        self._count(first_step, batch, latencies_ns)
        return len(latencies_ns)

    def _count(self, first_step: int, batch: AccessBatch, latencies_ns: list[int]) -> None:
        """Publish what was done on the board."""
        count = len(latencies_ns)
        checked_count = int(np.count_nonzero(batch.has_expected[:count]))
        step, checked, unchecked, writes, mismatches = range(5)
        self._words[checked] += checked_count
        self._words[unchecked] += count - checked_count
        self._words[writes] += np.count_nonzero(batch.is_write[:count])
        self._words[mismatches] = self._mismatch_count
        self._words[step] = first_step + count
        add_latencies(self._latency_bins, latencies_ns)

    def _wait_until(self, due_ns: int, generation: int) -> bool:
        """Sleep until an access is due; return False if the run generation changed before."""
        while (left_ns := due_ns - monotonic_ns()) > 0:
            self._sleep(left_ns / 1e9)
            if self._generation[0] != generation:
                return False
        return True


def _count_near(dues_ns: NDArray[np.int64]) -> int:
    """Return how many accesses are due soon after the first of them, at least 1."""
    soon_ns = dues_ns[:1] + _BATCH_NS
    return max(int(np.searchsorted(dues_ns, soon_ns).sum()), 1)
