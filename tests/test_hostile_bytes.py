"""A valid conversation with its bytes changed: whatever comes, only the peer's fault is raised.

Each side's receiving half runs in process on a stream that was right before something in it was
flipped, cut out, said twice or put in.  No error but the peer's may come out, no byte may be
written outside the blocks, and no buffer may be made that the limits do not allow.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import msgpack
import numpy as np
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from dest.admission import Session
from dest.channel import InChannel
from dest.engine import Engine
from dest.executor import Executor
from dest.midstream import receive_setup
from dest.placement import SimulatedPlacement
from dest.receiver import Receiver
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from guest.states import VcpuState, decode_states, encode_states
from guest.streams.stream import Stream
from protocol.channels import Channel
from protocol.checksums import checksum_of
from protocol.errors import ConnectionLost, PeerAborted, RemoteProtocolError
from protocol.fields import PackedRuns
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock, Span
from protocol.limits import CHUNK_BYTES_MAX, DEVICE_STATE_BYTES_MAX, GUEST_SPEC_BYTES_MAX
from protocol.messages import (
    PROTOCOL_VERSION,
    Account,
    Bye,
    Discard,
    End,
    Finished,
    HeldPart,
    Message,
    MissingMap,
    PageData,
    PageRequest,
    PageRest,
    PassAck,
    PassEnd,
    Ping,
    Ready,
    Resend,
    RunData,
    Running,
    Setup,
    Standing,
    SwitchOver,
    SwitchOverAck,
    SwitchOverAhead,
    Verdict,
    Welcome,
    ZeroData,
)
from protocol.missing import MissingReader, missing_maps
from protocol.pageset import PageSet
from protocol.policy import preset
from protocol.records import pack_record, unpack_record
from protocol.report import AccountRecord, SourcePart
from protocol.runs import Runs, unpack_runs
from protocol.session_messages import CHECKSUM
from protocol.states import Event, Lifecycle, State
from protocol.wire import encode
from source.resumption import Lacking, lost_bytes
from source.returns import ReturnPath
from source.scheduler import Scheduler
from tests.guests import HUGE, KIB, SEED, fake_guest
from tests.sides import dest_part, run_frame, source_part
from tests.stories import Recorder

GEOMETRY = Geometry((RamBlock("ram", 2 * HUGE, HUGE), RamBlock("rom", 16 * 4 * KIB, 4 * KIB)))
CHUNK_BYTES = 1 << 20
GUARD_BYTES = 64 * KIB
# Of the block of small pages: one zero, two not.
RUNS = Runs.of_target_pages(1, np.array([3, 5, 6]))
IS_ZERO = np.array([True, False])
# Of the first small page this is here, as if there had been a break.
HELD_BYTES = 100
# More examples are for a patient person: MIDSTREAM_FUZZ=100 pytest tests/test_hostile_bytes.py
EXAMPLES = int(os.environ.get("MIDSTREAM_FUZZ", "1"))
SPEC = ProgramSpec(vcpu_count=2, seed=SEED)
THE_PEERS_FAULT = (RemoteProtocolError, ConnectionLost, PeerAborted)

Frame = tuple[Message, bytes]


def with_payload(message_type: type[Message], payload: bytes, **fields: Any) -> Frame:  # noqa: ANN401
    """Return a frame whose head announces its payload."""
    return message_type(payload_bytes=len(payload), **fields), payload


def page(offset: int, length: int, block: int = 0) -> Frame:
    """Return a frame of page bytes."""
    return with_payload(PageData, b"\x5a" * length, block=block, offset=offset, urgent=True)


def forward() -> list[Frame]:
    """Return what a source says from its Setup on: every kind of message that it has."""
    pages = 2 * HUGE // TARGET_PAGE_BYTES
    blocks = tuple((block.name, block.length_bytes, block.page_bytes) for block in GEOMETRY.blocks)
    state = encode_states(tuple(VcpuState(vcpu, 5) for vcpu in range(SPEC.vcpu_count)))
    huge = [page(0, CHUNK_BYTES), page(CHUNK_BYTES, CHUNK_BYTES)]
    rest = with_payload(PageRest, b"\x5a" * (4 * KIB - HELD_BYTES), block=1, offset=HELD_BYTES)
    zeros: list[Frame] = [
        (ZeroData(block=0, offset=HUGE + first, length=CHUNK_BYTES), b"")
        for first in (0, CHUNK_BYTES)
    ]
    return [
        with_payload(
            Setup, msgpack.packb(SPEC.to_plain()), blocks=blocks, policy="vanilla",
            chunk_bytes=CHUNK_BYTES, switches=preset("vanilla").switches,
        ),
        page(0, 8 * KIB, 1), *zeros[:1], (Ping(), b""), run_frame(RUNS, IS_ZERO, b"\x11" * 8 * KIB),
        (PassEnd(index=0), b""), (SwitchOverAhead(), b""),
        with_payload(Discard, b"\xff" * (pages // 8), block=0, first=0, count=pages),
        with_payload(Discard, b"\x03", block=1, first=0, count=8),
        with_payload(SwitchOver, state, postcopy=True),
        *huge, *zeros, rest, page(4 * KIB, 4 * KIB, 1),
        (End(target_pages=pages + pages // 4 + 7, data_bytes=HUGE + 24 * KIB - HELD_BYTES), b""),
        with_payload(Verdict, pack_record(source_part()), equal=True),
    ]  # fmt: skip


def checked(frames: list[Frame]) -> list[Frame]:
    """Return what a source says with checksums."""
    said: list[Frame] = []
    for message, payload in frames:
        if isinstance(message, PageData | ZeroData | RunData):
            said.append((checksum_of(message, [payload]), b""))
        said.append((message, payload))
    return said


def backward() -> list[Frame]:
    """Return what a destination says: every kind of message that it has."""
    states = encode_states(tuple(VcpuState(vcpu, 9) for vcpu in range(SPEC.vcpu_count)))
    record = AccountRecord(
        states=states, digests=(b"d" * 32,) * 2, first_mismatch="", part=dest_part()
    )
    missing = PageSet(GEOMETRY)
    missing.add(Span(0, 0, HUGE))
    missing.add(Span(1, 4 * KIB, 4 * KIB))
    return [
        (Welcome(version=PROTOCOL_VERSION, capabilities=("one", "two")), b""),
        (Ready(), b""),
        (PassAck(index=0), b""),
        (SwitchOverAck(), b""),
        (Running(), b""),
        (Ping(), b""),
        (Resend(block=1, offset=0, runs=PackedRuns(b"\0\0\0\0\0\0\0\2")), b""),
        *missing_maps(missing),
        (HeldPart(block=1, target_page=1, held_bytes=100), b""),
        (Standing(running=True, target_pages=len(missing), dropped_bytes=100), b""),
        (PageRequest(block=0, page=1, target_page=7), b""),
        (Finished(pages=18, target_pages=1040, data_bytes=HUGE), b""),
        with_payload(Account, pack_record(record)),
        (Bye(), b""),
    ]


@dataclass(frozen=True)
class Change:
    """What is done to a stream: at which frame, where in its head and first bytes, and how."""

    frame: int
    place: int
    kind: str
    data: bytes

    def apply(self, frames: list[Frame]) -> bytes:
        """Return the stream with this done to it."""
        pieces = [encode(message) + payload for message, payload in frames]
        index = self.frame % len(pieces)
        piece = pieces[index]
        # Behind a head is much that may be anything.
        at = self.place % min(len(piece), 400)
        match self.kind:
            case "flip":
                piece = piece[:at] + bytes([piece[at] ^ (self.data[0] | 1)]) + piece[at + 1 :]
            case "overwrite":
                piece = piece[:at] + self.data + piece[at + len(self.data) :]
            case "insert":
                piece = piece[:at] + self.data + piece[at:]
            case "remove":
                piece = piece[:at] + piece[at + len(self.data) :]
            case "twice":
                piece = piece + piece
            case "drop":
                piece = b""
            case "end":
                return b"".join(pieces[:index]) + piece[:at]
        return b"".join([*pieces[:index], piece, *pieces[index + 1 :]])


# Msgpack's claims of large numbers, long arrays, maps and bytes, no number, and nesting.
CLAIMS = (
    b"\xcf" + b"\xff" * 8, b"\xdd\x7f\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
    b"\xc6\x7f\xff\xff\xff", b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\x91" * 12,
)  # fmt: skip
CHANGES = st.lists(
    st.builds(
        Change,
        frame=st.integers(0, 30),
        place=st.integers(0, 400),
        kind=st.sampled_from(["flip", "overwrite", "insert", "remove", "twice", "drop", "end"]),
        data=st.one_of(
            st.binary(min_size=1, max_size=12),
            st.sampled_from(CLAIMS),
        ),
    ),
    min_size=1, max_size=1,
)  # fmt: skip


class Said:
    """A stream over which something comes, in pieces, and then its end."""

    gathers = False

    def __init__(self, stream: bytes, piece_bytes: int) -> None:
        """Hold bytes ready."""
        self._rest = memoryview(stream)
        self._piece_bytes = piece_bytes

    def prioritize(self) -> str:
        """Leave everything as it is."""
        return ""

    def overtakes(self) -> bool:
        """Return that nothing is overtaken."""
        return False

    def try_write(self, buffers: Sequence[memoryview]) -> int:
        """Take everything, and forget it."""
        return sum(map(len, buffers))

    def try_read_into(self, buffers: Sequence[memoryview]) -> int:
        """Fill buffers with the next piece."""
        count = 0
        for place in buffers:
            data = self._rest[: min(len(place), self._piece_bytes - count)]
            place[: len(data)] = data
            self._rest = self._rest[len(data) :]
            count += len(data)
        return count

    async def wait_writable(self) -> None:
        """Be ready for more."""
        await trio.lowlevel.checkpoint()

    async def wait_readable(self) -> None:
        """Have the next piece ready."""
        await trio.lowlevel.checkpoint()


class GuardedMemory:
    """Blocks with bytes before and behind them that nobody may change."""

    def __init__(self, geometry: Geometry) -> None:
        """Make zeroed blocks."""
        self.geometry = geometry
        self._whole = [
            bytearray(b"\xee" * GUARD_BYTES + bytes(block.length_bytes) + b"\xee" * GUARD_BYTES)
            for block in geometry.blocks
        ]
        self.views = [memoryview(each)[GUARD_BYTES:-GUARD_BYTES] for each in self._whole]

    def check(self) -> None:
        """Fail if a byte outside the blocks has changed."""
        for each in self._whole:
            for guard in (each[:GUARD_BYTES], each[-GUARD_BYTES:]):
                assert guard == b"\xee" * GUARD_BYTES


class HostileTurns:
    """Takes a guest over as a destination does, and has a target page half-received then."""

    def __init__(self, executor: Executor, lifecycle: Lifecycle, vcpu_count: int) -> None:
        """Take what a switch-over is told to."""
        self._executor = executor
        self._lifecycle = lifecycle
        self._vcpu_count = vcpu_count

    async def stopping(self) -> None:
        """Take the word that the guest is about to be stopped."""
        await trio.lowlevel.checkpoint()
        self._lifecycle.fire(Event.GUEST_STOPPED)

    async def switch_over(self, device_state: bytes | None, *, postcopy: bool) -> None:
        """Take the guest over."""
        await trio.lowlevel.checkpoint()
        assert device_state is not None
        decode_states(device_state, self._vcpu_count)
        if self._lifecycle.state is State.ACTIVE:
            self._lifecycle.fire(Event.GUEST_STOPPED)
        self._executor.start_postcopy()
        if postcopy:
            self._lifecycle.fire(Event.POSTCOPY_STARTED)
            assembly = self._executor.engine.assembly
            counts = assembly.counts
            assembly.begin(Channel.POSTCOPY, Span(1, 0, 4 * KIB))
            assembly.progress(Channel.POSTCOPY, HELD_BYTES)
            assembly.interrupt()
            assembly.counts = counts


async def play_dest(stream: bytes, piece_bytes: int, *, checks: bool = False) -> None:
    """Receive a stream as a destination does, from the Setup to the Verdict."""
    channel = InChannel(cast("Stream", Said(stream, piece_bytes)))
    channel.name = Channel.PRECOPY
    capabilities = (CHECKSUM,) if checks else ()
    session = Session(bytes(16), {Channel.PRECOPY: channel}, capabilities)
    session.paired.set()
    plan = await receive_setup(session)
    if plan.geometry.length_bytes > 64 << 20:
        # More than this machine may have is refused by who makes the memory.
        return
    lifecycle = Lifecycle(Recorder())
    lifecycle.fire(Event.CONNECTED)
    lifecycle.fire(Event.PREPARED)
    memory = GuardedMemory(plan.geometry)
    with fake_guest(plan.geometry, plan.spec) as guest:
        engine = Engine(plan.geometry, plan.policy, Recorder(), vcpu_count=plan.spec.vcpu_count)
        placement = SimulatedPlacement(plan.geometry, guest.handle)
        executor = Executor(engine, cast("GuestMemory", memory), placement)

        turns = HostileTurns(executor, lifecycle, plan.spec.vcpu_count)
        try:
            await Receiver(channel, channel, plan, executor, lifecycle, turns).run()
            verdict = await channel.receive()
            if isinstance(verdict, Verdict):
                payload = bytearray(verdict.payload_bytes)
                await channel.receive_payload(memoryview(payload), lambda _: None)
                unpack_record(SourcePart, bytes(payload))
        finally:
            memory.check()


async def play_source(stream: bytes, piece_bytes: int) -> None:
    """Receive a stream as a source does, from the Welcome to the Bye, and act on it."""
    path = ReturnPath(Channel.PRECOPY, cast("Stream", Said(stream, piece_bytes)))
    handed_over = PageSet(GEOMETRY)
    handed_over.fill()
    scheduler = Scheduler(GEOMETRY, preset("critical-first"), CHUNK_BYTES)
    scheduler.add(handed_over, postcopy=True)
    reader = MissingReader(GEOMETRY)
    message: Message = Ready()
    while not isinstance(message, Bye):
        message, payload = await path.receive()
        match message:
            case Account():
                decode_states(unpack_record(AccountRecord, payload).states, SPEC.vcpu_count)
            case PageRequest():
                scheduler.request(PageId(message.block, message.page), message.target_page, 0)
            case Resend():
                runs, _ = unpack_runs(message.block, message.offset, message.runs)
                if GEOMETRY.has_span(runs.hull):
                    scheduler.send_again(runs)
            case MissingMap():
                reader.add(message, payload)
            case HeldPart():
                reader.add_part(message)
            case Standing():
                lacking = Lacking(reader.finish(message), reader.held)
                lost_bytes(handed_over, PageSet(GEOMETRY), {}, lacking, goes_twice=False)
                scheduler.begin_again(lacking.untouched())


@pytest.mark.parametrize("piece_bytes", [7 * KIB, 1 << 20])
def test_the_unchanged_conversations_are_right(piece_bytes: int) -> None:
    """What is changed below comes to a good end when it is not."""
    trio.run(play_dest, stream_of(forward()), piece_bytes)
    trio.run(partial(play_dest, checks=True), stream_of(checked(forward())), piece_bytes)
    trio.run(play_source, stream_of(backward()), piece_bytes)


def stream_of(frames: list[Frame]) -> bytes:
    """Return frames as they go over a connection."""
    return b"".join(encode(message) + payload for message, payload in frames)


@settings(max_examples=150 * EXAMPLES, deadline=None)
@given(change=CHANGES, piece_bytes=st.sampled_from([1000, 1 << 20]), checks=st.booleans())
def test_a_destination_survives_whatever_comes(
    change: list[Change], piece_bytes: int, checks: bool
) -> None:
    """A changed stream is taken or refused, and nothing outside the guest is touched."""
    frames = checked(forward()) if checks else forward()
    try:
        trio.run(partial(play_dest, checks=checks), change[0].apply(frames), piece_bytes)
    except THE_PEERS_FAULT:
        return


@settings(max_examples=300 * EXAMPLES, deadline=None)
@given(change=CHANGES, piece_bytes=st.sampled_from([1, 1 << 20]))
def test_a_source_survives_whatever_comes(change: list[Change], piece_bytes: int) -> None:
    """A changed return path is taken or refused."""
    try:
        trio.run(play_source, change[0].apply(backward()), piece_bytes)
    except THE_PEERS_FAULT:
        return


@pytest.mark.parametrize(
    ("message", "allowed_bytes"),
    [
        (Setup(payload_bytes=GUEST_SPEC_BYTES_MAX, blocks=(("ram", HUGE, HUGE),), policy="ordered",
               chunk_bytes=CHUNK_BYTES, switches=preset("ordered").switches), GUEST_SPEC_BYTES_MAX),
        (PageData(payload_bytes=CHUNK_BYTES_MAX, block=0, offset=0), 0),
        (SwitchOver(payload_bytes=DEVICE_STATE_BYTES_MAX, postcopy=True), DEVICE_STATE_BYTES_MAX),
        (Account(payload_bytes=500 << 20), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Message) else "",
)  # fmt: skip
def test_a_claim_is_given_no_more_than_its_limit(message: Message, allowed_bytes: int) -> None:
    """A head that announces what never comes costs at most the limit of its kind."""
    head = encode(message)
    if not isinstance(message, Setup):
        head = stream_of(forward()[:1]) + head
    tracemalloc.start()
    try:
        with pytest.raises(THE_PEERS_FAULT):
            trio.run(play_dest, head, 1 << 20)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    guest_bytes = GEOMETRY.length_bytes * 2
    assert peak_bytes < allowed_bytes + guest_bytes + (8 << 20)
