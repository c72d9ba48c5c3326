"""The vCPUs on this side, served: their faults become page requests, scripts have them touch pages.

Faults are heard of in two ways: from the guest process, or where the kernel stops vCPUs from it.

The order in which vCPUs fault is a script's only if the next one touches after the fault before is
known.  So each touch waits until the one before has faulted or is done, and takes a vCPU that is
not waiting for a page already.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import trio

from dest.executor import Executor
from dest.placement import Placement
from dest.script import Script, Step
from guest.busy_poll import BusyPoll
from guest.interface import (
    Collapsed,
    Faulted,
    Guest,
    GuestEvent,
    GuestSnapshot,
    Mismatch,
    Touched,
    Woke,
)
from protocol import events
from protocol.errors import LocalProtocolError
from protocol.events import Emit
from protocol.geometry import Geometry, PageId

# How often is looked for sleepers whose pages are here; there are none unless something was lost.
_RELEASE_SECONDS = 0.1

# How long vCPUs are given to run again when the last page is placed; microseconds are usual.
_WAKE_SECONDS_MAX = 1.0

# How much of what the guest has said is heard before others have their turn.
_HEEDED_AT_ONCE_MAX = 64


class Vcpus:
    """Serves the guest's vCPUs; `run` it for as long as they may fault.

    Attributes:
        first_mismatch: The first wrong value that a vCPU has read; empty if none has.
    """

    def __init__(
        self,
        geometry: Geometry,
        executor: Executor,
        placement: Placement,
        guest: Guest,
        emit: Emit,
        steps: tuple[Step, ...],
    ) -> None:
        """Prepare; nobody hears of a fault before `run`.

        Args:
            geometry: The guest's blocks.
            executor: What faults are told to.
            placement: What lets vCPUs touch pages.
            guest: The vCPUs.
            emit: Takes events.
            steps: Scripted faults.
        """
        self.first_mismatch = ""
        self._executor = executor
        self._engine = executor.engine
        self._placement = placement
        self._guest = guest
        self._emit = emit
        self._script = Script(steps)
        self._toucher = Toucher(geometry, guest)
        # vCPUs that said that they wait, and not yet that they run again.
        self._asleep: set[int] = set()
        self._waking = trio.lowlevel.ParkingLot()
        self._busy_poll = BusyPoll(yields=True, vcpu_count=guest.spec.vcpu_count)
        executor.on_fault = self._note_fault
        if steps:
            self._engine.watch(self._on_happening)

    @property
    def idled_ns(self) -> tuple[int, int]:
        """How long the event loop went round for nothing, and how long it let others run."""
        return self._busy_poll.polled_ns, self._busy_poll.yielded_ns

    async def run(self, touches: Path | None) -> None:
        """Serve until cancelled; have pages touched, too, that come through a pipe.

        Raises:
            GuestFailed: The guest process is gone.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._busy_poll.run)
            nursery.start_soon(self._watch_guest)
            nursery.start_soon(self._watch_faults)
            nursery.start_soon(self._release_overdue)
            nursery.start_soon(self._placement.run)
            nursery.start_soon(self._toucher.run)
            if touches is not None:
                nursery.start_soon(read_touches, touches, self._touch)

    async def stop(self) -> GuestSnapshot:
        """Stop vCPUs that wait for nothing any more, and hear all that they have said; while `run`.

        Who wants to say something stops when he was heard, so this is not to be done behind `run`.

        Raises:
            GuestFailed: The guest process died, or a vCPU does not stop.
        """
        # The word of those that were woken last is on its way.
        with trio.move_on_after(_WAKE_SECONDS_MAX):
            while self._asleep:
                await self._waking.park()
        snapshot = await self._guest.pause()
        while (event := self._guest.take()) is not None:
            self._heed(event)
        return snapshot

    async def _watch_faults(self) -> None:
        """Hear of vCPUs that the kernel stops."""
        while True:
            await self._placement.wait_faults()
            self._executor.hear_faults()

    async def _release_overdue(self) -> None:
        """See to it that no vCPU sleeps on because a wake-up was lost."""
        while True:
            await trio.sleep(_RELEASE_SECONDS)
            self._executor.release_overdue()

    async def _watch_guest(self) -> None:
        """Serve the guest: have its pages asked for, note who wakes and what it finds wrong."""
        while True:
            heard = await self._guest.receive()
            # Who says that he woke may wait again by now, and his page comes before his word.
            self._executor.hear_faults()
            self._heed(heard)
            # Between two looks of the event loop many may wake; who waits to say so does not run.
            for _ in range(_HEEDED_AT_ONCE_MAX):
                event = self._guest.take()
                if event is None:
                    break
                self._heed(event)

    def _heed(self, event: GuestEvent) -> None:
        match event:
            case Faulted(vcpu, flat, fault_ns):
                self._executor.fault(vcpu, flat, fault_ns)
                self._executor.say()
            case Woke(vcpu, _, fault_ns, woke_ns):
                self._busy_poll.prolong()
                self._engine.woke(vcpu, woke_ns, fault_ns)
                self._asleep.discard(vcpu)
                if self._waking:
                    self._waking.unpark_all()
            case Collapsed(range_count, _):
                self._placement.collapsed(range_count)
            case Mismatch(vcpu, flat, step, expected, seen):
                self.first_mismatch = self.first_mismatch or (
                    f"vCPU {vcpu} read {seen:#x} in target page {flat} on the destination, "
                    f"{expected:#x} must be there"
                )
                self._emit(events.Mismatch(vcpu=vcpu, target_page=flat, step=step))
            case Touched(vcpu, _):
                page = self._toucher.touched(vcpu)
                if page is not None:
                    self._emit(events.Touched(vcpu=vcpu, block=page.block, page=page.index))

    def _note_fault(self, vcpu: int) -> None:
        # Each turn of the loop is waited for.
        self._busy_poll.prolong()
        self._asleep.add(vcpu)
        self._toucher.faulted(vcpu)

    def _on_happening(self, what: str, page: PageId) -> None:
        # In precopy no vCPU runs here, and what has come is not kept account of.
        if self._engine.assembly.in_postcopy:
            share = self._engine.received_share(page)
            for fault in self._script.happened(what, page, share):
                self._touch(fault)

    def _touch(self, page: PageId, target_page: int = 0) -> None:
        self._emit(events.Touch(block=page.block, page=page.index))
        self._toucher.ask(page, target_page)


class Toucher:
    """Gives a scripted guest's vCPUs their touches; `run` does, the other calls only tell."""

    def __init__(self, geometry: Geometry, guest: Guest) -> None:
        """Start with all vCPUs idle and nothing to touch."""
        self._geometry = geometry
        self._guest = guest
        self._idle = list(range(guest.spec.vcpu_count))
        self._changed = trio.lowlevel.ParkingLot()
        self._under_way: int | None = None
        # What each vCPU is to touch.
        self._pages: dict[int, PageId] = {}
        self._ask, self._asked = trio.open_memory_channel[tuple[PageId, int]](float("inf"))

    def ask(self, page: PageId, target_page: int = 0) -> None:
        """Queue a page to be touched: its 4 KiB of that number, counted from 0."""
        self._ask.send_nowait((page, target_page))

    def faulted(self, vcpu: int) -> None:
        """Say that a vCPU's touch has become a fault; the next touch may go."""
        if self._under_way == vcpu:
            self._under_way = None
        if self._changed:
            self._changed.unpark_all()

    def touched(self, vcpu: int) -> PageId | None:
        """Say that a vCPU's touch is done, and return of which page; it may have another."""
        self._idle.append(vcpu)
        self.faulted(vcpu)
        return self._pages.pop(vcpu, None)

    async def run(self) -> None:
        """Touch pages until cancelled."""
        async for page, target_page in self._asked:
            while not self._idle or self._under_way is not None:
                await self._changed.park()
            vcpu = self._under_way = self._idle.pop(0)
            self._pages[vcpu] = page
            touched = self._geometry.page_span(page).target_pages.start + target_page
            await self._guest.touch(vcpu, self._geometry.flat_target_page(page.block, touched))


async def read_touches(path: Path, ask: Callable[[PageId, int], None]) -> None:
    """Ask for the pages that come as lines out of a named pipe, until its end.

    A line is "BLOCK PAGE TARGET_PAGE", the last counted from 0 inside the page.

    Raises:
        LocalProtocolError: It cannot be opened, or another line comes.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LocalProtocolError(f"{path}: {error.strerror}") from error
    rest = b""
    async with trio.lowlevel.FdStream(fd) as stream:
        while data := await stream.receive_some():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                try:
                    block, page, target_page = map(int, line.split())
                except ValueError as error:
                    raise LocalProtocolError(f"{path}: {line[:40]!r} is no page") from error
                ask(PageId(block, page), target_page)
