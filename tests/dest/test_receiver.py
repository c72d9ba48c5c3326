"""One channel's receiver: every message to whom it concerns, and none where it does not belong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dest.channel import InChannel
from dest.engine import Engine
from dest.executor import Executor
from dest.peer import Plan
from dest.placement import SimulatedPlacement
from dest.receiver import Receiver
from dest.trips import Urgent
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from guest.streams.tcp import TcpStream
from protocol import events
from protocol.channels import Channel
from protocol.checksums import checksum_of
from protocol.errors import ConnectionLost, PeerAborted, RemoteProtocolError, root_cause
from protocol.fields import PackedRuns
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.limits import REASON_CHARS_MAX
from protocol.messages import (
    MESSAGE_TYPES,
    Abort,
    Account,
    Bye,
    Checksum,
    Discard,
    End,
    Finished,
    HeldPart,
    Hello,
    Message,
    MissingMap,
    PageData,
    PageRequest,
    PageRest,
    PassAck,
    PassEnd,
    Ping,
    Ready,
    RequestAnswer,
    Resend,
    Resume,
    RunData,
    Running,
    Setup,
    SourceTime,
    Standing,
    SwitchOver,
    SwitchOverAck,
    SwitchOverAhead,
    Verdict,
    Welcome,
    ZeroData,
)
from protocol.page_messages import QUEUED
from protocol.policy import preset
from protocol.runs import Runs, unpack_runs
from protocol.states import Event, Lifecycle
from protocol.wire import encode
from tests.guests import HUGE, SEED, FakeGuest, fake_guest, small_geometry
from tests.sides import SESSION, run_frame
from tests.sockets import Peer, tcp_pair
from tests.stories import Recorder

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY

TO_ACTIVE = (Event.CONNECTED, Event.PREPARED)
TO_DEVICE = (*TO_ACTIVE, Event.GUEST_STOPPED)
TO_POSTCOPY = (*TO_DEVICE, Event.POSTCOPY_STARTED)

BITS = b"\xff" * (4 * HUGE // TARGET_PAGE_BYTES // 8)
PAGE = bytes(range(256)) * (HUGE // 256)


class Rig:
    """A receiver of one channel in a state of the migration, and who sends to it."""

    def __init__(
        self,
        name: Channel,
        sockets: tuple[trio.socket.SocketType, trio.socket.SocketType],
        guest: FakeGuest,
        memory: GuestMemory,
        executor: Executor,
        past: tuple[Event, ...],
        plan: Plan,
    ) -> None:
        """Bring the migration to where these events lead."""
        self.events = Recorder()
        self.lifecycle = Lifecycle(self.events)
        for event in past:
            self.lifecycle.fire(event)
        channel = InChannel(TcpStream(sockets[0]))
        channel.name = name
        self.peer = Peer(sockets[1])
        self.guest = guest
        self.memory = memory
        self.executor = executor
        self.engine = executor.engine
        self.said: list[tuple[bytes | None, bool] | None] = []
        self.receiver = Receiver(channel, channel, plan, executor, self.lifecycle, self)

    async def stopping(self) -> None:
        """Keep that the guest is about to be stopped."""
        await trio.lowlevel.checkpoint()
        self.said.append(None)

    async def switch_over(self, device_state: bytes | None, *, postcopy: bool) -> None:
        """Keep a switch-over."""
        await trio.lowlevel.checkpoint()
        self.said.append((device_state, postcopy))

    async def say(self, *messages: tuple[Message, bytes]) -> None:
        """Send messages with their payloads, and have the receiver read until its End."""
        async with trio.open_nursery() as nursery:
            for message, payload in messages:
                await self.peer.send(message, payload)
            nursery.start_soon(self.receiver.run)

    async def refusal(self, message: Message, payload: bytes = b"") -> str:
        """Say something and return why it is refused."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.peer.send, message, payload)
            with pytest.raises(RemoteProtocolError) as caught:
                await self.receiver.run()
            nursery.cancel_scope.cancel()
        return str(caught.value)


@asynccontextmanager
async def make_rig(
    name: Channel = PRE,
    past: tuple[Event, ...] = TO_ACTIVE,
    policy: str = "ordered",
    *,
    checked: bool = False,
    is_told: bool = False,
) -> AsyncIterator[Rig]:
    """Put a receiver together; the block is bounded."""
    geometry = small_geometry()
    with (
        GuestMemory.create(geometry, "base") as memory,
        fake_guest(geometry) as guest,
        tcp_pair() as sockets,
    ):
        placement = SimulatedPlacement(geometry, guest.handle)
        engine = Engine(
            geometry, preset(policy), Recorder(), vcpu_count=4, checked=checked, is_told=is_told
        )
        executor = Executor(engine, memory, placement)
        if Event.POSTCOPY_STARTED in past:
            engine.assembly.discard(0, 0, len(BITS) * 8, BITS)
            executor.start_postcopy()
        plan = Plan(geometry, preset(policy), HUGE, ProgramSpec(seed=SEED), checked=checked)
        yield Rig(name, sockets, guest, memory, executor, past, plan)


def page(index: int, **changes: Any) -> tuple[PageData, bytes]:  # noqa: ANN401 - of the message
    """Return a huge page's frame."""
    fields: dict[str, Any] = {"payload_bytes": HUGE, "block": 0, "offset": index * HUGE}
    return PageData(**(fields | changes)), PAGE


def end(pages: int, data_pages: int | None = None) -> tuple[End, bytes]:
    """Return the End of a channel over which so many huge pages went, and so many with bytes."""
    data_pages = pages if data_pages is None else data_pages
    count = pages * (HUGE // TARGET_PAGE_BYTES)
    return End(target_pages=count, data_bytes=data_pages * HUGE), b""


async def test_pages_land_in_guest_memory() -> None:
    """Page bytes are written where their frame says, zeros too, until the channel's End."""
    async with make_rig(past=TO_POSTCOPY) as rig:
        zeros = ZeroData(block=0, offset=HUGE, length=HUGE)
        await rig.say(page(2), (zeros, b""), end(2, 1))
        assert bytes(rig.memory.views[0]) == bytes(2 * HUGE) + PAGE + bytes(HUGE)
        counts = rig.engine.assembly.counts[PRE]
        assert (counts.target_pages, counts.data_bytes) == (1024, HUGE)


async def test_zeros_come_after_bytes() -> None:
    """In precopy a page that had bytes is zero when it is said to be, by either kind of frame."""
    runs = Runs.of_target_pages(0, np.array([1, 2, 9, 700]))
    frame = run_frame(runs, np.array([True, False, True]), b"\x77" * TARGET_PAGE_BYTES)
    zeros = ZeroData(block=0, offset=512 * TARGET_PAGE_BYTES, length=100 * TARGET_PAGE_BYTES)
    async with make_rig(past=TO_ACTIVE) as rig:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.receiver.run)
            for message, payload in (page(0), page(1), (zeros, b""), frame):
                await rig.peer.send(message, payload)
            # It is answered when all before it has come, which a task that waits does not tell.
            await rig.peer.send(PassEnd(index=0))
            await rig.peer.expect(PassAck)
            nursery.cancel_scope.cancel()
        expected = bytearray(PAGE * 2)
        for index in (1, 2, 700, *range(512, 612)):
            expected[index * TARGET_PAGE_BYTES : (index + 1) * TARGET_PAGE_BYTES] = bytes(4096)
        expected[9 * TARGET_PAGE_BYTES : 10 * TARGET_PAGE_BYTES] = b"\x77" * TARGET_PAGE_BYTES
        assert rig.memory.views[0][: 2 * HUGE] == expected
        counts = rig.engine.assembly.counts[PRE]
        assert (counts.target_pages, counts.data_bytes) == (1024 + 104, 2 * HUGE + 4096)


@pytest.mark.parametrize("policy", ["ordered", "resend"])
async def test_runs_of_a_page_place_it(policy: str) -> None:
    """A huge page that comes as runs in several frames is placed with the last, zeros and all."""
    even = Runs.of_target_pages(0, np.arange(512, 1024, 2))
    odd = Runs.of_target_pages(0, np.arange(513, 1024, 2))
    is_zero = np.arange(256) % 4 == 0
    bring = [
        run_frame(even, payload=b"\x11" * even.length),
        run_frame(odd, is_zero, b"\x22" * (192 * TARGET_PAGE_BYTES)),
    ]
    async with make_rig(past=TO_POSTCOPY, policy=policy) as rig:
        heard: list[tuple[str, int]] = []
        rig.engine.watch(lambda what, which: heard.append((what, which.index)))
        counts = End(target_pages=512, data_bytes=(256 + 192) * TARGET_PAGE_BYTES)
        await rig.say(*bring, (counts, b""))
        assert heard[-1] == ("placed", 1)
        first_bytes = rig.memory.views[0][HUGE : 2 * HUGE : TARGET_PAGE_BYTES].tolist()
        expected = [0x11, 0, 0x11, 0x22, 0x11, 0x22, 0x11, 0x22] * 64
        assert first_bytes == expected


TWO = Runs.of_target_pages(0, np.array([5, 7]))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (run_frame(TWO, payload=b"x" * 4096), "runs of 8192 bytes came with a payload of 4096"),
        (run_frame(TWO, np.array([True, True]), b"x" * 4096), "runs of 0 bytes"),
        (run_frame(Runs.of_target_pages(9, np.array([5])), payload=b"x" * 4096), "outside"),
        (run_frame(Runs.of_target_pages(0, np.array([5, 2048])), payload=b"x" * 8192), "outside"),
        (run_frame(Runs.of_target_pages(0, np.array([5, 600])), payload=b"x" * 8192), "2 pages"),
        (run_frame(
            Runs.of_parts(0, np.array([0, 500]), np.array([400, 113])), np.array([True, True])
        ), "over the agreed"),
        ((RunData(block=0, offset=0, runs=PackedRuns(bytes(8))), b""), "empty, out of order"),
        ((RunData(block=0, offset=5, runs=PackedRuns(bytes(8))), b""), "no whole target pages"),
    ],
)  # fmt: skip
async def test_hostile_runs_are_refused(frame: tuple[Message, bytes], reason: str) -> None:
    """Runs that do not fit their payload, the guest, a page or what was agreed write nothing."""
    async with make_rig(past=TO_POSTCOPY) as rig:
        rig.memory.views[0][:] = b"\xee" * (4 * HUGE)
        assert reason in await rig.refusal(*frame)
        assert bytes(rig.memory.views[0]) == b"\xee" * (4 * HUGE)


async def test_runs_that_come_again_are_refused() -> None:
    """One target page that is here already makes a whole frame of runs wrong."""
    async with make_rig(past=TO_POSTCOPY) as rig:
        await rig.peer.send(*run_frame(TWO, payload=b"x" * 8192))
        again = Runs.of_target_pages(0, np.array([4, 7]))
        assert "came again" in await rig.refusal(*run_frame(again, payload=b"y" * 8192))
        assert not any(rig.memory.views[0][4 * 4096 : 5 * 4096])


async def test_both_channels_have_the_same_receiver() -> None:
    """In postcopy pages of the postcopy channel land and count like those of the other."""
    async with make_rig(POST, TO_POSTCOPY) as rig:
        await rig.say(page(3, urgent=True), end(1))
        assert bytes(rig.memory.views[0][3 * HUGE :]) == PAGE
        assert rig.engine.assembly.counts[PRE].target_pages == 0
        assert rig.engine.assembly.counts[POST].target_pages == 512


async def test_the_rest_of_a_target_page_lands_behind_what_is_held() -> None:
    """Its bytes go where those of before the break end, and the page may be whole with them."""
    async with make_rig(past=TO_POSTCOPY) as rig:
        assembly, view = rig.engine.assembly, rig.memory.views[0]
        assembly.begin(POST, Span(0, 0, HUGE))
        view[: HUGE - 96] = PAGE[: HUGE - 96]
        assembly.progress(POST, HUGE - 96)
        rig.executor.interrupt()
        assert not assembly.is_placed(PageId(0, 0))
        rest = PageRest(payload_bytes=96, block=0, offset=HUGE - 96)
        await rig.say((rest, PAGE[-96:]), (End(target_pages=1, data_bytes=96), b""))
        assert bytes(view[:HUGE]) == PAGE
        assert assembly.is_placed(PageId(0, 0))


async def test_a_pass_is_acknowledged_when_all_before_it_has_come() -> None:
    """The answer to a PassEnd names the pass, and comes in its turn."""
    async with make_rig() as rig, trio.open_nursery() as nursery:
        nursery.start_soon(rig.receiver.run)
        for index in (0, 1):
            await rig.peer.send(*page(0))
            await rig.peer.send(PassEnd(index=index))
            assert await rig.peer.expect(PassAck) == PassAck(index=index)
            assert rig.engine.assembly.counts[PRE].target_pages == 512 * (index + 1)
        nursery.cancel_scope.cancel()


async def test_discards_and_the_switch_over_reach_who_they_concern() -> None:
    """Bitmaps go to the assembly, and the device state to the migration, each with its bytes."""
    discard = Discard(payload_bytes=len(BITS), block=0, first=0, count=8 * len(BITS))
    switch_over = SwitchOver(payload_bytes=5, postcopy=True)
    async with make_rig() as rig:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.receiver.run)
            await rig.peer.send(discard, BITS)
            await rig.peer.send(switch_over, b"state")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert rig.said == [(b"state", True)]
        rig.executor.start_postcopy()
        assert rig.engine.assembly.missing_bytes == 4 * HUGE


async def test_progress_is_told_page_by_page() -> None:
    """Whoever watches hears of a page's bytes while they come."""
    heard: list[tuple[str, int]] = []
    async with make_rig(past=TO_POSTCOPY) as rig:
        rig.engine.watch(lambda what, which: heard.append((what, which.index)))
        await rig.say(page(1), end(1))
        assert set(heard[:-1]) == {("received", 1)}
        assert heard[-1] == ("placed", 1)


ANSWER = RequestAnswer(
    block=0, page=0, target_page=0, answer="queued",
    came_ns=1, queued_ns=2, postponed_ns=0, sending_ns=3, told_ns=4,
)  # fmt: skip
MESSAGES: list[tuple[Message, bytes]] = [
    (Hello(version=1, session=SESSION, role="precopy"), b""),
    (Welcome(version=1), b""),
    (Setup(blocks=(("ram", HUGE, HUGE),), policy="ordered", chunk_bytes=HUGE, switches=()), b""),
    (Ready(), b""),
    page(0),
    (ZeroData(block=0, offset=0, length=HUGE), b""),
    (PassEnd(index=0), b""),
    (PassAck(index=0), b""),
    (Discard(payload_bytes=1, block=0, first=0, count=8), b"\xff"),
    (SwitchOver(postcopy=True), b""),
    (Running(), b""),
    (PageRequest(block=0, page=0, target_page=0), b""),
    end(0),
    (Finished(pages=1, target_pages=1, data_bytes=1), b""),
    (Account(), b""),
    (Verdict(equal=True), b""),
    (Bye(), b""),
    (RunData(block=0, offset=0, runs=PackedRuns(b"\0\0\0\0\x80\0\0\1")), b""),
    (SwitchOverAhead(), b""),
    (SwitchOverAck(), b""),
    (Resume(version=1, session=SESSION, role="precopy", attempt=1), b""),
    (MissingMap(block=0, first=0, count=8), b""),
    (Standing(running=True, target_pages=0, dropped_bytes=0), b""),
    (checksum_of(page(0)[0], [PAGE]), b""),
    (Resend(block=0, offset=0, runs=PackedRuns(bytes(8))), b""),
    (HeldPart(block=0, target_page=0, held_bytes=1), b""),
    (PageRest(payload_bytes=96, block=0, offset=4000), b"r" * 96),
    (ANSWER, b""),
    (SourceTime(now_ns=1), b""),
]
assert {type(message) for message, _ in MESSAGES} == set(MESSAGE_TYPES) - {Abort, Ping}

ALLOWED: dict[tuple[tuple[Event, ...], Channel], set[type[Message]]] = {
    (TO_ACTIVE, PRE): {
        PageData,
        ZeroData,
        RunData,
        Checksum,
        PassEnd,
        SwitchOverAhead,
        SourceTime,
        Discard,
        SwitchOver,
    },
    (TO_ACTIVE, POST): set(),
    (TO_DEVICE, PRE): {
        PageData,
        ZeroData,
        RunData,
        Checksum,
        PassEnd,
        SourceTime,
        Discard,
        SwitchOver,
        End,
    },
    (TO_DEVICE, POST): {End},
    (TO_POSTCOPY, PRE): {
        PageData,
        ZeroData,
        RunData,
        PageRest,
        Checksum,
        PassEnd,
        RequestAnswer,
        End,
    },
    (TO_POSTCOPY, POST): {PageData, ZeroData, RunData, Checksum, PassEnd, RequestAnswer, End},
}
STATES = {TO_ACTIVE: "active", TO_DEVICE: "device", TO_POSTCOPY: "postcopy-active"}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda each: type(each[0]).__name__)
@pytest.mark.parametrize("name", Channel)
@pytest.mark.parametrize("past", STATES, ids=STATES.values())
async def test_a_message_out_of_its_state_is_refused(
    past: tuple[Event, ...], name: Channel, message: tuple[Message, bytes]
) -> None:
    """What may not come in a state over a channel ends the session, named with both."""
    async with make_rig(name, past, checked=type(message[0]) is Checksum) as rig:
        if past is TO_POSTCOPY:
            rig.engine.assembly._parts.held = {(0, 0): 4000}
        rig.engine.faults.is_told = True
        if type(message[0]) in ALLOWED[past, name]:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.receiver.run)
                await rig.peer.send(*message)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        else:
            kind = type(message[0]).__name__
            expected = f"{kind} on the {name.value} channel in state {STATES[past]}"
            assert await rig.refusal(*message) == expected
            assert not any(rig.memory.views[0][:TARGET_PAGE_BYTES])


@pytest.mark.parametrize(
    "said", [end(0), end(2), end(1, 0), (End(target_pages=513, data_bytes=HUGE), b"")]
)
async def test_counts_that_differ_are_refused(said: tuple[End, bytes]) -> None:
    """A channel's End must say what came over it, target pages and bytes."""
    async with make_rig(past=TO_POSTCOPY) as rig:
        await rig.peer.send(*page(0))
        reason = await rig.refusal(*said)
        assert f"512 and {HUGE} came" in reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (page(4), "outside the guest"),
        (page(0, block=7), "outside the guest"),
        (page(0, offset=123), "no whole target pages"),
        ((ZeroData(block=0, offset=3 * HUGE, length=2 * HUGE), b""), "over the agreed"),
        ((ZeroData(block=1, offset=0, length=HUGE), b""), "outside the guest"),
        ((ZeroData(block=0, offset=0, length=0), b""), "outside the guest"),
        ((PageData(payload_bytes=HUGE + 4096, block=0, offset=0), b"x"), "over the agreed"),
        ((PageData(payload_bytes=HUGE, block=0, offset=4096), b"x"), "parts of 2 pages"),
    ],
)
async def test_bytes_that_have_no_place_are_refused(
    message: tuple[Message, bytes], reason: str
) -> None:
    """Frames that are too long, or not for a page of this guest, are refused before their bytes."""
    async with make_rig(past=TO_POSTCOPY) as rig:
        assert reason in await rig.refusal(*message)
        assert not any(rig.memory.views[0][:TARGET_PAGE_BYTES])


@pytest.mark.parametrize(
    "message",
    [
        (Discard(payload_bytes=1, block=2, first=0, count=8), b"\xff"),
        (Discard(payload_bytes=1, block=1, first=32, count=8), b"\xff"),
        (Discard(payload_bytes=1, block=0, first=0, count=16), b"\xff"),
        (Discard(payload_bytes=0, block=0, first=0, count=0), b""),
    ],
)
async def test_a_wrong_bitmap_is_refused(message: tuple[Message, bytes]) -> None:
    """A discard that does not fit the guest, or its own count, is the source's fault."""
    async with make_rig() as rig:
        await rig.refusal(*message)


async def end_now(rig: Rig) -> None:
    """Close the connection."""
    await trio.lowlevel.checkpoint()
    rig.peer.close()


async def end_inside_a_page(rig: Rig) -> None:
    """Close the connection in the middle of a page."""
    await rig.peer.send(page(0)[0], PAGE[:1000])
    rig.peer.close()


@pytest.mark.parametrize("finish", [end_now, end_inside_a_page])
async def test_an_end_of_file_before_the_end_is_a_lost_connection(
    finish: Callable[[Rig], Any],
) -> None:
    """A channel that closes without its End has not been completed, whatever has come."""
    async with make_rig(past=TO_POSTCOPY) as rig:
        await rig.peer.send(*page(1))
        await finish(rig)
        with pytest.raises(ConnectionLost):
            await rig.receiver.run()


async def test_an_abort_may_come_at_any_time() -> None:
    """The source's word ends the channel in whatever state it is."""
    for past in STATES:
        async with make_rig(past=past) as rig:
            await rig.peer.send(Abort(reason="r" * REASON_CHARS_MAX))
            with pytest.raises(PeerAborted):
                await rig.receiver.run()


async def test_a_page_is_placed_when_its_frame_is_whole() -> None:
    """While the last bytes of a page are missing it is not told as placed."""
    async with make_rig(past=TO_POSTCOPY) as rig:
        placed = Recorder()
        rig.engine._emit = placed
        message, payload = page(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.receiver.run)
            await rig.peer.send(message, payload[:-1])
            await wait_all_tasks_blocked()
            assert placed.events == []
            await rig.peer.send_bytes(payload[-1:])
            # The bytes before may still be on their way through the kernel.
            while not placed.events:  # noqa: ASYNC110
                await trio.sleep(0.001)
            assert placed.kinds(events.PagePlaced) == [events.PagePlaced]
            nursery.cancel_scope.cancel()


# Several small frames that come together.


def small(*target_pages: int) -> list[tuple[Message, bytes]]:
    """Return the urgent frames of single target pages of the first block."""
    return [
        (
            PageData(
                payload_bytes=TARGET_PAGE_BYTES, block=0, offset=each * TARGET_PAGE_BYTES,
                urgent=True,
            ),
            bytes([each % 251]) * TARGET_PAGE_BYTES,
        )
        for each in target_pages
    ]  # fmt: skip


def told(target_page: int, answer: str = QUEUED) -> tuple[Message, bytes]:
    """Return what the source says of a request for a target page of the first page."""
    message = RequestAnswer(
        block=0, page=0, target_page=target_page, answer=answer, came_ns=20, queued_ns=0,
        postponed_ns=0, sending_ns=0, told_ns=30,
    )  # fmt: skip
    return message, b""


async def say_as_one(rig: Rig, *messages: tuple[Message, bytes]) -> None:
    """Send messages in one piece, all of it here before any is read; read until there is no more.

    Raises:
        RemoteProtocolError: The receiver refuses one.
    """
    await rig.peer.send_bytes(b"".join(encode(message) + data for message, data in messages))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.receiver.run)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    except ExceptionGroup as group:
        raise root_cause(group) from None


@pytest.mark.parametrize("count", [4, 40])
async def test_small_frames_in_one_piece_are_placed_in_their_order(count: int) -> None:
    """However many come together, none is lost, and nothing is awaited before they are placed."""
    target_pages = [7 * index + 1 for index in range(count)]
    async with make_rig(POST, TO_POSTCOPY, "critical-first") as rig:
        for vcpu, each in enumerate((3, 0, 2, 1)):
            rig.executor.fault(vcpu, target_pages[each], 5)
        await say_as_one(rig, *small(*target_pages))
        assert rig.guest.woken == [1, 3, 2, 0]
        assert np.flatnonzero(rig.guest.board.present[: len(BITS) * 8]).tolist() == target_pages
        for each in target_pages:
            begin = each * TARGET_PAGE_BYTES
            here = bytes(rig.memory.views[0][begin : begin + TARGET_PAGE_BYTES])
            assert here == bytes([each % 251]) * TARGET_PAGE_BYTES


async def test_the_end_behind_small_frames_finds_them_placed() -> None:
    """A channel's last frames are placed before it has ended."""
    async with make_rig(POST, TO_POSTCOPY, "critical-first") as rig:
        rig.executor.fault(2, 8, 5)
        last = End(target_pages=2, data_bytes=2 * TARGET_PAGE_BYTES)
        await say_as_one(rig, *small(1, 8), (last, b""))
        assert rig.guest.woken == [2]


async def test_who_waits_comes_before_what_is_told() -> None:
    """Bytes behind the source's words are placed before these are looked at; both count."""
    async with make_rig(POST, TO_POSTCOPY, "critical-first", is_told=True) as rig:
        rig.executor.fault(2, 8, 5)
        assert rig.engine.words.take(8, 6) == [PageRequest(block=0, page=0, target_page=8)]
        await say_as_one(rig, told(8), *small(1, 8))
        assert rig.guest.woken == [2]
        assert rig.engine.faults.woke(2, 10**18) is not None, "its request was told of"
        rig.executor.fault(3, 9, 5)
        with pytest.raises(RemoteProtocolError, match="an answer, or a page, that there is not"):
            await say_as_one(rig, told(9, answer="perhaps"), *small(9))
        assert rig.guest.woken == [2, 3]


# A page that comes again whole over the postcopy channel.

WRITTEN = b"\xee" * HUGE


def come_again(rig: Rig) -> None:
    """Have page 0 come whole over the other channel, be placed, and be written to."""
    rig.executor.begin(POST, Span(0, 0, HUGE), Urgent())[:] = PAGE
    rig.executor.progress(POST, HUGE)
    rig.executor.end(POST)
    assert rig.engine.assembly.is_placed(PageId(0, 0))
    rig.memory.views[0][:HUGE] = WRITTEN


async def test_the_rest_of_a_stale_frame_is_never_written() -> None:
    """Late bytes of a page that came again, and that its guest has written to, change nothing."""
    async with make_rig(PRE, TO_POSTCOPY, "resend") as rig, trio.open_nursery() as nursery:
        nursery.start_soon(rig.receiver.run)
        message, payload = page(0)
        await rig.peer.send(message, payload[: HUGE // 2])
        await wait_all_tasks_blocked()
        assert bytes(rig.memory.views[0][: HUGE // 2]) == PAGE[: HUGE // 2]
        come_again(rig)
        await rig.peer.send_bytes(payload[HUGE // 2 : -1])
        await wait_all_tasks_blocked()
        assert bytes(rig.memory.views[0][:HUGE]) == WRITTEN
        await rig.peer.send_bytes(payload[-1:])
        await rig.peer.send(*page(1))
        # All of it counts: the source says what it sent.
        await rig.peer.send(*end(2))
        await wait_all_tasks_blocked()
        assert bytes(rig.memory.views[0][: 2 * HUGE]) == WRITTEN + PAGE


async def test_a_stale_frame_that_comes_late_is_never_written() -> None:
    """Frames that the other channel has overtaken change nothing, bytes or zeros."""
    quarter = HUGE // 4
    async with make_rig(PRE, TO_POSTCOPY, "resend") as rig:
        come_again(rig)
        late = PageData(payload_bytes=quarter, block=0, offset=0)
        zeros = ZeroData(block=0, offset=quarter, length=quarter)
        count = HUGE // 2 // TARGET_PAGE_BYTES
        await rig.say(
            (late, PAGE[:quarter]),
            (zeros, b""),
            (End(target_pages=count, data_bytes=quarter), b""),
        )
        assert bytes(rig.memory.views[0][:HUGE]) == WRITTEN


@pytest.mark.parametrize("policy", ["ordered", "split", "parallel"])
async def test_a_stale_frame_is_refused_where_pages_come_once(policy: str) -> None:
    """Where no page comes again, a second copy is refused before a byte of it is read."""
    async with make_rig(PRE, TO_POSTCOPY, policy) as rig:
        come_again(rig)
        assert "came again" in await rig.refusal(*page(0))
        assert bytes(rig.memory.views[0][:HUGE]) == WRITTEN


@pytest.mark.parametrize("policy", ["split", "critical-first"])
async def test_chunks_of_one_page_may_come_over_both_channels(policy: str) -> None:
    """Under a policy that says so a page is put together from both channels."""
    half = HUGE // 2
    async with make_rig(PRE, TO_POSTCOPY, policy) as rig:
        rig.executor.begin(POST, Span(0, half, half), Urgent())[:] = PAGE[half:]
        rig.executor.progress(POST, half)
        rig.executor.end(POST)
        first = PageData(payload_bytes=half, block=0, offset=0)
        count = half // TARGET_PAGE_BYTES
        await rig.say((first, PAGE[:half]), (End(target_pages=count, data_bytes=half), b""))
        assert bytes(rig.memory.views[0][:HUGE]) == PAGE
        assert rig.engine.assembly.is_whole(rig.memory.geometry.page_span(PageId(0, 0)))


async def test_what_comes_changed_is_asked_for_again_and_not_placed() -> None:
    """A changed payload is counted and told back; its page waits until the right bytes come."""
    even = Runs.of_target_pages(0, np.arange(512, 1024, 2))
    odd = Runs.of_target_pages(0, np.arange(513, 1024, 2))
    zeros = run_frame(odd, np.ones(256, dtype=np.bool_))
    frame, payload = run_frame(even, payload=b"\x11" * even.length)
    changed = b"\x10" + payload[1:]
    async with make_rig(past=TO_POSTCOPY, checked=True) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(rig.receiver.run)
        rig.executor.fault(0, 700, 0)
        for message, sent, came in ((*zeros, b""), (frame, payload, changed)):
            await rig.peer.send(checksum_of(message, [sent]))
            await rig.peer.send(message, came)
        resend = await rig.peer.expect(Resend)
        assert unpack_runs(resend.block, resend.offset, resend.runs)[0] == even
        assert await rig.peer.expect(PageRequest) == PageRequest(block=0, page=1, target_page=0)
        assert not rig.engine.assembly.is_placed(PageId(0, 1))
        assert rig.engine.assembly.missing_bytes == len(BITS) * 8 * 4096 - odd.length
        await rig.peer.send(checksum_of(frame, [payload]))
        await rig.peer.send(frame, payload)
        data_bytes = 2 * even.length
        await rig.peer.send(End(target_pages=256 * 3, data_bytes=data_bytes))
    assert rig.engine.assembly.is_placed(PageId(0, 1))


async def test_a_changed_head_is_a_lost_connection() -> None:
    """What it would have been is not known; nothing of it is written."""
    async with make_rig(past=TO_POSTCOPY, checked=True) as rig:
        await rig.peer.send(checksum_of(page(1)[0], [PAGE]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.peer.send, *page(2))
            with pytest.raises(ConnectionLost, match="changed the head"):
                await rig.receiver.run()
            nursery.cancel_scope.cancel()
        assert rig.engine.assembly.missing_bytes == len(BITS) * 8 * 4096
