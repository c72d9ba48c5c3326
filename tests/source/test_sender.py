"""The sender over real sockets: what is broken off when, and that no byte goes twice or is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from guest.memory import GuestMemory
from guest.streams.stream import Delivery
from guest.streams.tcp import TcpStream
from protocol import events
from protocol.channels import Channel
from protocol.errors import ConnectionLost, root_cause
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.messages import Message, PageData, RequestAnswer, RunData, ZeroData
from protocol.pageset import PageSet
from protocol.policy import preset
from protocol.runs import Runs, Stretch, unpack_runs
from source.buffering import SLACK_BYTES
from source.channel import OutChannel
from source.commands import Look
from source.engine import SendEngine
from source.framing import frame_of
from source.jobs import Answer, Lane
from source.pacing import Pacer
from source.scheduler import Scheduler
from source.sender import Sender
from source.tracking import RequestTracker
from tests.certificates import tls_pair
from tests.clocks import trio_ns
from tests.guests import HUGE, KIB, patterned_memory, small_geometry
from tests.sockets import Peer, unix_pair
from tests.stories import Recorder

CHUNK = 64 * KIB
CHUNKS_PER_PAGE = HUGE // CHUNK

# What a socket takes before it is full is less than a chunk.
SMALL_BUFFER = 16 * KIB

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY

Frame = PageData | ZeroData | RunData


def span_of(frame: Frame) -> Stretch:
    """Return the stretch of memory that a frame is about."""
    if isinstance(frame, RunData):
        return unpack_runs(frame.block, frame.offset, frame.runs)[0]
    length = frame.payload_bytes if isinstance(frame, PageData) else frame.length
    return Span(frame.block, frame.offset, length)


class Rig:
    """A sender, its two connections, and what came out at their other ends, in order."""

    def __init__(
        self,
        memory: GuestMemory,
        policy: str,
        near: dict[Channel, OutChannel],
        far: dict[Channel, Peer],
        *,
        yields: bool = False,
    ) -> None:
        """Put a sender with nothing to send over the connections."""
        self.memory = memory
        self.events = Recorder()
        self.policy = preset(policy)
        self.scheduler = Scheduler(memory.geometry, self.policy, CHUNK)
        self.out = near
        self.engine = SendEngine(
            self.scheduler, partial(frame_of, memory), near, self.events, yields=yields
        )
        self.sender = Sender(self.engine, near, trio_ns)
        self.peers = far
        self.received: list[tuple[Channel, Frame]] = []
        # What was told of requests, and how many frames had come over the channel before it.
        self.told: list[tuple[Channel, int, RequestAnswer]] = []
        self._seen = PageSet(memory.geometry)

    def add(self, *pages: PageId) -> None:
        """Have pages to send; all of the guest if none is named."""
        pending = PageSet(self.memory.geometry)
        if not pages:
            pending.fill()
        for page in pages:
            pending.add(self.memory.geometry.page_span(page))
        self.scheduler.add(pending)

    def request(self, page: PageId, target_page: int = 0) -> Answer:
        """Request a page for a vCPU that touched one of its target pages, alone."""
        answer = self.ask(page, target_page)
        self.sender.serve()
        return answer

    def ask(self, page: PageId, target_page: int = 0) -> Answer:
        """Request a page beside others, which are served together."""
        while isinstance(answer := self.engine.request(page, target_page, trio_ns()), Look):
            self.sender.look(answer)
        self.sender.note_untold()
        return answer

    async def tell_all(self) -> None:
        """Tell of all requests, behind all frames."""
        for answer in self.engine.last_answers(trio_ns()):
            await self.out[PRE].send(answer)

    async def read(self, name: Channel) -> None:
        """Take what comes over a channel, until cancelled; each byte once and as in memory."""
        while True:
            message, payload = await self.peers[name].receive()
            self.take(name, message, payload)

    def take(self, name: Channel, message: Message, payload: bytes) -> None:
        """Check a frame and keep it."""
        if isinstance(message, RequestAnswer):
            self.told.append((name, len(self.received), message))
            return
        assert isinstance(message, Frame)
        span = span_of(message)
        view = self.memory.views[span.block]
        if isinstance(message, RunData):
            _, is_zero = unpack_runs(message.block, message.offset, message.runs)
            assert isinstance(span, Runs)
            each = zip(span.spans(), is_zero.tolist(), strict=True)
            assert payload == b"".join(view[s.offset : s.end] for s, zero in each if not zero)
        else:
            assert payload in (b"", bytes(view[span.offset : span.end]))
        assert not self._seen.count_in(span), f"{span} came twice"
        self._seen.add(span)
        self.received.append((name, message))

    def forget(self, page: PageId) -> None:
        """Let a page come once more."""
        self._seen.remove(self.memory.geometry.page_span(page))

    def pages(self, name: Channel) -> list[PageId]:
        """Return the pages that came over a channel, each once, in the order of their ends."""
        spans = [span_of(frame) for channel, frame in self.received if channel is name]
        pages = [
            self.memory.geometry.page_of(span.block, span.offset // TARGET_PAGE_BYTES)
            for span in spans
        ]
        return list(dict.fromkeys(reversed(pages)))[::-1]

    def frames_of(self, page: PageId) -> list[tuple[Channel, Frame]]:
        """Return the frames of a page, in order of arrival."""
        whole = self.memory.geometry.page_span(page)
        return [
            (name, frame)
            for name, frame in self.received
            if frame.block == page.block and whole.offset <= frame.offset < whole.end
        ]

    @property
    def complete(self) -> bool:
        """Whether every byte of the guest has come."""
        return len(self._seen) == self.memory.geometry.target_page_count

    @property
    def open_sent(self) -> int:
        """How many bytes of the half-sent precopy frame are sent."""
        frame = self.out[PRE].open_frame
        return frame.sent if frame is not None else 0

    async def drain_and_read(self) -> None:
        """Send all that there is, with both connections being read."""
        async with trio.open_nursery() as nursery:
            for name in Channel:
                nursery.start_soon(self.read, name)
            await self.sender.drain()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Four huge pages and 32 base pages, none of them zero."""
    with patterned_memory(small_geometry()) as made:
        yield made


@contextmanager
def make_rig(
    memory: GuestMemory,
    policy: str = "ordered",
    *,
    yields: bool = False,
) -> Iterator[Rig]:
    """Put a sender and two small connections together; the block is bounded."""
    with unix_pair(SMALL_BUFFER) as (near, far), unix_pair(SMALL_BUFFER) as (near_2, far_2):
        out = {PRE: OutChannel(PRE, TcpStream(near)), POST: OutChannel(POST, TcpStream(near_2))}
        try:
            peers = {PRE: Peer(far), POST: Peer(far_2)}
            yield Rig(memory, policy, out, peers, yields=yields)
        finally:
            # What is half-sent must not hold the memory.
            for channel in out.values():
                channel.close()


def numbered(*indices: int) -> list[PageId]:
    """Return huge pages of the first block."""
    return [PageId(0, index) for index in indices]


async def test_everything_goes_in_the_background(memory: GuestMemory) -> None:
    """Without requests the whole guest goes over the precopy channel, in order and not urgent."""
    with make_rig(memory) as rig:
        rig.add()
        await rig.drain_and_read()
        assert rig.complete
        assert rig.pages(PRE)[:4] == numbered(0, 1, 2, 3)
        assert rig.pages(POST) == []
        assert not any(frame.urgent for _, frame in rig.received)
        out = rig.out[PRE]
        assert out.target_pages_sent == memory.geometry.target_page_count
        assert out.data_bytes_sent == memory.geometry.length_bytes


async def test_a_page_is_broken_off_while_the_socket_is_full(memory: GuestMemory) -> None:
    """A request goes out over the postcopy channel though the background waits for its socket."""
    with make_rig(memory) as rig:
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            assert rig.open_sent
            assert rig.request(PageId(0, 2)) is Answer.QUEUED
            # Nobody reads the precopy connection, and yet the page comes.
            nursery.start_soon(rig.read, POST)
            await wait_all_tasks_blocked()
            assert rig.pages(POST) == numbered(2)
            assert len(rig.received) == CHUNKS_PER_PAGE
            assert all(frame.urgent for _, frame in rig.received)
            assert rig.scheduler.counts.preemptions == 1
            nursery.start_soon(rig.read, PRE)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert rig.complete
        # Locality: the scan goes on behind the page that was asked for.
        assert rig.pages(PRE)[:2] == numbered(0, 3)
        assert rig.events.kinds(events.PageRequest, events.Preempt, events.PageSent)[:4] == [
            events.PageRequest,
            events.Preempt,
            events.PageSent,
            events.PageSent,
        ]
        (preempt,) = rig.events.of(events.Preempt)
        assert preempt == preempt | {
            "block": 0, "page": 0, "channel": "precopy", "urgent": False, "boosted": False
        }  # fmt: skip


async def test_a_half_sent_page_is_finished_from_its_byte(memory: GuestMemory) -> None:
    """A request for the broken-off page continues its frame at the byte where it stopped."""
    with make_rig(memory) as rig:
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            stopped_at = rig.open_sent
            # All at once, as they come when several vCPUs fault.
            for index in (2, 0, 3):
                assert rig.request(PageId(0, index)) is Answer.QUEUED
            nursery.start_soon(rig.read, POST)
            await wait_all_tasks_blocked()
            # What was asked for first came first; now the half-sent page waits for its socket.
            assert rig.pages(POST) == numbered(2)
            assert rig.open_sent >= stopped_at
            assert rig.scheduler.urgent()
            nursery.start_soon(rig.read, PRE)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert rig.complete
        first = rig.frames_of(PageId(0, 0))
        assert {name for name, _ in first} == {PRE}
        # The frame that was under way had left as background; the rest is urgent.
        assert [frame.urgent for _, frame in first] == [False] + [True] * (CHUNKS_PER_PAGE - 1)
        sent = [(each["page"], each["urgent"]) for each in rig.events.of(events.PageSent)]
        assert sent[:3] == [(2, True), (0, True), (3, True)]
        assert rig.events.of(events.PageSent)[1]["boosted"]
        (boost,) = rig.events.of(events.Boost)
        assert boost == boost | {
            "block": 0, "page": 0, "channel": "precopy", "urgent": True, "boosted": True
        }  # fmt: skip
        assert rig.scheduler.counts.boosted == 1


async def test_over_tls_a_half_sent_page_is_finished_from_its_byte(
    memory: GuestMemory, tmp_path: Path
) -> None:
    """Encryption changes nothing: a page is broken off in mid-frame, and ends where it began."""
    async with (
        tls_pair(tmp_path, buffer_bytes=SMALL_BUFFER) as pre,
        tls_pair(tmp_path, buffer_bytes=SMALL_BUFFER) as post,
    ):
        out = {PRE: OutChannel(PRE, pre[0]), POST: OutChannel(POST, post[0])}
        rig = Rig(memory, "ordered", out, {PRE: Peer(pre[1]), POST: Peer(post[1])})
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            assert 0 < rig.open_sent < CHUNK
            for index in (2, 0, 3):
                rig.request(PageId(0, index))
            nursery.start_soon(rig.read, POST)
            await wait_all_tasks_blocked()
            assert rig.pages(POST) == numbered(2)
            nursery.start_soon(rig.read, PRE)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert rig.complete
        first = rig.frames_of(PageId(0, 0))
        assert {name for name, _ in first} == {PRE}
        sent = [(each["page"], each["urgent"]) for each in rig.events.of(events.PageSent)]
        assert sent[:3] == [(2, True), (0, True), (3, True)]
        assert rig.scheduler.counts.boosted == 1
        for channel in out.values():
            channel.close()


@pytest.mark.parametrize("policy", ["own-channel", "vanilla"])
async def test_without_preemption_a_page_is_not_broken_off(
    memory: GuestMemory, policy: str
) -> None:
    """A policy that does not preempt lets the page under way end before the one asked for."""
    with make_rig(memory, policy) as rig:
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            rig.request(PageId(0, 2))
            await wait_all_tasks_blocked()
            assert rig.scheduler.counts.preemptions == 0
            nursery.start_soon(rig.read, PRE)
            nursery.start_soon(rig.read, POST)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert rig.complete
        sent = [each["page"] for each in rig.events.of(events.PageSent)]
        assert sent[:3] == [0, 2, 3]
        assert rig.pages(POST) == (numbered(2) if policy == "own-channel" else [])


async def test_a_page_is_broken_off_while_it_waits_for_the_limit(
    memory: GuestMemory, mock_clock: MockClock
) -> None:
    """A request ends the background's wait for its bandwidth, and itself waits for none."""
    with make_rig(memory) as rig:
        rig.add()
        rig.engine.gate.pacer = Pacer(KIB)
        async with trio.open_nursery() as nursery:
            for name in Channel:
                nursery.start_soon(rig.read, name)
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            # The bucket is empty and the clock stands still: nothing more comes by itself.
            assert 0 < rig.open_sent < CHUNK
            assert rig.received == []
            for index in (3, 1, 2):
                rig.request(PageId(0, index))
            await wait_all_tasks_blocked()
            assert rig.pages(POST) == numbered(3, 1, 2)
            assert rig.pages(PRE) == []
            assert trio.current_time() == 0
            nursery.cancel_scope.cancel()


async def test_the_background_keeps_to_its_limit(
    memory: GuestMemory, autojump_clock: MockClock
) -> None:
    """A paced background takes the time that its bytes take at that rate."""
    with make_rig(memory) as rig:
        page = PageId(0, 0)
        rig.add(page)
        rig.engine.gate.pacer = Pacer(HUGE // 4)
        await rig.drain_and_read()
        assert rig.pages(PRE) == [page]
        # The first burst is free.
        assert trio.current_time() == pytest.approx(4, abs=0.1)


async def test_a_page_asked_for_while_it_streams_becomes_urgent_in_place(
    memory: GuestMemory, mock_clock: MockClock
) -> None:
    """The rest of a page under way goes at once, on its channel, unpaced and marked urgent."""
    with make_rig(memory) as rig:
        rig.add()
        rig.engine.gate.pacer = Pacer(KIB)
        async with trio.open_nursery() as nursery:
            for name in Channel:
                nursery.start_soon(rig.read, name)
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            assert rig.request(PageId(0, 0)) is Answer.URGENT_IN_PLACE
            await wait_all_tasks_blocked()
            assert rig.pages(PRE) == numbered(0)
            assert rig.pages(POST) == []
            urgent = [frame.urgent for _, frame in rig.frames_of(PageId(0, 0))]
            assert urgent == [False] + [True] * (CHUNKS_PER_PAGE - 1)
            assert rig.events.of(events.PageSent)[0]["urgent"]
            assert rig.scheduler.counts.preemptions == 0
            nursery.cancel_scope.cancel()


async def test_zero_pages_go_without_their_bytes(memory: GuestMemory) -> None:
    """Target pages that are all zero are said, not sent; one byte makes the difference."""
    memory.views[0][: 3 * HUGE] = bytes(3 * HUGE)
    # The last word of a chunk of page 1, which no look at its first words shows.
    memory.views[0][HUGE + CHUNK - 1] = 1
    with make_rig(memory) as rig:
        rig.add()
        await rig.drain_and_read()
        assert rig.complete
        kinds = [type(frame) for _, frame in rig.frames_of(PageId(0, 0))]
        assert kinds == [ZeroData] * CHUNKS_PER_PAGE
        kinds = [type(frame) for _, frame in rig.frames_of(PageId(0, 1))]
        assert kinds == [RunData] + [ZeroData] * (CHUNKS_PER_PAGE - 1)
        out = rig.out[PRE]
        assert out.target_pages_sent == memory.geometry.target_page_count
        assert out.data_bytes_sent == memory.geometry.length_bytes - 3 * HUGE + TARGET_PAGE_BYTES


async def test_base_pages_go_in_runs(memory: GuestMemory) -> None:
    """Base pages share frames of a chunk's size, and the event says how many pages went."""
    with make_rig(memory) as rig:
        rig.add(*(PageId(1, index) for index in range(32)))
        await rig.drain_and_read()
        assert [span_of(frame).length for _, frame in rig.received] == [CHUNK, CHUNK]
        pages = CHUNK // TARGET_PAGE_BYTES
        told = rig.events.of(events.PageSent)
        assert [(each["block"], each["page"], each["pages"]) for each in told] == [
            (1, 0, pages), (1, pages, pages)
        ]  # fmt: skip
        # Each says what its channel has carried by then, heads and all, and what is left to send.
        assert [each["remaining_bytes"] for each in told] == [CHUNK, 0]
        assert CHUNK < told[0]["channel_bytes"] < told[1]["channel_bytes"] / 2 + 8
        assert told[1]["channel_bytes"] == rig.out[PRE].bytes_sent


async def test_scattered_pages_go_in_few_frames(memory: GuestMemory) -> None:
    """Of a pass's scattered target pages many share a frame, over the borders of huge pages."""
    with make_rig(memory) as rig:
        sown = [*range(0, 4 * 512, 97), 4 * 512 + 3, 4 * 512 + 8]
        dirty = PageSet(memory.geometry)
        dirty.add_flat(np.array(sown))
        rig.scheduler.add(dirty, across_pages=True)
        await rig.drain_and_read()
        assert [type(frame) for _, frame in rig.received] == [RunData, RunData, RunData]
        assert len(rig._seen) == len(sown)
        assert rig.out[PRE].data_bytes_sent == len(sown) * TARGET_PAGE_BYTES
        assert [each["pages"] for each in rig.events.of(events.PageSent)] == [3, 1, 2]


async def test_scattered_pages_are_broken_off_at_any_byte(memory: GuestMemory) -> None:
    """A frame of runs that the socket took a part of ends from that very byte, urgently or not."""
    with make_rig(memory) as rig:
        dirty = PageSet(memory.geometry)
        dirty.add_flat(np.array([*range(0, 512, 3), *range(3 * 512, 4 * 512)]))
        rig.scheduler.add(dirty)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            stopped_at = rig.open_sent
            assert stopped_at % TARGET_PAGE_BYTES
            for index in (3, 0):
                assert rig.request(PageId(0, index)) is Answer.QUEUED
            nursery.start_soon(rig.read, POST)
            await wait_all_tasks_blocked()
            assert rig.pages(POST) == numbered(3)
            assert rig.open_sent >= stopped_at
            nursery.start_soon(rig.read, PRE)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert len(rig._seen) == len(dirty)
        assert rig.scheduler.counts.boosted == 1


async def test_a_cancelled_drain_leaves_its_frame_to_be_finished(memory: GuestMemory) -> None:
    """What a cancelled drain leaves half-sent is the channel's open frame, and can be ended."""
    with make_rig(memory) as rig:
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert rig.open_sent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.read, PRE)
            await rig.out[PRE].finish_open_frame()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        # It may have come to be in the middle of any chunk of the first page.
        assert rig.pages(PRE) == numbered(0)


async def test_drain_with_nothing_to_send_is_a_checkpoint(memory: GuestMemory) -> None:
    """A drain that finds nothing lets other tasks run all the same."""
    with make_rig(memory) as rig, assert_checkpoints():
        await rig.sender.drain()


async def test_a_request_is_served_by_who_brings_it(memory: GuestMemory) -> None:
    """While the background waits a page is with its socket when `request` returns, all of it."""
    with make_rig(memory, "critical-first") as rig:
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            stopped_at = rig.open_sent
            for count, touched in enumerate((100, 7), start=1):
                rig.request(PageId(0, 2), touched)
                assert rig.out[POST].target_pages_sent == count
                assert rig.out[POST].open_frame is None
            # What was broken off stays as it is.
            assert rig.open_sent == stopped_at
            assert rig.scheduler.queued_requests == 0
            for name in Channel:
                nursery.start_soon(rig.read, name)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert rig.complete
        assert rig.events.kinds(events.Preempt) == [events.Preempt]


async def test_all_that_have_come_are_taken_before_one_is_served(memory: GuestMemory) -> None:
    """What is asked for at once is served in its order, the half-sent page in its turn."""
    with make_rig(memory, "critical-first") as rig:
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            for index in (2, 0, 3):
                rig.ask(PageId(0, index), 511)
            assert rig.scheduler.queued_requests == 3
            assert rig.out[POST].bytes_sent == 0
            rig.sender.serve()
            assert rig.out[POST].target_pages_sent == 3
            nursery.cancel_scope.cancel()


async def test_what_the_socket_does_not_take_at_once_is_sent_by_the_task(
    memory: GuestMemory, mock_clock: MockClock
) -> None:
    """Of pages larger than the socket the rest follows, in order, though the limit lets none go."""
    with make_rig(memory) as rig:
        rig.add()
        rig.engine.gate.pacer = Pacer(KIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            for index in (2, 3, 1):
                rig.request(PageId(0, index))
            assert 0 < rig.out[POST].bytes_sent < CHUNK
            assert rig.out[POST].open_frame is not None
            nursery.start_soon(rig.read, POST)
            await wait_all_tasks_blocked()
            assert rig.pages(POST) == numbered(2, 3, 1)
            assert trio.current_time() == 0
            nursery.cancel_scope.cancel()


async def test_a_request_over_a_broken_connection_is_a_lost_one(memory: GuestMemory) -> None:
    """Who brings a request hears that its page cannot be sent."""
    with make_rig(memory, "critical-first") as rig:
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            rig.peers[POST].sock.close()
            with pytest.raises(ConnectionLost):
                rig.request(PageId(0, 2))
            nursery.cancel_scope.cancel()


async def test_the_background_leaves_the_link_to_urgent_bytes(
    memory: GuestMemory, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on when few of them are left in the kernel, and requests do not wait with it."""
    with make_rig(memory, "critical-first", yields=True) as rig:
        left_bytes = [SLACK_BYTES + 125_000] * 3 + [0]
        asked: list[float] = []

        def delivery(channel: OutChannel) -> Delivery:
            assert channel is rig.out[POST]
            asked.append(trio.current_time())
            return Delivery(left_bytes[len(asked) - 1], 125_000_000, 0)

        monkeypatch.setattr(OutChannel, "delivery", delivery)
        rig.add()
        rig.request(PageId(0, 2), 5)
        async with trio.open_nursery() as nursery:
            for name in Channel:
                nursery.start_soon(rig.read, name)
            nursery.start_soon(rig.sender.drain)
            await trio.sleep(0.0005)
            assert rig.out[PRE].bytes_sent == 0
            rig.request(PageId(0, 3), 7)
            assert rig.out[POST].target_pages_sent == 2
            # A millisecond for each look at it, and nobody is woken before.
            await trio.sleep(1)
            assert asked == pytest.approx([0, 0.001, 0.002, 0.003])
            nursery.cancel_scope.cancel()
        assert rig.complete


# A concurrent policy: requests and background, each in a task of its own.


async def test_a_request_is_served_beside_a_full_background(memory: GuestMemory) -> None:
    """The urgent lane, idle so far, sends at once; what the background is sending stays whole."""
    with make_rig(memory, "parallel") as rig:
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            stopped_at = rig.open_sent
            assert stopped_at
            assert rig.request(PageId(0, 2)) is Answer.QUEUED
            nursery.start_soon(rig.read, POST)
            await wait_all_tasks_blocked()
            assert rig.pages(POST) == numbered(2)
            assert rig.open_sent == stopped_at
            nursery.start_soon(rig.read, PRE)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert rig.complete
        assert rig.pages(PRE)[:3] == numbered(0, 1, 3)
        assert rig.scheduler.counts.preemptions == 0


async def test_requests_wait_for_the_urgent_lane_in_their_order(memory: GuestMemory) -> None:
    """What is asked for while the urgent lane is busy goes after what it is sending."""
    with make_rig(memory, "parallel") as rig:
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            rig.request(PageId(0, 2))
            await wait_all_tasks_blocked()
            # Nobody reads: it is busy.
            assert rig.scheduler.urgent(Lane.URGENT)
            assert rig.request(PageId(0, 2)) is Answer.DUPLICATE
            assert rig.request(PageId(0, 3)) is Answer.QUEUED
            assert rig.request(PageId(0, 1)) is Answer.QUEUED
            nursery.start_soon(rig.read, POST)
            await wait_all_tasks_blocked()
            assert rig.pages(POST) == numbered(2, 3, 1)
            nursery.start_soon(rig.read, PRE)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert rig.complete


async def test_the_streamed_page_stays_with_the_paced_background(
    memory: GuestMemory, mock_clock: MockClock
) -> None:
    """A request for the page under way neither hurries it nor sends it elsewhere."""
    with make_rig(memory, "parallel") as rig:
        rig.add()
        rig.engine.gate.pacer = Pacer(KIB)
        async with trio.open_nursery() as nursery:
            for name in Channel:
                nursery.start_soon(rig.read, name)
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            stopped_at = rig.open_sent
            assert rig.request(PageId(0, 0)) is Answer.POSTPONED
            assert rig.request(PageId(0, 3)) is Answer.QUEUED
            await wait_all_tasks_blocked()
            # The clock stands still, and only what is urgent does not care.
            assert rig.open_sent == stopped_at
            assert rig.pages(PRE) == []
            assert rig.pages(POST) == numbered(3)
            nursery.cancel_scope.cancel()


async def test_the_urgent_lane_outlives_the_background(memory: GuestMemory) -> None:
    """With the background at its end, what is asked for and not sent yet still goes."""
    with make_rig(memory, "parallel") as rig:
        rig.add(*numbered(0, 1))
        ended = trio.Event()

        async def drain() -> None:
            await rig.sender.drain()
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await wait_all_tasks_blocked()
            rig.request(PageId(0, 1))
            nursery.start_soon(rig.read, PRE)
            await wait_all_tasks_blocked()
            # Page 0 is with its reader, and page 1 waits for one.
            assert rig.pages(PRE) == numbered(0)
            assert not ended.is_set()
            assert rig.request(PageId(0, 0)) is Answer.ALREADY_SENT
            nursery.start_soon(rig.read, POST)
            await ended.wait()
            await wait_all_tasks_blocked()
            assert rig.pages(POST) == numbered(1)
            assert rig.request(PageId(0, 1)) is Answer.ALREADY_SENT
            nursery.cancel_scope.cancel()


async def test_a_request_before_the_drain_is_the_first_to_go(memory: GuestMemory) -> None:
    """What was asked for while nothing was being sent is not left to the background."""
    with make_rig(memory, "parallel") as rig:
        rig.add()
        rig.request(PageId(0, 0))
        await rig.drain_and_read()
        assert rig.complete
        assert rig.pages(POST) == numbered(0)


async def test_drains_follow_one_another(memory: GuestMemory) -> None:
    """After one drain the lanes of the next serve requests again."""
    with make_rig(memory, "parallel") as rig:
        for first in (0, 2):
            rig.add(*numbered(first, first + 1))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.read, POST)
                nursery.start_soon(rig.sender.drain)
                await wait_all_tasks_blocked()
                rig.request(PageId(0, first + 1))
                await wait_all_tasks_blocked()
                assert rig.pages(POST)[-1:] == numbered(first + 1)
                nursery.start_soon(rig.read, PRE)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert rig.pages(PRE) == numbered(0, 2)


async def test_both_lanes_are_cancelled_together(memory: GuestMemory) -> None:
    """A cancelled drain leaves each channel its half-sent frame, and both can be ended."""
    with make_rig(memory, "parallel") as rig:
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            rig.request(PageId(0, 2))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert all(rig.out[name].open_frame for name in Channel)
        async with trio.open_nursery() as nursery:
            for name in Channel:
                nursery.start_soon(rig.read, name)
            for name in Channel:
                await rig.out[name].finish_open_frame()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert (rig.pages(PRE), rig.pages(POST)) == (numbered(0), numbered(2))


@pytest.mark.parametrize("broken", Channel)
async def test_a_broken_connection_in_one_lane_ends_both(
    memory: GuestMemory, broken: Channel
) -> None:
    """The other lane does not wait for a socket that nobody reads: the drain ends with the loss."""
    with make_rig(memory, "parallel") as rig:
        rig.add()
        rig.request(PageId(0, 2))
        caught: list[BaseException] = []

        async def drain() -> None:
            try:
                await rig.sender.drain()
            except ExceptionGroup as group:
                caught.append(root_cause(group))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await wait_all_tasks_blocked()
            rig.peers[broken].close()
        (error,) = caught
        assert isinstance(error, ConnectionLost)
        assert broken.value in str(error)


# The other answers to a request for the half-sent page.


async def ask_for_the_half_sent_page(rig: Rig, nursery: trio.Nursery) -> None:
    """Have page 0 broken off inside a frame for page 2, and asked for, with page 3 behind it."""
    rig.add()
    nursery.start_soon(rig.sender.drain)
    await wait_all_tasks_blocked()
    assert rig.open_sent
    for index in (2, 0, 3):
        assert rig.request(PageId(0, index)) is Answer.QUEUED
    nursery.start_soon(rig.read, POST)
    await wait_all_tasks_blocked()


async def test_split_sends_the_begun_frame_first(memory: GuestMemory) -> None:
    """The rest of the half-sent page comes over the postcopy channel when its frame has ended."""
    with make_rig(memory, "split") as rig:
        async with trio.open_nursery() as nursery:
            await ask_for_the_half_sent_page(rig, nursery)
            # Its frame waits for a reader, and the page with it.
            assert rig.pages(POST) == numbered(2)
            assert rig.scheduler.urgent()
            nursery.start_soon(rig.read, PRE)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert rig.complete
        channels = [name for name, _ in rig.frames_of(PageId(0, 0))]
        begun = channels.count(PRE)
        assert 0 < begun < CHUNKS_PER_PAGE
        assert channels == [PRE] * begun + [POST] * (CHUNKS_PER_PAGE - begun)
        assert rig.pages(POST) == numbered(2, 0, 3)


async def test_resend_does_not_wait_for_the_begun_frame(memory: GuestMemory) -> None:
    """The half-sent page comes whole over the postcopy channel while its frame has no reader."""
    with make_rig(memory, "resend") as rig:
        async with trio.open_nursery() as nursery:
            await ask_for_the_half_sent_page(rig, nursery)
            assert rig.pages(POST) == numbered(2, 0, 3)
            whole = rig.frames_of(PageId(0, 0))
            assert len(whole) == CHUNKS_PER_PAGE
            rig.forget(PageId(0, 0))
            nursery.start_soon(rig.read, PRE)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        again = rig.frames_of(PageId(0, 0))[CHUNKS_PER_PAGE:]
        assert {name for name, _ in again} == {PRE}
        # What went twice is counted to the byte, and the begun frame ends before all else.
        resent = sum(span_of(frame).length for _, frame in again)
        assert rig.scheduler.counts.resent_bytes == resent
        on_precopy = [frame.offset // HUGE for name, frame in rig.received if name is PRE]
        assert on_precopy[: len(again)] == [0] * len(again)


async def test_critical_sends_a_target_page_past_a_full_background(memory: GuestMemory) -> None:
    """Of a requested page one target page comes over the postcopy channel, and the rest later."""
    with make_rig(memory, "critical-first") as rig:
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.read, POST)
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            for touched in (100, 7):
                assert rig.request(PageId(0, 2), touched) is Answer.QUEUED
                await wait_all_tasks_blocked()
            spans = [span_of(frame) for name, frame in rig.received if name is POST]
            assert spans == [
                Span(0, 2 * HUGE + touched * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES)
                for touched in (100, 7)
            ]
            nursery.start_soon(rig.read, PRE)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert rig.complete
        # One word for each page, with the last of it.
        sent = [each["page"] for each in rig.events.of(events.PageSent) if each["block"] == 0]
        assert sorted(sent) == [0, 1, 2, 3]


# What the destination is told of its requests.


def track(rig: Rig) -> RequestTracker:
    """Have a rig's sender keep account of requests, and tell of them."""
    tracker = RequestTracker(rig.memory.geometry, critical=rig.policy.critical)
    rig.engine.telling.tracker = tracker
    return tracker


def urgent_count(rig: Rig) -> int:
    """Return how many urgent frames have come."""
    return sum(frame.urgent for _, frame in rig.received)


@pytest.mark.parametrize("policy", ["ordered", "vanilla", "critical-first", "parallel", "drop"])
async def test_every_request_is_told_of_behind_its_page(memory: GuestMemory, policy: str) -> None:
    """Once each, and never between two frames of what somebody waits for."""
    with make_rig(memory, policy) as rig:
        track(rig)
        rig.add()
        asked = (1, 3, 1, 2)
        for index in asked:
            rig.ask(PageId(0, index), 5)
        rig.sender.serve()
        async with trio.open_nursery() as nursery:
            for name in rig.out:
                nursery.start_soon(rig.read, name)
            await rig.sender.drain()
            await rig.tell_all()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert rig.complete
        assert sorted(told.page for _, _, told in rig.told) == sorted(set(asked))
        if policy != "parallel":
            # Requests were there all the time until the last of them was served.
            whole = [number for number, (_, frame) in enumerate(rig.received) if frame.urgent]
            assert min(count for _, count, _ in rig.told) > whole[-1]


async def test_a_request_is_told_of_though_the_background_waits(
    memory: GuestMemory, autojump_clock: MockClock
) -> None:
    """Its frame is open and nobody reads it: it is told over the other connection, soon."""
    with make_rig(memory) as rig:
        track(rig)
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.tell)
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            nursery.start_soon(rig.read, POST)
            rig.request(PageId(1, 7))
            await wait_all_tasks_blocked()
            assert urgent_count(rig) == 1
            assert rig.told == []
            # What was sent long ago is told of without a page.
            await trio.sleep(1)
            rig.request(PageId(1, 7))
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert [(name, told.page, told.answer) for name, _, told in rig.told] == [
            (POST, 7, "queued"),
            (POST, 7, "already-sent"),
        ]
        assert autojump_clock.current_time() < 10


async def test_what_is_open_at_a_break_is_told_over_the_next_connections(
    memory: GuestMemory,
) -> None:
    """It is said to be of before, and how far it had come."""
    with make_rig(memory) as rig:
        tracker = track(rig)
        rig.add()
        rig.ask(PageId(0, 2), 0)
        tracker.broke(10**18)
        rig.scheduler.begin_again(rig.scheduler.remaining.copy())
        await rig.drain_and_read()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.read, PRE)
            await rig.tell_all()
            while not rig.told:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        (told,) = [told for _, _, told in rig.told]
        assert (told.page, told.interrupted) == (2, True)
        assert told.queued_ns == 10**18 - told.came_ns
