"""A migration out of QEMU, step by step: its opening, precopy, the switch-over, the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from copy import copy
from pathlib import Path

import trio

from dest.hosted import HostedGuest
from dest.qemu.admission import QemuAdmission
from dest.qemu.arrivals import Arrivals
from dest.qemu.handshakes import Line, hear_resumption, out_of_place
from dest.qemu.wire import Wire
from dest.words import Word
from protocol import events
from protocol.channels import Channel
from protocol.errors import ConnectionLost, RemoteProtocolError, as_loss, root_cause
from protocol.events import Emit
from protocol.geometry import Geometry, PageId
from protocol.liveness import PauseLimit
from protocol.messages import PageRequest
from protocol.policy import Policy
from protocol.qemu.decoder import PreemptDecoder
from protocol.qemu.messages import (
    DiscardRanges,
    EndOfSection,
    OpenReturnPath,
    Package,
    Pages,
    Ping,
    QemuMessage,
    StreamEnd,
    SwitchoverStart,
    Zeros,
)
from protocol.qemu.ram import block_table
from protocol.qemu.returns import (
    PageRequests,
    encode_pong,
    encode_resume_ack,
    encode_shut,
)
from protocol.qemu.stream import Decoder
from protocol.states import Event, Lifecycle, State

# A huge page comes whole over one channel, either; what QEMU decides else is its own.
QEMU_POLICY = Policy("qemu")

# The main channel's end says that all was sent; what the other has on its way is here in a moment.
_REST_SECONDS_MAX = 30.0
# How often is told how much has come.
_PROGRESS_SECONDS = 0.1
# How long QEMU is given to close first, once it knows that all is well.
_LINGER_SECONDS_MAX = 5.0


class QemuMigration:
    """One migration; `receive` it, over as many connections as it takes.

    Its vCPUs are midstream's own.  QEMU's device state, its vCPUs' registers among it, is opaque
    here, and the guest's own program does not go on.  So reads check nothing; that the bytes are
    right can be told from the memory itself.

    Attributes:
        main: The main connection; the latest.
        hosted: The guest.
        arrivals: What came.
        has_preempt: QEMU used a connection of its own for urgent pages.
        received_bytes: What came over all connections, by channel; `returned_bytes` what went back.
        package_bytes: How long the device state was.
        recoveries: How often QEMU came back.
        whole_s: When the last page was placed, on the monotonic clock.
    """

    def __init__(
        self,
        admission: QemuAdmission,
        main: Line,
        hosted: HostedGuest,
        geometry: Geometry,
        lifecycle: Lifecycle,
        emit: Emit,
    ) -> None:
        """Prepare; the stream has been read up to its blocks."""
        self.main = main
        self.hosted = hosted
        self._assembly = hosted.engine.assembly
        self._wire = Wire(geometry, emit)
        self.arrivals = Arrivals(geometry, hosted.executor, self._wire)
        self.has_preempt = False
        self.received_bytes: Counter[Channel] = Counter()
        self.returned_bytes = self.package_bytes = self.recoveries = 0
        self.whole_s = 0.0
        self._admission = admission
        self._geometry = geometry
        self._lifecycle = lifecycle
        self._emit = emit
        self._limit = PauseLimit(0.0)
        self._stream = Decoder()
        self._keep: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self._whole = trio.Event()

    def keep_with(self, keep: Callable[[], Awaitable[None]]) -> None:
        """Have the guest's memory kept before QEMU is told that all is well."""
        self._keep = keep

    async def receive(self, touches: Path | None, wait_seconds: float = 0.0) -> None:
        """Receive everything, run vCPUs; return when every page is placed and QEMU knows.

        Args:
            touches: A pipe through which pages to touch come; None for none.
            wait_seconds: How long QEMU is waited for after each break; 0 for not at all.

        Raises:
            ConnectionLost, RemoteProtocolError, GuestFailed: The migration failed.
        """
        self.hosted.tell_run()
        self._lifecycle.fire(Event.PREPARED)
        self._limit = PauseLimit(wait_seconds)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.hosted.watch, touches)
            nursery.start_soon(self._tell_progress)
            loss = await self._epoch(wait_seconds)
            while loss is not None:
                loss = await self._come_back(loss, wait_seconds) or await self._epoch(wait_seconds)
            self.whole_s = time.monotonic()
            await self.hosted.stop()
            nursery.cancel_scope.cancel()
        await self._keep()
        await self.main.send(encode_shut(failed=False))
        self._lifecycle.fire(Event.ALL_PLACED)
        if self._admission.preempt is not None:
            self._admission.preempt.channel.close()
        with trio.move_on_after(_LINGER_SECONDS_MAX):
            await self.main.channel.wait_closed()
        self._count()

    async def _tell_progress(self) -> None:
        while True:
            self._wire.tell_progress()
            await trio.sleep(_PROGRESS_SECONDS)

    async def _epoch(self, wait_seconds: float) -> ConnectionLost | None:
        """Receive over the present connections; return why they are gone, None at the end."""
        try:
            async with trio.open_nursery() as receivers:
                receivers.start_soon(self._ask)
                receivers.start_soon(self.main.channel.send_rests)
                receivers.start_soon(self._receive_preempt)
                await self._receive_main()
                await self._wait_whole()
                # Its end is nothing to wait for: later QEMUs leave it to the destination.
                receivers.cancel_scope.cancel()
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            return self._interrupted(root_cause(error), wait_seconds)
        return None

    async def _come_back(self, loss: ConnectionLost, wait_seconds: float) -> ConnectionLost | None:
        """Wait for QEMU, tell it what is here and go on; return why that broke, if it did."""
        # Where nothing has come since the break before, the pauses add up.
        self._limit.lacks(len(self.hosted.missing))
        self._limit.pause(trio.current_time())
        missing = self.hosted.missing

        async def prove(line: Line) -> None:
            line.decoder = self._stream.resumed()
            await hear_resumption(line, self._geometry, missing)

        with trio.move_on_after(self._limit.seconds_left(trio.current_time())) as patience:
            self.main, _ = await self._admission.accept_main(prove)
        if patience.cancelled_caught:
            raise ConnectionLost(f"{loss}, and QEMU did not come back in {wait_seconds:g} s")
        self._limit.go_on(trio.current_time())
        self._lifecycle.fire(Event.RECONNECTED)
        try:
            await self.main.send(encode_resume_ack())
            self._lifecycle.fire(Event.RECOVERED)
            self.recoveries += 1
            self.hosted.engine.resumed()
            self._emit(
                events.Recovered(missing_bytes=self.hosted.missing.length_bytes, running=True)
            )
        except (ConnectionLost, RemoteProtocolError) as error:
            return self._interrupted(error, wait_seconds)
        return None

    def _interrupted(self, cause: BaseException, wait_seconds: float) -> ConnectionLost:
        """Take notice that the connections are gone, if that is what it is; return why.

        Raises:
            BaseException: The cause, if it ends the migration.
        """
        resumable = self._lifecycle.state in {State.POSTCOPY_ACTIVE, State.POSTCOPY_RECOVER}
        if resumable and wait_seconds:
            # Half of the guest is QEMU's: what cannot be read must cost no more than a break.
            cause = as_loss(cause)
        if not isinstance(cause, ConnectionLost):
            raise cause from None
        self._emit(events.ChannelLost(channel=cause.channel, reason=str(cause)))
        if not (resumable and wait_seconds):
            raise cause from None
        self._lifecycle.interrupt()
        assert isinstance(self.main.decoder, Decoder)
        self._stream = self.main.decoder
        self._count()
        self.main.channel.close()
        if self._admission.preempt is not None:
            self._admission.preempt.channel.close()
        self._admission.expect_again()
        self.hosted.forget_frames()
        self.arrivals.interrupt()
        self._wire.interrupt(self.hosted.missing.length_bytes)
        return cause

    def _count(self) -> None:
        """Add up what the present connections have carried."""
        self.received_bytes[Channel.PRECOPY] += self.main.channel.bytes_received
        self.returned_bytes += self.main.channel.bytes_sent
        preempt = self._admission.preempt
        if preempt is not None:
            self.has_preempt = True
            self.received_bytes[Channel.POSTCOPY] += preempt.channel.bytes_received

    async def _receive_main(self) -> None:
        while True:
            match message := await self.main.receive():
                case Pages() | Zeros():
                    self._take(Channel.PRECOPY, self.main, message)
                case EndOfSection() | SwitchoverStart() | OpenReturnPath():
                    pass
                case Ping(value=value):
                    await self.main.send(encode_pong(value))
                case DiscardRanges():
                    self.arrivals.discard(message)
                case Package():
                    await self._switch_over(message)
                case StreamEnd():
                    return
                case _:
                    raise out_of_place(message)

    async def _receive_preempt(self) -> None:
        line, message = await self._admission.accept_preempt(self._prove_preempt)
        while not isinstance(message, EndOfSection):
            if not isinstance(message, (Pages, Zeros)):
                raise out_of_place(message)
            self._take(Channel.POSTCOPY, line, message)
            message = await line.receive()

    async def _prove_preempt(self, line: Line) -> QemuMessage:
        """Have a connection prove to be that for urgent pages: it brings something that is missing.

        Whoever begins a record, or makes one up for what is here, is not; QEMU's waits beside him.

        Returns:
            What it brings.

        Raises:
            ConnectionLost: It is gone.
            RemoteProtocolError: It says something else.
        """
        shapes = [
            (block.name, block.length_bytes, block.page_bytes) for block in self._geometry.blocks
        ]
        line.decoder = PreemptDecoder(block_table(shapes))
        message = await line.receive()
        if isinstance(message, (Pages, Zeros)):
            self.arrivals.check_missing(message)
        elif not isinstance(message, EndOfSection):
            raise out_of_place(message)
        return message

    def _take(self, name: Channel, line: Line, message: Pages | Zeros) -> None:
        self.arrivals.take(name, line, message)
        if self._assembly.in_postcopy and self._assembly.complete:
            self._whole.set()

    async def _switch_over(self, package: Package) -> None:
        """Take the guest's memory over: from here on vCPUs of this side touch it."""
        self.package_bytes = package.package_bytes
        self._lifecycle.fire(Event.GUEST_STOPPED)
        await self.hosted.take_over(postcopy=True)
        self._wire.switch_over(self._assembly.missing_bytes)
        for value in package.pings:
            await self.main.send(encode_pong(value))
        self.hosted.tell_missing()
        if self._assembly.complete:
            self._whole.set()

    async def _wait_whole(self) -> None:
        with trio.move_on_after(_REST_SECONDS_MAX):
            await self._whole.wait()
            return
        raise RemoteProtocolError(
            f"the source has ended, {self._assembly.missing_bytes} bytes are missing"
        )

    async def _ask(self) -> None:
        """Ask QEMU for pages over the present main connection, until cancelled."""
        path = _Path(self.main, self._geometry, self.arrivals)
        try:
            await self.hosted.executor.converse(path)
        except ConnectionLost:
            # Whoever receives over it has better words for that.
            await trio.sleep_forever()


class _Path:
    """The way to QEMU over one connection."""

    def __init__(self, main: Line, geometry: Geometry, arrivals: Arrivals) -> None:
        self._main = main
        self._geometry = geometry
        self._arrivals = arrivals
        self._requests = PageRequests()

    @property
    def can_send_now(self) -> bool:
        """Whether nothing is before what is sent now."""
        return self._main.channel.can_send_now

    def send_now(self, word: Word) -> bool:
        """Send without waiting; return False, and nothing has gone, where that cannot be done."""
        requests = copy(self._requests)
        has_gone = self._main.channel.send_bytes_now(self._encode(word))
        if not has_gone:
            # QEMU has not heard which block was named.
            self._requests = requests
        return has_gone

    async def send(self, word: Word) -> None:
        """Send in turn."""
        await self._main.send(self._encode(word))

    def _encode(self, word: Word) -> bytes:
        # No checksums are agreed on, so nothing else is ever said.
        assert isinstance(word, PageRequest)
        block = self._geometry.blocks[word.block]
        self._arrivals.ask(PageId(word.block, word.page))
        return self._requests.encode(block.name, word.page * block.page_bytes, block.page_bytes)
