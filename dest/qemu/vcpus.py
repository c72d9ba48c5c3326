"""The vCPUs that touch a QEMU guest's memory here, and what follows from it.

They are midstream's own.  QEMU's device state, its vCPUs' registers among it, is opaque here: the
guest's own program does not go on.  So reads check nothing; that the bytes are right can be told
from the memory itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from dest.engine import Engine
from dest.script import Script, Step
from dest.touching import Toucher, read_touches
from guest.handle import Faulted, GuestHandle, Touched, Woke
from protocol.events import TOUCH, Emit
from protocol.geometry import Geometry, PageId
from protocol.messages import PageRequest

# How long vCPUs are given to run again when the last page is placed; microseconds are usual.
_WAKE_SECONDS_MAX = 1.0


class Vcpus:
    """Serves the guest's vCPUs; `run` it for as long as they may fault."""

    def __init__(
        self,
        geometry: Geometry,
        engine: Engine,
        guest: GuestHandle,
        emit: Emit,
        steps: tuple[Step, ...],
        ask: Callable[[PageRequest], Awaitable[None]],
    ) -> None:
        """Prepare.

        Args:
            geometry: The guest's blocks.
            engine: Where faults go.
            guest: The vCPUs.
            emit: Takes events.
            steps: Scripted faults.
            ask: Sends a page request.
        """
        self._engine = engine
        self._guest = guest
        self._emit = emit
        self._ask = ask
        self._script = Script(steps)
        self._toucher = Toucher(geometry, guest)
        # vCPUs that said that they wait, and not yet that they run again.
        self._asleep: set[int] = set()
        self._waking = trio.lowlevel.ParkingLot()
        if steps:
            engine.watch(self._on_happening)

    async def run(self, touches: Path | None) -> None:
        """Serve until cancelled; have pages touched, too, that come through a pipe."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._toucher.run)
            if touches is not None:
                nursery.start_soon(read_touches, touches, self._touch)
            await self._watch_guest()

    async def wait_awake(self) -> None:
        """Wait for the word of those that were woken last; it is on its way."""
        with trio.move_on_after(_WAKE_SECONDS_MAX):
            while self._asleep:
                await self._waking.park()

    async def _watch_guest(self) -> None:
        while True:
            event = await self._guest.receive()
            match event:
                case Faulted(vcpu, flat, fault_ns):
                    await self._toucher.faulted(vcpu)
                    self._asleep.add(vcpu)
                    request = self._engine.fault(vcpu, flat, fault_ns)
                    if request is not None:
                        await self._ask(request)
                        self._engine.requested(request)
                case Woke(vcpu, _, _, woke_ns):
                    self._engine.woke(vcpu, woke_ns)
                    self._asleep.discard(vcpu)
                    self._waking.unpark_all()
                case Touched(vcpu, _):
                    await self._toucher.touched(vcpu)

    def _on_happening(self, what: str, page: PageId) -> None:
        # In precopy no vCPU runs here, and what has come is not kept account of.
        if self._engine.assembly.in_postcopy:
            share = self._engine.received_share(page)
            for fault in self._script.happened(what, page, share):
                self._touch(fault)

    def _touch(self, page: PageId) -> None:
        self._emit(TOUCH, block=page.block, page=page.index)
        self._toucher.ask(page)
