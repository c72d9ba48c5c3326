"""What the tests of the two engines share: sockets, a peer played by hand, a guest without vCPUs.

Whatever here can wait is bounded, so that a test that hangs fails and says where.
"""

from __future__ import annotations

import gc
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import cache
from itertools import groupby
from math import inf
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import msgpack
import msgspec
import numpy as np
import trio
from trio.testing import MockClock

from guest.board import Board
from guest.digest import digest
from guest.handle import GuestHandle, GuestSnapshot
from guest.launch import GuestProcess
from guest.memory import GuestMemory
from guest.messages import Faulted, GuestEvent, Touched, Woke
from guest.pattern import Pattern
from guest.programs import ProgramSpec
from guest.services import NONE, Service
from guest.slices import finish
from guest.states import VcpuState
from guest.streams.exchange import receive_into, send_all
from guest.streams.stream import Stream
from guest.streams.tcp import TcpStream
from protocol import events
from protocol.channels import Channel
from protocol.errors import ConnectionLost, root_cause
from protocol.fields import PackedRuns
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock
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
from protocol.report import AccountRecord, DestPart, SourcePart
from protocol.runs import Flags, Runs, pack_runs, unpack_runs
from protocol.wire import Decoder, encode
from scripts.views.saved import parse_event
from source.config import SourceConfig
from source.convergence import SwitchRule

M = TypeVar("M", bound=Message)
E = TypeVar("E", bound=BaseException)

KIB, MIB = 1 << 10, 1 << 20
HUGE = 2 * MIB

# Far more than any of these tests needs, even where many share two processors.
BOUND_SECONDS = 20.0
HANG_SECONDS = 10.0
REAL_SECONDS_MIN = 180.0

SEED = 7
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


def fields_of(event: events.Event) -> dict[str, Any]:
    """Return the fields that an event has, by their names here."""
    fields = msgspec.structs.asdict(event)
    return {name: value for name, value in fields.items() if value is not msgspec.UNSET}


class Recorder:
    """Keeps the events that it is told, in order; `on` adds what is to happen then."""

    def __init__(self) -> None:
        """Start with none."""
        self.events: list[events.Event] = []
        self._actions: list[tuple[type[events.Event], dict[str, Any], Callable[[], object]]] = []

    def __call__(self, event: events.Event, /) -> None:
        """Take an event; its fields must be what their definition says."""
        line = b'{"t-ns":0,"side":"test",' + msgspec.json.encode(event)[1:]
        parse_event(line, "what is told")
        self.events.append(event)
        for kind, wanted, action in list(self._actions):
            if isinstance(event, kind) and wanted.items() <= fields_of(event).items():
                action()

    def on(self, kind: type[events.Event], action: Callable[[], object], **wanted: object) -> None:
        """Call an action at each event of that kind whose fields have the values given."""
        self._actions.append((kind, wanted, action))

    def of(self, kind: type[events.Event]) -> list[dict[str, Any]]:
        """Return the fields of all events of that kind, by their names here."""
        return [fields_of(event) for event in self.events if isinstance(event, kind)]

    def kinds(self, *wanted: type[events.Event]) -> list[type[events.Event]]:
        """Return the kinds of all events that are among those wanted, in order."""
        return [type(event) for event in self.events if isinstance(event, wanted)]

    @property
    def states(self) -> list[str]:
        """The states gone through."""
        return [fields["state"] for fields in self.of(events.State)]


# Sockets.


@contextmanager
def tcp_pair(
    buffer_bytes: int | None = None, seconds: float = BOUND_SECONDS
) -> Iterator[tuple[trio.socket.SocketType, trio.socket.SocketType]]:
    """Make two connected TCP sockets on loopback; the block is bounded.

    Args:
        buffer_bytes: For the sender's and the receiver's buffers, where they are to be small.
        seconds: The bound.
    """
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as near:
        if buffer_bytes is not None:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        near.connect(server.getsockname())
        far, _ = server.accept()
        ours = trio.socket.from_stdlib_socket(near)
        theirs = trio.socket.from_stdlib_socket(far)
        try:
            with bounded(seconds):
                yield ours, theirs
        finally:
            ours.close()
            theirs.close()


@contextmanager
def tcp_streams() -> Iterator[tuple[TcpStream, TcpStream]]:
    """Make two ends of a TCP connection as `tcp_pair` does, as streams."""
    with tcp_pair() as (near, far):
        yield TcpStream(near), TcpStream(far)


@contextmanager
def unix_pair(
    buffer_bytes: int,
) -> Iterator[tuple[trio.socket.SocketType, trio.socket.SocketType]]:
    """Make two connected sockets without timers between them; the block is bounded.

    What one side reads the other side can send at once, where TCP with small buffers takes its
    time: for tests that look at what a full socket holds up.

    Args:
        buffer_bytes: For the send buffers.
    """
    ours, theirs = trio.socket.socketpair()
    with ours, theirs, bounded():
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        yield ours, theirs


@contextmanager
def bounded(seconds: float = BOUND_SECONDS) -> Iterator[None]:
    """Fail a test that hangs, by the clock that it runs under.

    A clock that a test moves by hand moves by itself when nothing happens for long.  By the real
    one a slow machine hangs as little as a fast one: it is given far more than anything takes.
    """
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock):
        seconds = max(seconds, REAL_SECONDS_MIN)
    if isinstance(clock, MockClock) and clock.autojump_threshold == inf:
        clock.autojump_threshold = HANG_SECONDS
    with trio.fail_after(seconds):
        yield


def open_files() -> set[tuple[str, str]]:
    """Return number and name of every file and socket that this process has open."""
    files = set()
    for entry in Path("/proc/self/fd").iterdir():
        # The listing has the descriptor that it is read through, which is gone by now.
        try:
            files.add((entry.name, str(entry.readlink())))
        except FileNotFoundError:
            continue
    return files


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


def child_processes() -> set[int]:
    """Return the ids of this process's children, those that nobody waited for included."""
    children: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            children.update(map(int, (task / "children").read_text().split()))
        except FileNotFoundError:
            continue
    return children


@contextmanager
def nothing_left() -> Iterator[None]:
    """Check that a block leaves no open file and no child process."""
    files, children = open_files(), child_processes()
    yield
    left = open_files() - files
    # Tracebacks of what failed may go round in circles; most are young, a full search takes long.
    for generation in (1, 2):
        if left:
            gc.collect(generation)
            # A board stays mapped, and so open, for whoever still looks at what a guest counted.
            left = {each for each in open_files() - files if "midstream-board" not in each[1]}
    assert not left, f"still open: {left}"
    assert child_processes() <= children, "a child process is left"


def bare(error: E) -> E:
    """Return an error without its traceback, which would hold on to all that it went through."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


async def loss_while(
    reading: Callable[[], Awaitable[object]], watching: Callable[[], Awaitable[object]]
) -> ConnectionLost:
    """Return the loss of a connection that is read and watched at the same time."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reading)
            nursery.start_soon(watching)
    except ExceptionGroup as group:
        cause = root_cause(group)
        assert isinstance(cause, ConnectionLost)
        return cause
    raise AssertionError("nothing was lost")


class Peer:
    """The other side of a connection, played by hand: messages in and out, and plain bytes."""

    def __init__(self, sock: trio.socket.SocketType | Stream) -> None:
        """Take a connected socket, or a stream.

        Attributes:
            sock: The socket; not to be used where a stream was given.
        """
        self.sock = cast("trio.socket.SocketType", sock)
        self._stream = TcpStream(sock) if isinstance(sock, trio.socket.SocketType) else sock
        self._decoder = Decoder()

    async def send(self, message: Message, payload: bytes = b"") -> None:
        """Send a message as any peer would."""
        await self.send_bytes(encode(message) + payload)

    async def send_bytes(self, data: bytes) -> None:
        """Send what may be no message at all."""
        await send_all(self._stream, data)

    async def receive(self) -> tuple[Message, bytes]:
        """Return the next message and its payload.

        Raises:
            EOFError: The other side closed, or reset, the connection.
        """
        while (message := self._decoder.next_message()) is None:
            self._decoder.receive_data(await self._receive_some(64 * KIB))
        payload = bytearray(message.payload_bytes)
        have = self._decoder.take_payload(memoryview(payload)) if payload else 0
        while have < len(payload):
            data = await self._receive_some(len(payload) - have)
            payload[have : have + len(data)] = data
            have += len(data)
        return message, bytes(payload)

    async def expect(self, message_type: type[M]) -> M:
        """Return the next message, which must be of that type."""
        message, _ = await self.receive()
        assert isinstance(message, message_type), f"{message} is no {message_type.__name__}"
        return message

    async def skip_to(self, message_type: type[M]) -> M:
        """Return the next message of that type, whatever comes before it."""
        while True:
            message, _ = await self.receive()
            if isinstance(message, message_type):
                return message

    async def receive_all(self) -> list[tuple[Message, bytes]]:
        """Return all messages until the other side ends the connection."""
        messages = []
        try:
            while True:
                messages.append(await self.receive())
        except EOFError:
            return messages

    async def wait_closed(self) -> None:
        """Wait until the other side ends the connection."""
        try:
            while True:
                await self._receive_some(64 * KIB)
        except EOFError:
            return

    def close(self) -> None:
        """End the connection, as a process does that exits."""
        self._stream.close()

    def reset(self) -> None:
        """End the connection, as a machine does that has lost it."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def _receive_some(self, most_bytes: int) -> bytes:
        try:
            place = memoryview(bytearray(most_bytes))
            count = await receive_into(self._stream, [place])
        except OSError as error:
            raise EOFError from error
        if not count:
            raise EOFError
        return bytes(place[:count])


# A guest without a process.


# How often others have their turn before a vCPU that waits for them is given up.
_TURNS_MAX = 1000


class FakeGuest:
    """What an engine sees of a guest, without vCPUs: a real board, and a record of what is done.

    A vCPU that was told to fault runs again when it is woken and its page is present.

    Attributes:
        calls: "run", "pause", "load" and "kill", in order.
        woken: The vCPUs that were woken, in order.
        touches: (vCPU, flat target page) of each touch that was asked for.
        states: What was loaded, and what a pause returns.
        drowsy: vCPUs that are woken say so only at `say_awake`.
        last_words: What vCPUs have still to say when they are to stop.
    """

    pid = 0

    def __init__(self, geometry: Geometry, spec: ProgramSpec) -> None:
        """Start paused at step 0."""
        self.spec = spec
        self.board = Board.create(geometry, spec.vcpu_count)
        self.service = Service(NONE, "", (), (), None, -1)
        self.calls: list[str] = []
        self.woken: list[int] = []
        self.touches: list[tuple[int, int]] = []
        self.states = tuple(VcpuState(vcpu, 0) for vcpu in range(spec.vcpu_count))
        self.is_running = False
        self.drowsy = False
        self.last_words: list[GuestEvent] = []
        self._waiting: dict[int, int] = {}
        self._unsaid: list[GuestEvent] = []
        self._tell, self._events = trio.open_memory_channel[GuestEvent](float("inf"))

    @property
    def handle(self) -> GuestHandle:
        """This guest, for who wants a real one."""
        return cast("GuestHandle", self)

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

    async def pause(self) -> GuestSnapshot:
        """Stand still, as soon as all that was said is heard: a real vCPU waits for that, too."""
        while self.last_words:
            self.tell(self.last_words.pop(0))
        for _ in range(_TURNS_MAX):
            await trio.lowlevel.checkpoint()
            if not self._events.statistics().current_buffer_used:
                break
        else:
            raise AssertionError("a vCPU that nobody hears does not stop")
        self.calls.append("pause")
        self.is_running = False
        counters = tuple(self.board.counters(vcpu) for vcpu in range(self.spec.vcpu_count))
        return GuestSnapshot(self.states, counters)

    def load(self, states: tuple[VcpuState, ...]) -> None:
        """Take states over."""
        assert not self.is_running
        self.calls.append("load")
        self.states = states


@contextmanager
def fake_guest(geometry: Geometry, spec: ProgramSpec | None = None) -> Iterator[FakeGuest]:
    """Make a fake guest; afterwards it has no board any more."""
    guest = FakeGuest(geometry, spec or ProgramSpec(seed=SEED))
    try:
        yield guest
    finally:
        guest.board.close()
        del guest.board


class FakeGuests:
    """Stands in for `open_guest` in a session; keeps what it made."""

    def __init__(self) -> None:
        """Start with none."""
        self.made: list[FakeGuest] = []

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
    ) -> AsyncIterator[GuestHandle]:
        """Make one, which has nothing of the kernel."""
        assert process is None
        await trio.lowlevel.checkpoint()
        with fake_guest(memory.geometry, spec) as guest:
            reason = "there is no guest process" if service != NONE else ""
            guest.service = replace(guest.service, reason=reason)
            self.made.append(guest)
            yield guest.handle


# A source played by hand.


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


# A destination played by hand.


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
    nothing = {name: hint() for name, hint in get_type_hints(SourcePart).items()}
    return SourcePart(**(nothing | fields))


def dest_part(**fields: Any) -> DestPart:  # noqa: ANN401 - any of its fields
    """Return a destination's statistics, all zero but for what is given."""
    plain: dict[str, Any] = {
        "placement": "simulated", "backing": "base",
        "reads": 0, "reads_unchecked": 0, "mismatches": 0, "cpu_seconds": 0.0,
    }  # fmt: skip
    return DestPart(**(plain | fields))


async def dial(address: str, buffer_bytes: int | None = None) -> Peer:
    """Connect to HOST:PORT, with a small receive buffer if so much is given."""
    host, port = address.rsplit(":", 1)
    sock = trio.socket.socket()
    if buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    await sock.connect((host, int(port)))
    return Peer(sock)


class _Names(trio.abc.HostnameResolver):
    """Knows one name, which has addresses of IPv4, and what is an address already."""

    def __init__(self, name: str, hosts: list[str]) -> None:
        self._known = {name.encode(): hosts}

    async def getaddrinfo(  # type: ignore[explicit-override]
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the interface's
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Look a name up."""
        await trio.lowlevel.checkpoint()
        assert host is not None
        found = []
        for each in self._known.get(host, [host.decode()]):
            found += socket.getaddrinfo(each, port, family, type, proto, flags)
        return found

    async def getnameinfo(  # type: ignore[explicit-override]
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        """Look an address up."""
        await trio.lowlevel.checkpoint()
        return socket.getnameinfo(sockaddr, flags)


@contextmanager
def knowing(name: str, *hosts: str) -> Iterator[list[str]]:
    """Have a name stand for these addresses inside the block, for trio; yield them to change."""
    known = list(hosts)
    before = trio.socket.set_custom_hostname_resolver(_Names(name, known))
    try:
        yield known
    finally:
        trio.socket.set_custom_hostname_resolver(before)


def unused_port() -> int:
    """Return a TCP port of loopback on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port
