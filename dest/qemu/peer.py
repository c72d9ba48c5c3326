"""A real QEMU as a destination's peer: its handshakes, its words, and what can be told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import trio

from dest.channel import InChannel
from dest.config import QemuDestConfig
from dest.executor import Executor
from dest.peer import Plan, Turns
from dest.phases import Closing
from dest.qemu.admission import QemuAdmission
from dest.qemu.handshakes import Line, hear_opening, hear_resumption
from dest.qemu.receiver import QemuReceiver
from dest.qemu.report import QemuPart, assemble_qemu
from dest.qemu.wire import Wire
from dest.steps import Terms
from dest.words import Word
from guest import clock
from guest.streams.network import Network, TcpNetwork
from protocol.channels import Channel
from protocol.errors import MidstreamError, RemoteProtocolError
from protocol.events import Emit
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId
from protocol.messages import Abort, Bye, Finished, Message, PageRequest, Ready, Standing, Verdict
from protocol.pageset import PageSet
from protocol.policy import Policy
from protocol.qemu.returns import PageRequests, encode_resume_ack, encode_shut
from protocol.qemu.stream import Decoder
from protocol.report import Result, SourcePart
from protocol.states import Lifecycle

# A huge page comes whole over one channel, either; what QEMU decides else is its own.
QEMU_POLICY = Policy("qemu")

# The main channel's end says that all was sent; what the other has on its way is here in a moment.
REST_SECONDS_MAX = 30.0
# How often is told how much has come.
_PROGRESS_SECONDS = 0.1
# How long QEMU is given to close first, once it knows that all is well.
_LINGER_SECONDS_MAX = 5.0


class QemuPeer:
    """One QEMU; see `dest.peer.Peer`.

    vCPUs here are midstream's own.  QEMU's device state, its vCPUs' registers among it, is opaque
    here, and the guest's own program does not go on.  So reads check nothing; that the bytes are
    right can be told from the memory itself.
    """

    def __init__(self, config: QemuDestConfig, emit: Emit, network: Network | None = None) -> None:
        """Wait for nobody yet.

        Args:
            config: What the user said.
            emit: Takes events.
            network: Where it listens; None for the machine's own.
        """
        self.admission = QemuAdmission(config.only_from)
        # How long what is sent may go unacknowledged is left to the kernel.
        self.network = network or TcpNetwork(
            silence_seconds_max=0, window_bytes=config.window_bytes
        )
        self._spec_of = config.spec_of
        self._emit = emit
        self._main: Line
        self._opening: tuple[str, Geometry] | MidstreamError
        self._machine = ""
        self._geometry: Geometry
        self._wire: Wire
        self._receiver: QemuReceiver | None = None
        self._received_bytes: Counter[Channel] = Counter()
        self._returned_bytes = 0
        self._has_preempt = False
        self._recoveries = 0
        # When it connected, when its memory was there to be filled, and when all of it was here.
        self._came_ns = self._ready_ns = self._whole_ns = 0
        self._requests = PageRequests()

    @property
    def path(self) -> QemuPeer:
        """See `Peer`."""
        return self

    @property
    def channels(self) -> Mapping[Channel, InChannel]:
        """See `Peer`."""
        lines = {Channel.PRECOPY: self._main, Channel.POSTCOPY: self.admission.preempt}
        return {name: line.channel for name, line in lines.items() if line is not None}

    async def arrive(self) -> None:
        """See `Peer`."""
        self._main, self._opening = await self.admission.accept_main(hear_opening)

    async def receive_plan(self) -> Plan:
        """See `Peer`."""
        self._came_ns = clock.now_ns()
        if isinstance(self._opening, MidstreamError):
            raise self._opening
        self._machine, self._geometry = self._opening
        self._wire = Wire(self._geometry, self._emit)
        spec = self._spec_of(self._geometry)
        return Plan(self._geometry, QEMU_POLICY, TARGET_PAGE_BYTES, spec)

    def terms(self) -> Terms:
        """See `Peer`: later QEMUs leave the preempt channel's end to the destination."""
        return Terms(
            peer="QEMU", ending=(Channel.PRECOPY,), recovers=True, gives_verdict=False,
            rest_seconds=REST_SECONDS_MAX, linger_seconds=_LINGER_SECONDS_MAX,
        )  # fmt: skip

    def readers(
        self, executor: Executor, turns: Turns, lifecycle: Lifecycle
    ) -> Mapping[Channel, Callable[[], Awaitable[None]]]:
        """See `Peer`."""
        del lifecycle
        receiver = self._receiver
        if receiver is None:
            receiver = QemuReceiver(self._geometry, executor, turns, self._wire)
            self._receiver = receiver
        main, admission = self._main, self.admission

        async def read_preempt() -> None:
            line, first = await admission.accept_preempt(receiver.prove_preempt)
            await receiver.run_preempt(line, first)

        return {
            Channel.PRECOPY: lambda: receiver.run_main(main),
            Channel.POSTCOPY: read_preempt,
        }

    @property
    def can_send_now(self) -> bool:
        """Whether nothing is before what is sent now."""
        return self._main.channel.can_send_now

    def send_now(self, *words: Word) -> bool:
        """Send words as one without waiting; return False, and none has gone, if that cannot be."""
        has_gone = self._main.channel.send_bytes_now(b"".join(map(self._encode, words)))
        if not has_gone:
            # QEMU has not heard which block was named: the next request names it anew.
            self._requests = PageRequests()
        return has_gone

    async def send(self, word: Message, payload: bytes = b"") -> None:
        """Send in turn; QEMU has asked for the payloads that it wants, and got them."""
        del payload
        data = self._encode(word)
        if data:
            await self._main.channel.send_bytes(data)
        if isinstance(word, Bye) and self.admission.preempt is not None:
            self.admission.preempt.channel.close()
        elif isinstance(word, Abort):
            # It waits for the end of the return path.
            self._main.channel.end_sending()

    async def tend(self) -> None:
        """See `Peer`: a QEMU may be silent, and comes back to a migration that is paused only."""

    async def hear_verdict(self) -> tuple[Verdict, SourcePart]:
        """See `Peer`: it gives none."""
        raise RemoteProtocolError("a QEMU compares no memory")

    def hang_up(self) -> None:
        """See `Peer`."""
        self._count()
        for channel in self.channels.values():
            channel.close()
        self.admission.expect_again()
        if self._receiver is not None:
            self._receiver.interrupt()

    async def come_back(self, missing: PageSet) -> None:
        """See `Peer`: QEMU asks for what is missing, and hears it, before it is known for one."""
        self._wire.interrupt(missing.length_bytes)
        decoder = self._main.decoder
        assert isinstance(decoder, Decoder)

        async def prove(line: Line) -> None:
            line.expect(decoder.resumed())
            await hear_resumption(line, self._geometry, missing)

        self._main, _ = await self.admission.accept_main(prove)
        self._requests = PageRequests()

    async def watch(self) -> None:
        """See `Peer`: what a source tells of itself, as far as it can be seen from here."""
        while True:
            self._wire.tell_progress()
            await trio.sleep(_PROGRESS_SECONDS)

    def result(self, status: str, closing: Closing, first_mismatch: str) -> Result:
        """See `Peer`."""
        del first_mismatch
        self._count()
        receiver = self._receiver
        assert receiver is not None, "a migration that ends well has received something"
        part = QemuPart(
            machine=self._machine,
            preempt=self._has_preempt,
            total_ms=(self._whole_ns - self._came_ns) / 1e6,
            setup_ms=(self._ready_ns - self._came_ns) / 1e6,
            target_pages=receiver.target_pages,
            zero_target_pages=receiver.zero_target_pages,
            requested=receiver.requested,
            channel_bytes=self._received_bytes,
            return_path_bytes=self._returned_bytes,
            package_bytes=receiver.package_bytes,
            recoveries=self._recoveries,
        )
        return Result(assemble_qemu(status, part, closing.part, self._geometry), None)

    def _encode(self, word: Message) -> bytes:
        """Return a word in QEMU's language, nothing for one that it does not have; heed it here."""
        match word:
            case PageRequest():
                assert self._receiver is not None, "pages are asked for when the guest is known"
                self._receiver.ask(PageId(word.block, word.page))
                block = self._geometry.blocks[word.block]
                page_bytes = block.page_bytes
                return self._requests.encode(block.name, word.page * page_bytes, page_bytes)
            case Standing():
                # What is missing it has asked for, and heard, before.
                self._recoveries += 1
                return encode_resume_ack()
            case Bye():
                return encode_shut(failed=False)
            case Abort():
                return encode_shut(failed=True)
            case Ready():
                self._ready_ns = clock.now_ns()
            case Finished():
                self._whole_ns = clock.now_ns()
        return b""

    def _count(self) -> None:
        """Add up what the present connections have carried."""
        self._returned_bytes += self._main.channel.bytes_sent
        for name, channel in self.channels.items():
            self._received_bytes[name] += channel.bytes_received
        self._has_preempt = self._has_preempt or self.admission.preempt is not None
