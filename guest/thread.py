"""A vCPU's thread: it runs and parks as the engine says, sleeps until it is woken, and reports.

What it runs is its kind's to say: accesses made in the interpreter (guest/vcpu.py), or machine code
(guest/native/vcpu.py).
"""

from __future__ import annotations

import os
import select
import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from time import monotonic_ns

from guest import libc
from guest.board import Board
from guest.messages import (
    MISMATCH_REPORT_COUNT_MAX,
    Faulted,
    GuestEvent,
    Mismatch,
    Woke,
    encode_event,
    pack,
)
from guest.spec import ProgramSpec


class VcpuThread(ABC):
    """One vCPU.  `start` starts its thread, which parks at once and ends only with its process.

    The thread follows the board's run generation.  It looks at it before every access and whenever
    it is woken, so it stops between two accesses, also while it waits for a page; the access that
    it waited with counts as not made.
    """

    def __init__(
        self,
        number: int,
        spec: ProgramSpec,
        board: Board,
        wake_fd: int,
        sockets: tuple[socket.socket, socket.socket],
    ) -> None:
        """Connect a vCPU to its guest.

        Args:
            number: Which it is.
            spec: What the guest does.
            board: The guest's.
            wake_fd: Its eventfd.
            sockets: Those for control and for events.
        """
        self._number = number
        self._spec = spec
        self._wake_fd = wake_fd
        self._control, self._events = sockets
        # Whether the kernel stops this vCPU at a page that is missing.
        self._is_stopped_by_kernel = False
        # Indexing a memoryview costs half of indexing an array.
        self._generation = board.generation.data
        self._present = board.present.data
        # Pages that it was told to read, and when.
        self._touches: deque[tuple[int, int]] = deque()
        self._mismatch_count = 0
        self._mismatches_told_max = max(1, MISMATCH_REPORT_COUNT_MAX // spec.vcpu_count)

    def start(self, *, is_stopped_by_kernel: bool = False) -> int:
        """Start the thread; return the kernel's number of it.

        Args:
            is_stopped_by_kernel: Whether it may touch what is missing (guest/services.py), or has
                to look first.
        """
        self._is_stopped_by_kernel = is_stopped_by_kernel
        thread = threading.Thread(target=self._work, name=f"vcpu-{self._number}", daemon=True)
        thread.start()
        assert thread.native_id is not None
        return thread.native_id

    def touch(self, flat_page: int) -> None:
        """Have the vCPU read a page, after those that it was told before; from another thread."""
        self._touches.append((flat_page, monotonic_ns()))
        os.eventfd_write(self._wake_fd, 1)

    @abstractmethod
    def load(self, state: bytes) -> None:
        """Take over what came with another's pause beside its step; only while this one is parked.

        Raises:
            GuestFailed: This one cannot.
        """

    @abstractmethod
    def _run(self, generation: int) -> None:
        """Make accesses until the run generation changes."""

    def _prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """Do, in the thread, what is to be done once before it runs."""

    def _park(self, generation: int) -> bytes:  # noqa: ARG002 - most stand as it is
        """Come to a stand as the engine wants it; return what the step alone does not tell then."""
        return b""

    def _work(self) -> None:
        libc.use_precise_timeouts()
        self._prepare()
        acknowledged = 0
        while True:
            generation = self._generation[0]
            if generation % 2:
                self._run(generation)
                continue
            if generation != acknowledged:
                acknowledged = generation
                state = self._park(generation)
                self._control.send(pack("parked", self._number, generation, state))
            self._sleep()

    def _wait_for_page(self, flat_page: int, generation: int) -> bool:
        """Sleep until a page is present; return False if the run generation changed before.

        A wake that comes between the look at the page and the sleep is not lost: the eventfd counts
        it.  One that was meant for something else costs another look.
        """
        t_fault_ns = monotonic_ns()
        self._report(Faulted(self._number, flat_page, t_fault_ns))
        while not self._present[flat_page]:
            self._sleep()
            if self._generation[0] != generation:
                return False
        self._report(Woke(self._number, flat_page, t_fault_ns, monotonic_ns()))
        return True

    def _report_mismatch(self, flat_page: int, step: int, expected: int, seen: int) -> None:
        self._mismatch_count += 1
        if self._mismatch_count <= self._mismatches_told_max:
            self._report(Mismatch(self._number, flat_page, step, expected, seen))

    def _report(self, event: GuestEvent) -> None:
        self._events.send(encode_event(event))

    def _sleep(self, timeout_s: float | None = None) -> None:
        """Sleep until the engine wakes this vCPU, or has since the last sleep."""
        # select, for its timeout counts in microseconds; poll and epoll round up to milliseconds.
        readable, _, _ = select.select([self._wake_fd], [], [], timeout_s)
        if readable:
            os.eventfd_read(self._wake_fd)
