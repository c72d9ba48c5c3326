"""A migration out of QEMU, step by step: its opening, precopy, the switch-over, the end."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import trio

from dest.engine import Engine
from dest.missing import tell_missing
from dest.placement import make_placement
from dest.qemu.arrivals import Arrivals
from dest.qemu.channel import QemuChannel
from dest.qemu.listen import QemuListener
from dest.qemu.wire import Wire
from dest.script import Step
from dest.statistics import counted_so_far, dest_part
from dest.vcpus import Vcpus
from guest.handle import GuestHandle, GuestSnapshot
from guest.memory import GuestMemory
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.events import ACCESSES, GUEST_RUN, Emit, tell_run
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock
from protocol.limits import SETUP_SECONDS_MAX
from protocol.messages import PageRequest
from protocol.policy import Policy
from protocol.qemu.decoder import PreemptDecoder
from protocol.qemu.messages import (
    Advise,
    AskReceived,
    Blocks,
    Configuration,
    DiscardRanges,
    EndOfSection,
    OpenReturnPath,
    Package,
    Pages,
    Ping,
    QemuMessage,
    Resume,
    StreamEnd,
    SwitchoverStart,
    Zeros,
)
from protocol.qemu.ram import block_table
from protocol.qemu.returns import PageRequests, encode_pong, encode_shut
from protocol.report import DestPart
from protocol.states import Event, Lifecycle

# A huge page comes whole over one channel, either; what QEMU decides else is its own.
QEMU_POLICY = Policy("qemu")

# The main channel's end says that all was sent; what the other has on its way is here in a moment.
_REST_SECONDS_MAX = 30.0
# How often is told how much has come.
_PROGRESS_SECONDS = 0.1
# How long QEMU is given to close first, once it knows that all is well.
_LINGER_SECONDS_MAX = 5.0


async def receive_opening(main: QemuChannel) -> tuple[str, Geometry]:
    """Read up to the list of blocks; return the machine and the guest's blocks.

    Raises:
        ConnectionLost: QEMU is gone.
        RemoteProtocolError: Not a stream that can be taken, or nothing in time.
    """
    machine, returns, advised = "", False, False
    with trio.move_on_after(SETUP_SECONDS_MAX):
        while True:
            match message := await main.receive():
                case Configuration():
                    machine = message.machine
                case OpenReturnPath():
                    returns = True
                case Ping(value=value) if returns:
                    await main.send(encode_pong(value))
                case Advise(page_sizes=page_sizes):
                    advised = bool(page_sizes)
                case Blocks():
                    # Only with the advice are page sizes on the wire, and only then can pages be
                    # asked for.
                    if not (returns and advised):
                        raise RemoteProtocolError(
                            "the source has no postcopy; switch its capability postcopy-ram on"
                        )
                    return machine, Geometry(tuple(RamBlock(*block) for block in message.blocks))
                case _:
                    raise _out_of_place(message)
    raise RemoteProtocolError(f"no RAMBlocks came in {SETUP_SECONDS_MAX:g} s")


class QemuMigration:
    """One migration; `receive` it.

    Its vCPUs are midstream's own.  QEMU's device state, its vCPUs' registers among it, is opaque
    here, and the guest's own program does not go on.  So reads check nothing; that the bytes are
    right can be told from the memory itself.

    Attributes:
        arrivals: What came.
        package_bytes: How long the device state was.
        whole_s: When the last page was placed, on the monotonic clock.
        placement_reason: See `protocol.report.DestPart`.
    """

    def __init__(
        self,
        listener: QemuListener,
        main: QemuChannel,
        memory: GuestMemory,
        guest: GuestHandle,
        lifecycle: Lifecycle,
        emit: Emit,
        steps: tuple[Step, ...],
    ) -> None:
        """Prepare; the stream has been read up to its blocks."""
        self.placement_reason = ""
        self._placement = make_placement(memory, guest)
        self.engine = Engine(
            memory, guest, self._placement, QEMU_POLICY, emit,
            self._note_fault,
        )  # fmt: skip
        self._wire = Wire(memory.geometry, emit)
        self.arrivals = Arrivals(memory.geometry, self.engine, self._wire)
        self.package_bytes = 0
        self.whole_s = 0.0
        self._listener = listener
        self._main = main
        self._geometry = memory.geometry
        self._memory = memory
        self._guest = guest
        self._lifecycle = lifecycle
        self._emit = emit
        self._requests = PageRequests()
        self._vcpus = Vcpus(
            memory.geometry, self.engine, self._placement, guest, emit, steps, self._ask
        )
        self._snapshot: GuestSnapshot | None = None
        self._whole = trio.Event()

    async def receive(self, touches: Path | None) -> None:
        """Receive everything, run vCPUs; return when every page is placed and QEMU knows.

        Raises:
            ConnectionLost, RemoteProtocolError, GuestFailed: The migration failed.
        """
        tell_run(
            self._emit, self._geometry,
            policy=QEMU_POLICY.name, chunk_bytes=TARGET_PAGE_BYTES,
            vcpus=self._guest.spec.vcpu_count, program=self._guest.spec.name,
        )  # fmt: skip
        self._lifecycle.fire(Event.PREPARED)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._vcpus.run, touches)
            nursery.start_soon(self._tell_progress)
            async with trio.open_nursery() as receivers:
                receivers.start_soon(self._receive_preempt)
                await self._receive_main()
                await self._wait_whole()
                self.whole_s = time.monotonic()
                # Its end is nothing to wait for: later QEMUs leave it to the destination.
                receivers.cancel_scope.cancel()
            await self._placement.finish()
            await self._vcpus.wait_awake()
            nursery.cancel_scope.cancel()
        self._snapshot = await self._guest.pause()
        self._emit(ACCESSES, **asdict(self.part().accesses))
        await self._main.send(encode_shut(failed=False))
        self._lifecycle.fire(Event.ALL_PLACED)
        if self._listener.preempt is not None:
            self._listener.preempt.close()
        with trio.move_on_after(_LINGER_SECONDS_MAX):
            await self._main.wait_closed()

    async def _tell_progress(self) -> None:
        while True:
            self._wire.tell_progress()
            await trio.sleep(_PROGRESS_SECONDS)

    def part(self) -> DestPart:
        """Return what this side knows, at the end or so far; the guest may be gone by now."""
        return dest_part(
            self.engine, self._placement, self.placement_reason, self._memory, self._guest,
            self._snapshot or counted_so_far(self._guest),
        )  # fmt: skip

    async def _receive_main(self) -> None:
        while True:
            match message := await self._main.receive():
                case Pages() | Zeros():
                    self._take(Channel.PRECOPY, self._main, message)
                case EndOfSection() | SwitchoverStart() | OpenReturnPath():
                    pass
                case Ping(value=value):
                    await self._main.send(encode_pong(value))
                case DiscardRanges():
                    self.arrivals.discard(message)
                case Package():
                    await self._switch_over(message)
                case StreamEnd():
                    return
                case _:
                    raise _out_of_place(message)

    async def _receive_preempt(self) -> None:
        await self._listener.preempt_came.wait()
        channel = self._listener.preempt
        assert channel is not None
        shapes = [
            (block.name, block.length_bytes, block.page_bytes) for block in self._geometry.blocks
        ]
        channel.decoder = PreemptDecoder(block_table(shapes))
        while True:
            match message := await channel.receive():
                case Pages() | Zeros():
                    self._take(Channel.POSTCOPY, channel, message)
                case EndOfSection():
                    return
                case _:
                    raise _out_of_place(message)

    def _take(self, name: Channel, channel: QemuChannel, message: Pages | Zeros) -> None:
        self.arrivals.take(name, channel, message)
        if self.engine.assembly.in_postcopy and self.engine.assembly.complete:
            self._whole.set()

    async def _switch_over(self, package: Package) -> None:
        """Take the guest's memory over: from here on vCPUs of this side touch it."""
        self.package_bytes = package.package_bytes
        self._lifecycle.fire(Event.GUEST_STOPPED)
        self.engine.start_postcopy()
        self._wire.switch_over(self.engine.assembly.missing_bytes)
        self._lifecycle.fire(Event.POSTCOPY_STARTED)
        for value in package.pings:
            await self._main.send(encode_pong(value))
        await self._placement.settle()
        await self._guest.run()
        self._emit(GUEST_RUN)
        tell_missing(self._emit, self._geometry, self.engine.assembly)
        if self.engine.assembly.complete:
            self._whole.set()

    async def _wait_whole(self) -> None:
        with trio.move_on_after(_REST_SECONDS_MAX):
            await self._whole.wait()
            return
        raise RemoteProtocolError(
            f"the source has ended, {self.engine.assembly.missing_bytes} bytes are missing"
        )

    def _note_fault(self, vcpu: int, request: PageRequest | None) -> None:
        self._vcpus.note_fault(vcpu, request)

    async def _ask(self, request: PageRequest) -> None:
        block = self._geometry.blocks[request.block]
        offset = request.page * block.page_bytes
        self.arrivals.ask(PageId(request.block, request.page))
        await self._main.send(self._requests.encode(block.name, offset, block.page_bytes))
        self.engine.requested(request)


def _out_of_place(message: QemuMessage) -> RemoteProtocolError:
    if isinstance(message, (Resume, AskReceived)):
        return RemoteProtocolError(
            "the source wants to resume a migration, which is not known here"
        )
    return RemoteProtocolError(f"{type(message).__name__} came where it cannot be")
