"""vCPUs that run the guest's machine code: what they share, and those that are plain threads.

The code makes its accesses, counts and times them by itself and comes back when there is something
to tell (guest/native/code.py's `Told`).  Whatever it runs in, a thread of its host's enters it and
does what it comes back for.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Sequence
from typing import Protocol

from guest.board import Board
from guest.crew import Crew
from guest.mapping import GuestMapping
from guest.messages import Touched, Woke
from guest.native.clock import Calibration, GuestClock
from guest.native.code import Told, functions
from guest.native.layout import Addresses, ProgramData, StateData, accesses_of, fill
from guest.spec import ProgramSpec
from guest.thread import VcpuThread
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


class MachineVcpu(VcpuThread):
    """A vCPU whose program is machine code."""

    def __init__(
        self,
        number: int,
        spec: ProgramSpec,
        processor: Processor,
        board: Board,
        wake_fd: int,
        sockets: tuple[socket.socket, socket.socket],
    ) -> None:
        """Connect a vCPU to its guest, see `VcpuThread`; `processor` runs its program."""
        super().__init__(number, spec, board, wake_fd, sockets)
        self._processor = processor
        self._stops_anywhere = board.stops_anywhere.data
        self._words = board.vcpu_words[number].data
        self._look_seconds = spec.vcpu_count / _LOOKS_PER_SECOND
        # Whenever the program comes back by itself it is not.
        self._is_amid_access = False

    def load(self, state: bytes) -> None:  # type: ignore[explicit-override]
        """See `VcpuThread`."""
        self._processor.load(state, self._words[0])
        self._is_amid_access = bool(state)

    def _prepare(self) -> None:  # type: ignore[explicit-override]
        if self._is_stopped_by_kernel:
            self._processor.program.present = 0
        self._processor.prepare()

    def _park(self, generation: int) -> bytes:  # type: ignore[explicit-override]
        if self._stops_anywhere[0]:
            return self._processor.save()
        # Who was told to run and to stop again before he came to it stands where he stood before,
        # and is to stand between two accesses.
        while self._is_amid_access and self._generation[0] == generation:
            self._go_on(generation)
        return b""

    def _run(self, generation: int) -> None:  # type: ignore[explicit-override]
        """Run the program until the run generation changes."""
        processor = self._processor
        state = processor.state
        processor.begin(self._words[0])
        # Who stood still is not behind his plan.
        state.start, state.first_step = processor.clock.now_ns(), state.step
        while self._generation[0] == generation:
            self._go_on(generation)

    def _go_on(self, generation: int) -> None:
        """Run the program until it comes back, or is stopped; do what it comes back for."""
        processor = self._processor
        state, clock = processor.state, processor.clock
        told = processor.enter()
        self._is_amid_access = not told
        if told & _ABSENT:
            self._wait_for_page(state.page, generation)
        if told & _WOKE:
            began_ns, ended_ns = map(clock.monotonic_ns, (state.before, state.after))
            self._report(Woke(self._number, state.page, began_ns, ended_ns))
        if told & _MISMATCHED:
            self._report_mismatch(state.page, state.step - 1, state.expected, state.seen)
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
