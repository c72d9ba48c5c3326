"""vCPUs that run the guest's machine code: what they share, and those that are plain threads.

The code makes its accesses, counts and times them by itself and comes back when there is something
to tell (guest/native/code.py's `Told`).  Whatever it runs in, a thread of its host's enters it and
does what it comes back for.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic_ns
from typing import Protocol

from guest import libc
from guest.board import Board
from guest.crew import Crew
from guest.mapping import GuestMapping
from guest.messages import (
    MISMATCH_REPORT_COUNT_MAX,
    Faulted,
    GuestEvent,
    Mismatch,
    Touched,
    Woke,
    encode_event,
    pack,
)
from guest.native.clock import Calibration, GuestClock
from guest.native.code import Told, functions
from guest.native.layout import Addresses, ProgramData, StateData, accesses_of, fill
from guest.spec import ProgramSpec
from protocol.geometry import Geometry

_PARKED, _WOKE, _MISMATCHED, _EARLY, _IDLE, _TOUCHED, _ABSENT = (
    int(each)
    for each in (
        Told.PARKED, Told.WOKE, Told.MISMATCHED, Told.EARLY, Told.IDLE, Told.TOUCHED, Told.ABSENT
    )
)  # fmt: skip

# A vCPU that waits until an access is due looks at its clock now and then, for else it could not
# tell a blackout from its sleep.  So often all of them together, about, a second.
_LOOKS_PER_SECOND = 400


class Processor(Protocol):
    """What runs the program of one vCPU; entered by one thread, and used by others while it stands.

    Attributes:
        program: What it does, where its host can change it.
        state: What it remembers; the host changes it while it stands still.
        clock: Its clock.
    """

    program: ProgramData
    state: StateData
    clock: GuestClock

    def prepare(self) -> None:
        """Do what the thread that is to enter has to do before."""

    def begin(self, step: int) -> None:
        """Go on, at the step that the board says, as the engine wants it."""

    def enter(self) -> int:
        """Run the program; return bits of `Told`, 0 if it was stopped in the middle."""

    def save(self) -> bytes:
        """Return all that the step alone does not tell; it stands still."""

    def load(self, state: bytes, step: int) -> None:
        """Take over what another's `save` has returned, or if that is nothing stand at a step.

        Raises:
            GuestFailed: This one cannot.
        """


class MachineVcpu:
    """A vCPU whose program is machine code.  `start` starts its thread, which parks at once.

    It follows the board's run generation as guest/vcpu.py's do.
    """

    def __init__(
        self,
        number: int,
        spec: ProgramSpec,
        processor: Processor,
        board: Board,
        wake_fd: int,
        sockets: tuple[socket.socket, socket.socket],
    ) -> None:
        """Connect a vCPU to its guest.

        Args:
            number: Which it is.
            spec: What the guest does.
            processor: Runs it.
            board: The guest's.
            wake_fd: Its eventfd.
            sockets: Those for control and for events.
        """
        self._number = number
        self._processor = processor
        self._wake_fd = wake_fd
        self._control, self._events = sockets
        self._generation = board.generation.data
        self._stops_anywhere = board.stops_anywhere.data
        self._present = board.present.data
        self._words = board.vcpu_words[number].data
        self._look_seconds = spec.vcpu_count / _LOOKS_PER_SECOND
        self._touches: deque[tuple[int, int]] = deque()
        self._mismatch_count = 0
        self._mismatches_told_max = max(1, MISMATCH_REPORT_COUNT_MAX // spec.vcpu_count)

    def start(self, *, is_stopped_by_kernel: bool = False) -> int:
        """Start the thread; return the kernel's number of it.

        Args:
            is_stopped_by_kernel: Whether it may touch what is missing (guest/services.py), or has
                to look first.
        """
        if is_stopped_by_kernel:
            self._processor.program.present = 0
        thread = threading.Thread(target=self._work, name=f"vcpu-{self._number}", daemon=True)
        thread.start()
        assert thread.native_id is not None
        return thread.native_id

    def touch(self, flat_page: int) -> None:
        """Have the vCPU read a page, after those that it was told before; from another thread."""
        self._touches.append((flat_page, monotonic_ns()))
        os.eventfd_write(self._wake_fd, 1)

    def load(self, state: bytes) -> None:
        """Take over what came with another's pause; only while this one is parked.

        Raises:
            GuestFailed: This one cannot.
        """
        self._processor.load(state, self._words[0])

    def _work(self) -> None:
        libc.use_precise_timeouts()
        self._processor.prepare()
        acknowledged = 0
        while True:
            generation = self._generation[0]
            if generation % 2:
                self._run(generation)
                continue
            if generation != acknowledged:
                acknowledged = generation
                state = self._processor.save() if self._stops_anywhere[0] else b""
                self._control.send(pack("parked", self._number, generation, state))
            self._sleep()

    def _run(self, generation: int) -> None:
        """Run the program until the run generation changes."""
        processor = self._processor
        state, clock = processor.state, processor.clock
        processor.begin(self._words[0])
        # Who stood still is not behind his plan.
        state.start, state.first_step = clock.now_ns(), state.step
        while self._generation[0] == generation:
            told = processor.enter()
            if told & _ABSENT:
                self._wait_for_page(state.page, generation)
            if told & _WOKE:
                began_ns, ended_ns = map(clock.monotonic_ns, (state.before, state.after))
                self._report(Woke(self._number, state.page, began_ns, ended_ns))
            if told & _MISMATCHED:
                self._report_mismatch()
            if told & _TOUCHED:
                self._touches.popleft()
                self._report(Touched(self._number, state.page))
            if told & _EARLY:
                left_seconds = (state.due - clock.now_ns()) / 1e9
                self._sleep(min(max(left_seconds, 0.0), self._look_seconds))
            if told & _IDLE:
                self._take_touch()

    def _take_touch(self) -> None:
        """Have the program do what it was told to touch next; wait if that is nothing."""
        if not self._touches:
            self._sleep()
            return
        state = self._processor.state
        state.page, told_ns = self._touches[0]
        state.due = self._processor.clock.guest_ns(told_ns)
        state.is_told = 1

    def _wait_for_page(self, flat_page: int, generation: int) -> None:
        """Sleep until a page is present, or the run generation changes."""
        fault_ns = monotonic_ns()
        self._report(Faulted(self._number, flat_page, fault_ns))
        while not self._present[flat_page]:
            self._sleep()
            if self._generation[0] != generation:
                return
        self._report(Woke(self._number, flat_page, fault_ns, monotonic_ns()))

    def _report_mismatch(self) -> None:
        self._mismatch_count += 1
        if self._mismatch_count <= self._mismatches_told_max:
            state = self._processor.state
            self._report(
                Mismatch(self._number, state.page, state.step - 1, state.expected, state.seen)
            )

    def _report(self, event: GuestEvent) -> None:
        self._events.send(encode_event(event))

    def _sleep(self, timeout_s: float | None = None) -> None:
        """Sleep until the engine wakes this vCPU, or has since the last sleep."""
        readable, _, _ = select.select([self._wake_fd], [], [], timeout_s)
        if readable:
            os.eventfd_read(self._wake_fd)


class NativeProcessor:
    """A thread runs the program; it stops between two accesses, so that its step tells all of it.

    Attributes:
        program: What it does.
        state: What it remembers.
        clock: Its clock.
    """

    def __init__(
        self,
        number: int,
        spec: ProgramSpec,
        geometry: Geometry,
        mapping: GuestMapping,
        board: Board,
    ) -> None:
        """Prepare to run a vCPU; it has no clock before `set_clock`."""
        self._accesses = accesses_of(spec, number)
        addresses = Addresses(mapping.addresses, board.address, self._accesses.ctypes.data)
        self.program = fill(spec, geometry, number, board, addresses, is_thread=True)
        self.state = StateData()
        self.clock: GuestClock
        self._function = functions().run
        self._arguments = (ctypes.addressof(self.program), ctypes.addressof(self.state))

    def set_clock(self, ticks_per_second: float) -> None:
        """Start its clock; call it once."""
        self.clock = GuestClock(self.program, self.state, ticks_per_second)
        self.clock.start()

    def prepare(self) -> None:
        """Do nothing: all threads are alike."""

    def begin(self, step: int) -> None:
        """Go on at a step; what was before it stood still, or elsewhere, is forgotten."""
        self.state.step = step
        # No access took so long.
        self.state.ended = 0
        self.state.is_idle = 1

    def enter(self) -> int:
        """Run the program; return bits of `Told`."""
        return self._function(*self._arguments)

    def save(self) -> bytes:
        """Return nothing: its step tells all."""
        return b""

    def load(self, state: bytes, step: int) -> None:
        """Refuse all but the step, which `begin` takes."""
        assert not state, f"a thread at step {step} has no other state"


def make_crew(
    spec: ProgramSpec,
    geometry: Geometry,
    mapping: GuestMapping,
    board: Board,
    wake_fds: Sequence[int],
    sockets: tuple[socket.socket, socket.socket],
) -> Crew:
    """Return all vCPUs of a guest, as threads that run the machine code.

    Raises:
        GuestFailed: This machine does not run it.
    """
    calibration = Calibration()
    processors = [
        NativeProcessor(number, spec, geometry, mapping, board) for number in range(spec.vcpu_count)
    ]
    ticks_per_second = calibration.ticks_per_second()
    for processor in processors:
        processor.set_clock(ticks_per_second)
    vcpus = [
        MachineVcpu(number, spec, processor, board, wake_fd, sockets)
        for number, (processor, wake_fd) in enumerate(zip(processors, wake_fds, strict=True))
    ]
    return Crew(vcpus, mapping)
