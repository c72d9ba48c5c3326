"""The other side of a session, played by hand, and what the real side is given for it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import groupby
from typing import Any, get_type_hints

import msgpack
import numpy as np
import trio

from guest.digest import digest
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from guest.slices import finish
from protocol.channels import Channel
from protocol.fields import PackedRuns
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId
from protocol.messages import (
    PROTOCOL_VERSION,
    Abort,
    Account,
    Bye,
    Discard,
    End,
    Finished,
    Hello,
    Message,
    PageData,
    PassAck,
    PassEnd,
    Ready,
    Resume,
    RunData,
    Running,
    Setup,
    SwitchOver,
    Verdict,
    Welcome,
    ZeroData,
)
from protocol.policy import preset
from protocol.records import pack_record, unpack_record
from protocol.report import AccountRecord, DestPart, SourcePart, assemble
from protocol.runs import Flags, Runs, pack_runs, unpack_runs
from source.config import SourceConfig
from source.convergence import SwitchRule
from tests.bounds import BOUND_SECONDS, bounded
from tests.guests import HUGE, KIB, SEED
from tests.sockets import Peer, dial

SESSION = bytes(range(16))


def run_frame(
    runs: Runs, is_zero: Flags | None = None, payload: bytes = b"", *, urgent: bool = False
) -> tuple[RunData, bytes]:
    """Return the frame of some runs, of which none is zero unless told otherwise."""
    if is_zero is None:
        is_zero = np.zeros(len(runs), dtype=np.bool_)
    packed = PackedRuns(pack_runs(runs, is_zero))
    message = RunData(
        payload_bytes=len(payload), block=runs.block, offset=runs.offset, runs=packed,
        urgent=urgent,
    )  # fmt: skip
    return message, payload


class HandSource:
    """A source's side of a session, message by message; what it says need not be true.

    Attributes:
        peers: Its connections that are open, by role.
        memory: What it would send, filled with the pattern.
        buffer_bytes: For its receive buffers, where they are to be small.
    """

    def __init__(self, memory: GuestMemory, policy: str = "ordered") -> None:
        """Prepare; nothing is connected."""
        self.peers: dict[Channel, Peer] = {}
        self.memory = memory
        self.geometry = memory.geometry
        self.policy = policy
        self.chunk_bytes = 256 * KIB
        self.spec = ProgramSpec(seed=SEED)
        self.buffer_bytes: int | None = None
        self.capabilities: tuple[str, ...] = ()

    @property
    def main(self) -> Peer:
        """The precopy connection."""
        return self.peers[Channel.PRECOPY]

    @property
    def second(self) -> Peer:
        """The postcopy connection."""
        return self.peers[Channel.POSTCOPY]

    def setup(self) -> tuple[Setup, bytes]:
        """Return the Setup and its payload."""
        spec = msgpack.packb(self.spec.to_plain())
        blocks = tuple((b.name, b.length_bytes, b.page_bytes) for b in self.geometry.blocks)
        setup = Setup(
            payload_bytes=len(spec),
            blocks=blocks,
            policy=self.policy,
            chunk_bytes=self.chunk_bytes,
            switches=preset(self.policy).switches,
        )
        return setup, spec

    async def connect(self, address: str, *names: Channel) -> None:
        """Connect over the channels named, all by default, and say hello."""
        for name in names or tuple(Channel):
            peer = self.peers[name] = await dial(address, self.buffer_bytes)
            hello = Hello(
                version=PROTOCOL_VERSION,
                session=SESSION,
                role=name.value,
                capabilities=self.capabilities,
            )
            await peer.send(hello)
            await peer.expect(Welcome)

    async def resume(self, address: str, attempt: int) -> None:
        """Connect again over both channels."""
        for name in Channel:
            peer = self.peers[name] = await dial(address)
            role = name.value
            await peer.send(
                Resume(version=PROTOCOL_VERSION, session=SESSION, role=role, attempt=attempt)
            )
            await peer.expect(Welcome)

    async def set_up(self) -> None:
        """Say what migrates and wait for Ready."""
        await self.main.send(*self.setup())
        await self.main.expect(Ready)

    async def start_postcopy(self) -> None:
        """Discard everything and hand the guest over."""
        for block, shape in enumerate(self.geometry.blocks):
            count = shape.target_page_count
            bits = np.packbits(np.ones(count, np.bool_), bitorder="little").tobytes()
            discard = Discard(payload_bytes=len(bits), block=block, first=0, count=count)
            await self.main.send(discard, bits)
        await self.switch_over(postcopy=True)

    async def switch_over(self, *, postcopy: bool) -> None:
        """Send a switch-over with the vCPUs at step 0."""
        state = msgpack.packb([[vcpu, 0] for vcpu in range(self.spec.vcpu_count)])
        await self.main.send(SwitchOver(payload_bytes=len(state), postcopy=postcopy), state)

    async def send_page(self, name: Channel, page: PageId, *, urgent: bool = False) -> None:
        """Send a whole page, in chunks, over a channel."""
        span = self.geometry.page_span(page)
        for offset in range(span.offset, span.end, self.chunk_bytes):
            length = min(self.chunk_bytes, span.end - offset)
            await self.send_bytes(name, page.block, offset, length, urgent=urgent)

    async def send_bytes(
        self, name: Channel, block: int, offset: int, length: int, *, urgent: bool = False
    ) -> None:
        """Send a stretch of memory as one frame."""
        data = PageData(payload_bytes=length, block=block, offset=offset, urgent=urgent)
        view = self.memory.views[block]
        await self.peers[name].send(data, bytes(view[offset : offset + length]))

    async def send_zeros(self, name: Channel, block: int, offset: int, length: int) -> None:
        """Say that a stretch of memory is zero."""
        await self.peers[name].send(ZeroData(block=block, offset=offset, length=length))

    async def send_rest(self, *sent: PageId) -> None:
        """Send all pages but those named over the precopy channel."""
        for page in self.pages():
            if page not in sent:
                await self.send_page(Channel.PRECOPY, page)

    async def end(self, postcopy_pages: int = 0) -> None:
        """Say that all was sent; of that, so many huge pages over the postcopy channel."""
        total = self.geometry.target_page_count
        second = postcopy_pages * (HUGE // TARGET_PAGE_BYTES)
        first = total - second
        await self.main.send(End(target_pages=first, data_bytes=first * TARGET_PAGE_BYTES))
        if Channel.POSTCOPY in self.peers:
            data_bytes = second * TARGET_PAGE_BYTES
            await self.second.send(End(target_pages=second, data_bytes=data_bytes))

    async def hear_account(self) -> AccountRecord:
        """Hear Finished and the account that follows it."""
        await self.main.skip_to(Finished)
        message, payload = await self.main.receive()
        assert isinstance(message, Account)
        return unpack_record(AccountRecord, payload)

    async def say_verdict(self, *, equal: bool = True, detail: str = "") -> None:
        """Say how the memories compare, and hear Bye."""
        await self.send_verdict(equal=equal, detail=detail)
        await self.main.expect(Bye)

    async def send_verdict(self, *, equal: bool = True, detail: str = "") -> None:
        """Say how the memories compare."""
        payload = pack_record(source_part())
        verdict = Verdict(payload_bytes=len(payload), equal=equal, detail=detail)
        await self.main.send(verdict, payload)

    def pages(self) -> list[PageId]:
        """Return all pages of the guest."""
        return [
            PageId(block, index)
            for block, shape in enumerate(self.geometry.blocks)
            for index in range(shape.page_count)
        ]

    def close(self) -> None:
        """End all connections."""
        for peer in self.peers.values():
            peer.close()


class HandDest:
    """A destination's side of a session, played by hand: correct where `instead` has nothing.

    Attributes:
        port: Where it listens on loopback.
        memory: What it has received.
        peers: Its connections, by role.
        heard: (channel, message) of everything that came after the hellos, in order.
        instead: What to do at a message, by its type, in the place of the right answer.
        capabilities: What it says that it can do.
    """

    def __init__(self, server: trio.socket.SocketType, geometry: Geometry) -> None:
        """Take a listening socket; use `hand_dest`."""
        self.port: int = server.getsockname()[1]
        self.memory = GuestMemory.create(geometry, "base")
        self.peers: dict[Channel, Peer] = {}
        self.heard: list[tuple[Channel, Message]] = []
        self.instead: dict[type[Message], Callable[[Message], Awaitable[object]]] = {}
        self.capabilities: tuple[str, ...] = ()
        self.own_channel = True
        self._server = server
        self._ends = 0
        self._target_pages = 0
        self._data_bytes = 0
        self._states = b""

    @property
    def main(self) -> Peer:
        """The precopy connection."""
        return self.peers[Channel.PRECOPY]

    def heard_types(self, name: Channel) -> list[str]:
        """Return the names of the messages of a channel in order, repetitions left out."""
        names = [type(message).__name__ for channel, message in self.heard if channel is name]
        return [name for name, _ in groupby(names)]

    def close(self) -> None:
        """End all connections, as a process does that exits."""
        for peer in self.peers.values():
            peer.close()

    async def run(self) -> None:
        """Serve one source until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                sock, _ = await self._server.accept()
                nursery.start_soon(self._converse, Peer(sock))

    async def _converse(self, peer: Peer) -> None:
        with peer.sock, suppress(EOFError, OSError, trio.ClosedResourceError):
            hello = await peer.expect(Hello)
            name = Channel(hello.role)
            self.peers[name] = peer
            await peer.send(Welcome(version=PROTOCOL_VERSION, capabilities=self.capabilities))
            while True:
                message, payload = await peer.receive()
                self.heard.append((name, message))
                instead = self.instead.get(type(message))
                if instead is not None:
                    await instead(message)
                else:
                    await self._answer(message, payload)

    async def _answer(self, message: Message, payload: bytes) -> None:
        match message:
            case Setup():
                self.own_channel = preset(message.policy).own_channel
                await self.main.send(Ready())
            case PageData():
                end = message.offset + len(payload)
                self.memory.views[message.block][message.offset : end] = payload
                self._data_bytes += len(payload)
                self._target_pages += len(payload) // TARGET_PAGE_BYTES
            case ZeroData():
                end = message.offset + message.length
                self.memory.views[message.block][message.offset : end] = bytes(message.length)
                self._target_pages += message.length // TARGET_PAGE_BYTES
            case RunData():
                self._take_runs(message, payload)
            case PassEnd():
                await self.main.send(PassAck(index=message.index))
            case SwitchOver():
                self._states = payload
                await self.main.send(Running())
            case End():
                self._ends += 1
                if self._ends == 1 + self.own_channel:
                    await self.main.send(self.finished())
                    await self.main.send(*self.account())
            case Verdict():
                await self.main.send(Bye())
            case Abort():
                self.close()

    def _take_runs(self, message: RunData, payload: bytes) -> None:
        """Write scattered runs, one after the other."""
        runs, is_zero = unpack_runs(message.block, message.offset, message.runs)
        view, at = self.memory.views[message.block], 0
        for span, zero in zip(runs.spans(), is_zero.tolist(), strict=True):
            part = bytes(span.length) if zero else payload[at : at + span.length]
            view[span.offset : span.end] = part
            at += 0 if zero else span.length
        self._data_bytes += len(payload)
        self._target_pages += runs.length // TARGET_PAGE_BYTES

    def finished(self) -> Finished:
        """Return what a correct destination counts."""
        return Finished(
            pages=self.memory.geometry.page_count,
            target_pages=self._target_pages,
            data_bytes=self._data_bytes,
        )

    def account(self) -> tuple[Account, bytes]:
        """Return the account of a guest that did nothing here, and its payload."""
        record = AccountRecord(
            states=self._states,
            digests=tuple(finish(digest(self.memory))),
            first_mismatch="",
            part=dest_part(),
        )
        payload = pack_record(record)
        return Account(payload_bytes=len(payload)), payload


@asynccontextmanager
async def hand_dest(geometry: Geometry, seconds: float = BOUND_SECONDS) -> AsyncIterator[HandDest]:
    """Listen as a destination that is played by hand; the block is bounded."""
    with bounded(seconds), socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        with trio.socket.from_stdlib_socket(server.dup()) as listening:
            dest = HandDest(listening, geometry)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(dest.run)
                    yield dest
                    nursery.cancel_scope.cancel()
            finally:
                dest.close()
                dest.memory.close()


def source_config(geometry: Geometry, port: int, **changes: Any) -> SourceConfig:  # noqa: ANN401
    """Return a source's configuration: postcopy at once with `ordered`, but for the changes."""
    config = SourceConfig(
        host="127.0.0.1",
        port=port,
        geometry=geometry,
        backing="base",
        image=None,
        spec=ProgramSpec(seed=SEED),
        policy=preset("ordered"),
        chunk_bytes=256 * KIB,
        rule=SwitchRule(postcopy_after=0, downtime_ms_max=300),
        bandwidth=0,
        postcopy_bandwidth=0,
    )
    return replace(config, **changes)


def source_part(**fields: Any) -> SourcePart:  # noqa: ANN401 - any of its fields
    """Return a source's statistics, nothing in all of them but for what is given."""
    needed = {
        name: hint
        for name, hint in get_type_hints(SourcePart).items()
        if not hasattr(SourcePart, name)
    }
    nothing = {name: hint() for name, hint in needed.items()}
    return SourcePart(**(nothing | fields))


def dest_part(**fields: Any) -> DestPart:  # noqa: ANN401 - any of its fields
    """Return a destination's statistics, all zero but for what is given."""
    plain: dict[str, Any] = {
        "placement": "simulated", "backing": "base",
        "reads": 0, "reads_unchecked": 0, "mismatches": 0, "cpu_seconds": 0.0,
    }  # fmt: skip
    return DestPart(**(plain | fields))


def report_of_drop() -> dict[str, Any]:
    """Return the report of a verified run on a link of which it used a tenth."""
    source = source_part(
        policy="drop", ram_bytes=8 << 20, pages_compared=4, digest_equal=True, downtime_ms=3.0,
        vcpus=2, postcopy_ms=100.0, mbps=800.0, switch_over_reason="postcopy-after",
        host_page_bytes=2 << 20, processor_running=0.9, processor_waiting=0.05,
    )  # fmt: skip
    report = assemble("completed", source, dest_part())
    report["midstream"]["link"] = {"bytes-per-second": 10**9}
    return report
