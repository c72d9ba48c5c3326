"""The engine's side of a guest: start its process, run and pause it, hear of its faults."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from typing import TYPE_CHECKING

import msgpack
import trio

from guest import libc, services
from guest.board import Board, VcpuCounters
from guest.dirty_log import DirtyLog, choose_dirty_log
from guest.interface import GuestEvent, GuestSnapshot
from guest.launch import GuestProcess
from guest.memory import GuestMemory
from guest.messages import KICK, decode_event, pack, pack_ranges
from guest.services import Service
from guest.spec import KVM, ProgramSpec
from guest.states import VcpuState
from protocol.errors import GuestFailed, LocalProtocolError
from protocol.geometry import Geometry

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

__all__ = ["GuestHandle", "GuestProcess", "open_guest", "start_process"]

# A vCPU stops before its next access, within microseconds unless the machine is overloaded.
_PAUSE_SECONDS_MAX = 30.0


class GuestHandle:
    """A `Guest` whose vCPUs are in a process of their own.  Made by `open_guest`; starts paused.

    Attributes:
        spec: The program it runs.
        board: Dirty log, present map, counters and access latencies, shared with the process.
        pid: Its process.
        service: What the process has the kernel do for the engine; closed with the guest.
    """

    def __init__(
        self,
        geometry: Geometry,
        spec: ProgramSpec,
        board: Board,
        wake_fds: tuple[int, ...],
        process: GuestProcess,
        service: Service,
    ) -> None:
        """Connect to a started process; use `open_guest`."""
        self.spec = spec
        self.board = board
        self.pid = process.pid
        self.service = service
        self._geometry = geometry
        self._wake_fds = wake_fds
        self._process = process
        # vCPUs that have not yet said that they stopped for the present run generation.
        self._stopping: set[int] = set()
        # What they said of themselves beside their steps when they last stopped.
        self._machines: dict[int, bytes] = {}

    @property
    def is_running(self) -> bool:
        """Whether the vCPUs were last told to run."""
        return bool(self.board.generation[0] % 2)

    async def load(self, states: tuple[VcpuState, ...]) -> None:
        """Put the vCPUs where `states` say; only while the guest is paused.

        Raises:
            LocalProtocolError: It is not paused, or these are not its vCPUs.
        """
        await trio.lowlevel.checkpoint()
        if self.is_running or self._stopping:
            raise LocalProtocolError("the guest must be paused before its state is loaded")
        if [state.vcpu for state in states] != list(range(self.spec.vcpu_count)):
            raise LocalProtocolError("these are not the states of this guest's vCPUs")
        for state in states:
            self.board.vcpu_words[state.vcpu, 0] = state.step
            if self.spec.kind == KVM:
                await self._process.tell(pack("load", state.vcpu, state.machine))
                while await self._hear() != "loaded":
                    pass

    async def run(self) -> None:
        """Let all vCPUs run; nothing changes if they do."""
        await trio.lowlevel.checkpoint()
        if not self.is_running:
            self._count_generation()

    async def pause(self, *, anywhere: bool = False) -> GuestSnapshot:
        """Stop all vCPUs before their next access, also those that wait for a page.

        A vCPU that waited faults again when it runs again, unless the page is present by then.
        When cancelled, the guest stays on its way to be paused; call it again to wait for that.
        One that the kernel has stopped at a page stops here when the page is mapped, and not before
        it has made its access; so somebody has to go on serving faults.

        Args:
            anywhere: Stop vCPUs of a virtual machine where they are, also at a page that is
                missing; those that are threads stop as always.

        Raises:
            GuestFailed: The guest process died, or a vCPU does not stop.
        """
        if self.is_running:
            self._stopping = set(range(self.spec.vcpu_count))
            self._machines.clear()
            self.board.stops_anywhere[0] = anywhere
            self._count_generation()
        if self._stopping and anywhere and self.spec.kind == KVM:
            self._kick()
        with trio.move_on_after(_PAUSE_SECONDS_MAX) as patience:
            while self._stopping:
                await self._hear()
        if patience.cancelled_caught:
            vcpu = min(self._stopping)
            why = ": it waits for a page" if self.board.stopped[vcpu] else ""
            raise GuestFailed(f"vCPU {vcpu} does not stop{why}")
        counters = tuple(map(self.counters, range(self.spec.vcpu_count)))
        states = tuple(
            VcpuState(vcpu, count.step, self._machines.get(vcpu, b""))
            for vcpu, count in enumerate(counters)
        )
        return GuestSnapshot(states, counters)

    def _kick(self) -> None:
        """Have all vCPUs leave the guest now, also those that wait for a page.

        Nobody stands in between: the process's other threads might wait for a processor.
        """
        for thread_id in self.service.thread_ids:
            with suppress(ProcessLookupError):
                libc.tgkill(self.pid, thread_id, KICK)

    async def kill(self) -> None:
        """End the guest for good, also vCPUs that the kernel holds: nobody touches memory any more.

        What the board counted stays.
        """
        await self._process.end()

    def choose_dirty_log(self) -> tuple[DirtyLog, str]:
        """Return the kernel's log if it can be had and was asked for, else the software's, and why.

        Call it before the guest runs.
        """
        return choose_dirty_log(self.board, self.service, self._geometry)

    def set_present(self, pages: slice) -> None:
        """Let vCPUs touch these flat target pages; then `wake` who waits for them."""
        self.board.set_present(pages)

    def clear_present(self, pages: slice) -> None:
        """Make vCPUs fault on these flat target pages; only while the guest is paused."""
        self.board.clear_present(pages)

    def note_stopped(self, vcpu: int) -> None:
        """Have a vCPU that the kernel has stopped at a page say so when it runs again."""
        self.board.stopped[vcpu] = 1

    def counters(self, vcpu: int) -> VcpuCounters:
        """Return what a vCPU has done so far: exact while it is paused, nearly so while it runs."""
        return self.board.counters(vcpu)

    def accesses(self) -> HdrHistogram:
        """Return the access latencies of all vCPUs in nanoseconds, from when each was due."""
        return self.board.accesses()

    async def _hear(self) -> str:
        """Take the next answer of the process; return its name."""
        name, *values = await self._process.hear()
        if name == "parked":
            vcpu, generation, machine = values
            if generation == self.board.generation[0]:
                self._stopping.discard(vcpu)
                self._machines[vcpu] = machine
        return str(name)

    async def discard(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Unmap ranges of what vCPUs touch; the bytes stay in memory.  Only while it is paused.

        Args:
            ranges: (address, length) of whole pages, at most ORDER_RANGE_COUNT_MAX.

        Raises:
            GuestFailed: The guest process died, or the kernel refused.
        """
        await self._process.tell(pack("discard", pack_ranges(ranges)))
        while await self._hear() != "discarded":
            pass

    async def collapse(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Have ranges mapped by huge pages, by and by; `Collapsed` says when that is done.

        Args:
            ranges: (address, length) of whole huge pages, at most ORDER_RANGE_COUNT_MAX.

        Raises:
            GuestFailed: The guest process died.
        """
        await self._process.tell(pack("collapse", pack_ranges(ranges)))

    def _count_generation(self) -> None:
        self.board.generation[0] += 1
        for vcpu in range(self.spec.vcpu_count):
            self.wake(vcpu)

    def wake(self, vcpu: int) -> None:
        """Make a sleeping vCPU look again whether its page is present; cheap, never blocks."""
        os.eventfd_write(self._wake_fds[vcpu], 1)

    async def touch(self, vcpu: int, flat_page: int) -> None:
        """Let a vCPU of a "scripted" guest read a target page, after those it was told before.

        Returns when the order is given; `Touched` says when it is done.

        Raises:
            LocalProtocolError: There is no such vCPU or page, or the guest has a program to follow.
            GuestFailed: The guest process died.
        """
        if self.spec.name != "scripted":
            raise LocalProtocolError(f"vCPUs of the program {self.spec.name!r} take no orders")
        if not 0 <= vcpu < self.spec.vcpu_count:
            raise LocalProtocolError(f"the guest has no vCPU {vcpu}")
        self._geometry.locate(flat_page)
        await self._process.tell(pack("touch", vcpu, flat_page))

    async def receive(self) -> GuestEvent:
        """Return the next thing that the guest reports; one caller at a time.  Safe to cancel.

        Raises:
            GuestFailed: The guest process died; says how.
        """
        return decode_event(await self._process.receive_event())

    def take(self) -> GuestEvent | None:
        """Return the next thing that the guest has reported, None if it is still to come."""
        packet = self._process.take_event()
        return None if packet is None else decode_event(packet)


@asynccontextmanager
async def start_process() -> AsyncIterator[GuestProcess]:
    """Start a process for `open_guest`; it is gone when the block is left.

    It loads what it needs while whoever has it does something else, and waits.

    Raises:
        GuestFailed: The system refused to start a process.
    """
    process = GuestProcess()
    try:
        yield process
    finally:
        await process.end()


@asynccontextmanager
async def open_guest(
    memory: GuestMemory,
    spec: ProgramSpec,
    service: str = services.NONE,
    process: GuestProcess | None = None,
) -> AsyncIterator[GuestHandle]:
    """Start a guest process over `memory`, paused at step 0, all its pages absent.

    When the block is left, however that happens, the process is killed and gone.

    Args:
        memory: What its vCPUs touch.
        spec: What they do.
        service: What the kernel is to do for the engine (guest/services.py); where it cannot be
            had, `GuestHandle.service` says why.
        process: One that was started before; None to start one now.

    Raises:
        GuestFailed: It did not start.
    """
    with ExitStack() as stack:
        board = stack.enter_context(closing(Board.create(memory.geometry, spec.vcpu_count)))
        wake_fds = tuple(stack.enter_context(_eventfd()) for _ in range(spec.vcpu_count))
        process = process or GuestProcess()
        try:
            # A long trace takes its time.
            spec_fd = await trio.to_thread.run_sync(_write_spec, memory.geometry, spec)
            try:
                granted = await process.assemble(
                    spec_fd, board.fd, memory.fds, wake_fds, kinds=memory.kinds, service=service
                )
            finally:
                os.close(spec_fd)
            stack.callback(granted.close)
            yield GuestHandle(memory.geometry, spec, board, wake_fds, process, granted)
        finally:
            await process.end()


@contextmanager
def _eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def _write_spec(geometry: Geometry, spec: ProgramSpec) -> int:
    """Return a memfd with all that the process must know, for it to read from the start."""
    blocks = [(block.name, block.length_bytes, block.page_bytes) for block in geometry.blocks]
    fd = os.memfd_create("midstream-spec", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb", closefd=False) as file:
        file.write(msgpack.packb((blocks, spec.to_plain())))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
