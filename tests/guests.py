"""Guests for tests: memory with a pattern, and a guest that has no process and no vCPUs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from guest.board import Board, VcpuCounters
from guest.dirty_log import DirtyLog, choose_dirty_log
from guest.handle import GuestProcess
from guest.interface import Guest, GuestSnapshot
from guest.memory import GuestMemory
from guest.messages import Faulted, GuestEvent, Touched, Woke
from guest.pattern import Pattern
from guest.programs import ProgramSpec
from guest.services import NONE, Service
from guest.slices import finish
from guest.states import VcpuState
from protocol.geometry import Geometry, RamBlock

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

KIB, MIB = 1 << 10, 1 << 20
HUGE = 2 * MIB

SEED = 7

# How often others have their turn before a vCPU that waits for them is given up.
_TURNS_MAX = 1000


def small_geometry() -> Geometry:
    """Return a guest of four huge pages and 32 base pages."""
    return Geometry((RamBlock("ram", 4 * HUGE, HUGE), RamBlock("rom", 32 * 4 * KIB, 4 * KIB)))


@contextmanager
def patterned_memory(geometry: Geometry) -> Iterator[GuestMemory]:
    """Make a guest's memory, filled as sources fill theirs: no word of it is zero for long."""
    with GuestMemory.create(geometry, "base") as memory:
        for view, block in zip(memory.views, _pattern(geometry), strict=True):
            view[:] = block
        yield memory


@cache
def _pattern(geometry: Geometry) -> list[bytes]:
    """Return the contents of all blocks; to copy them is faster than to work them out again."""
    with GuestMemory.create(geometry, "base") as memory:
        finish(Pattern(SEED).fill(memory))
        return bytes_of(memory)


def bytes_of(memory: GuestMemory) -> list[bytes]:
    """Return a copy of all blocks."""
    return [bytes(view) for view in memory.views]


# What is saved to files, and read from them: two blocks of different pages.
SAVED_GEOMETRY = Geometry((RamBlock("ram", 8 << 20, 2 << 20), RamBlock("rom", 64 << 10, 4096)))


def huge_mapped_bytes(address: int, pid: int | str = "self") -> int:
    """Return how much of the mapping at an address is mapped by transparent huge pages."""
    begins_here = False
    with Path(f"/proc/{pid}/smaps").open(encoding="utf-8") as lines:
        for line in lines:
            name, *values = line.split()
            if not name.endswith(":"):
                begins_here = int(name.partition("-")[0], 16) == address
            elif begins_here and name == "ShmemPmdMapped:":
                return int(values[0]) << 10
    return 0


class FakeGuest:
    """What an engine sees of a guest, without vCPUs: a real board, and a record of what is done.

    A vCPU that was told to fault runs again when it is woken and its page is present.

    Attributes:
        calls: "run", "pause", "load" and "kill", in order.
        woken: The vCPUs that were woken, in order.
        touches: (vCPU, flat target page) of each touch that was asked for.
        states: What was loaded, and what a pause returns.
        stopped_anywhere: Whether the last pause asked for no boundary.
        drowsy: vCPUs that are woken say so only at `say_awake`.
        last_words: What vCPUs have still to say when they are to stop.
    """

    pid = 0

    def __init__(self, geometry: Geometry, spec: ProgramSpec) -> None:
        """Start paused at step 0."""
        self.spec = spec
        self._geometry = geometry
        self.board = Board.create(geometry, spec.vcpu_count)
        self.service = Service(NONE, "", (), (), None, -1)
        self.calls: list[str] = []
        self.woken: list[int] = []
        self.touches: list[tuple[int, int]] = []
        self.states = tuple(VcpuState(vcpu, 0) for vcpu in range(spec.vcpu_count))
        self.is_running = False
        self.drowsy = False
        self.stopped_anywhere = False
        self.last_words: list[GuestEvent] = []
        self._waiting: dict[int, int] = {}
        self._unsaid: list[GuestEvent] = []
        self._tell, self._events = trio.open_memory_channel[GuestEvent](float("inf"))

    @property
    def handle(self) -> Guest:
        """This guest, as engines see it."""
        return self

    def tell(self, event: GuestEvent) -> None:
        """Report something to the engine."""
        self._tell.send_nowait(event)

    def fault(self, vcpu: int, flat: int, fault_ns: int = 0) -> None:
        """Have a vCPU touch a page; it waits if the page is not present."""
        if self.board.present[flat]:
            self.tell(Touched(vcpu, flat))
        else:
            self._waiting[vcpu] = flat
            self.tell(Faulted(vcpu, flat, fault_ns))

    async def receive(self) -> GuestEvent:
        """Return the next event."""
        return await self._events.receive()

    @property
    def unheard_count(self) -> int:
        """How many events nobody has taken yet."""
        return self._events.statistics().current_buffer_used

    def take(self) -> GuestEvent | None:
        """Return the next event if there is one."""
        with suppress(trio.WouldBlock):
            return self._events.receive_nowait()
        return None

    async def kill(self) -> None:
        """Note that nothing runs any more."""
        await trio.lowlevel.checkpoint()
        self.calls.append("kill")
        self.is_running = False

    def wake(self, vcpu: int) -> None:
        """Make a vCPU look again."""
        self.woken.append(vcpu)
        flat = self._waiting.get(vcpu)
        if flat is not None and self.board.present[flat]:
            del self._waiting[vcpu]
            self._unsaid += [Woke(vcpu, flat, 0, 1), Touched(vcpu, flat)]
            if not self.drowsy:
                self.say_awake()

    def say_awake(self) -> None:
        """Have all woken vCPUs say that they run again."""
        unsaid, self._unsaid = self._unsaid, []
        for event in unsaid:
            self.tell(event)

    async def touch(self, vcpu: int, flat_page: int) -> None:
        """Note an order."""
        await trio.lowlevel.checkpoint()
        self.touches.append((vcpu, flat_page))

    async def run(self) -> None:
        """Run."""
        await trio.lowlevel.checkpoint()
        self.calls.append("run")
        self.is_running = True

    async def pause(self, *, anywhere: bool = False) -> GuestSnapshot:
        """Stand still, as soon as all that was said is heard: a real vCPU waits for that, too."""
        while self.last_words:
            self.tell(self.last_words.pop(0))
        for _ in range(_TURNS_MAX):
            await trio.lowlevel.checkpoint()
            if not self.unheard_count:
                break
        else:
            raise AssertionError("a vCPU that nobody hears does not stop")
        self.calls.append("pause")
        self.stopped_anywhere = anywhere
        self.is_running = False
        counters = tuple(map(self.counters, range(self.spec.vcpu_count)))
        return GuestSnapshot(self.states, counters)

    async def load(self, states: tuple[VcpuState, ...]) -> None:
        """Take states over."""
        await trio.lowlevel.checkpoint()
        assert not self.is_running
        self.calls.append("load")
        self.states = states

    def choose_dirty_log(self) -> tuple[DirtyLog, str]:
        """Return the log that is on the board: nobody marks what is written but a test."""
        return choose_dirty_log(self.board, self.service, self._geometry)

    def set_present(self, pages: slice) -> None:
        """Note on the board what vCPUs may touch."""
        self.board.set_present(pages)

    def clear_present(self, pages: slice) -> None:
        """Note on the board what they may not."""
        self.board.clear_present(pages)

    def note_stopped(self, vcpu: int) -> None:
        """Note that the kernel has stopped a vCPU."""
        self.board.stopped[vcpu] = 1

    async def discard(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Refuse: without a kernel's service nothing is mapped."""
        raise AssertionError(f"{len(ranges)} ranges of a guest that maps nothing")

    async def collapse(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Refuse: without a kernel's service nothing is mapped."""
        raise AssertionError(f"{len(ranges)} ranges of a guest that maps nothing")

    def counters(self, vcpu: int) -> VcpuCounters:
        """Return what the board says of a vCPU."""
        return self.board.counters(vcpu)

    def accesses(self) -> HdrHistogram:
        """Return the latencies on the board."""
        return self.board.accesses()


@contextmanager
def fake_guest(
    geometry: Geometry, spec: ProgramSpec | None = None, kind: type[FakeGuest] = FakeGuest
) -> Iterator[FakeGuest]:
    """Make a fake guest, of a kind; afterwards it has no board any more."""
    guest = kind(geometry, spec or ProgramSpec(seed=SEED))
    try:
        yield guest
    finally:
        guest.board.close()
        del guest.board


class FakeGuests:
    """Stands in for `open_guest` in a session; keeps what it made."""

    def __init__(self, kind: type[FakeGuest] = FakeGuest) -> None:
        """Start with none; all will be of a kind."""
        self.made: list[FakeGuest] = []
        self._kind = kind

    @asynccontextmanager
    async def start(self) -> AsyncIterator[None]:
        """Stand in for `start_process`: there is none."""
        await trio.lowlevel.checkpoint()
        yield

    @asynccontextmanager
    async def open(
        self,
        memory: GuestMemory,
        spec: ProgramSpec,
        service: str = NONE,
        process: GuestProcess | None = None,
    ) -> AsyncIterator[Guest]:
        """Make one, which has nothing of the kernel."""
        assert process is None
        await trio.lowlevel.checkpoint()
        with fake_guest(memory.geometry, spec, self._kind) as guest:
            reason = "there is no guest process" if service != NONE else ""
            guest.service = replace(guest.service, reason=reason)
            self.made.append(guest)
            yield guest.handle
