"""Tests of scripts/injection/proxy.py, its pipes and gates, between two ends in this process."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from protocol.channels import Channel
from protocol.geometry import Geometry, PageId, RamBlock
from protocol.messages import Hello, PageData, PageRequest
from protocol.wire import encode
from scripts.injection.actions import NetworkAction
from scripts.injection.marks import BytesMark, Direction, Mark, Marks
from scripts.injection.proxy import Proxy
from scripts.injection.tap import Part

SECONDS_MAX = 20.0
GEOMETRY = Geometry((RamBlock("ram", 8 << 20, 2 << 20),))
HELLO = encode(Hello(version=1, session=b"s" * 16, role="precopy"))
PRECOPY = (Channel.PRECOPY,)
FORWARD = (Direction.FORWARD,)
BACKWARD = (Direction.BACKWARD,)


class Ends:
    """A proxy and what is at both its ends."""

    def __init__(
        self,
        proxy: Proxy,
        source: trio.SocketStream,
        dest: trio.SocketStream,
        accept: Callable[[], Awaitable[trio.SocketStream]],
        marks: Marks,
    ) -> None:
        """Take them, what takes one more connection from the proxy, and what is told of bytes."""
        self.proxy = proxy
        self.marks = marks
        self.source = source
        self.dest = dest
        self.accept = accept

    async def greet(self) -> None:
        """Say hello, so that the proxy knows the channel."""
        await self.source.send_all(HELLO)
        assert await read(self.dest, len(HELLO)) == HELLO


async def read(stream: trio.SocketStream, count: int) -> bytes:
    """Read so many bytes, or up to the end of file."""
    data = b""
    while len(data) < count and (more := await stream.receive_some(count - len(data))):
        data += more
    return data


async def read_on(stream: trio.SocketStream) -> None:
    """Read to the end of file."""
    while await stream.receive_some():
        pass


async def is_silent(stream: trio.SocketStream) -> bool:
    """Tell whether nothing comes, for as long as anything would take."""
    with trio.move_on_after(0.1):
        return await stream.receive_some() == b"never"
    return True


@asynccontextmanager
async def ends(
    mark: Mark | None = None,
    on_reached: Callable[[Proxy], None] = lambda _: None,
    link_rate: int = 0,
    on_request: Callable[[PageId], None] = lambda _: None,
    watched: tuple[PageId, ...] = (),
) -> AsyncIterator[Ends]:
    """Connect two ends through a proxy; when it comes to the mark, a function is called."""
    marks = Marks(GEOMETRY, [mark] if mark else [], watched)
    proxy: Proxy = Proxy(marks, lambda _: on_reached(proxy), on_request, link_rate=link_rate)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    with trio.fail_after(SECONDS_MAX):
        async with trio.open_nursery() as nursery, listener:
            port = listener.socket.getsockname()[1]
            address = await nursery.start(proxy.serve, "127.0.0.1", port)
            source = await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2]))
            async with source, await listener.accept() as dest:
                yield Ends(proxy, source, dest, listener.accept, marks)
            nursery.cancel_scope.cancel()


async def test_bytes_pass_both_ways_and_ends_pass_too() -> None:
    """Everything arrives as it was sent, and each end of file at the other end."""
    async with ends() as both:
        await both.greet()
        payload = bytes(range(256)) * 4096
        frame = encode(PageData(payload_bytes=len(payload), block=0, offset=0)) + payload
        async with trio.open_nursery() as nursery:
            nursery.start_soon(both.source.send_all, frame)
            assert await read(both.dest, len(frame)) == frame
        await both.dest.send_all(b"back")
        assert await read(both.source, 4) == b"back"
        await both.source.send_eof()
        assert await both.dest.receive_some() == b""
        await both.dest.send_all(b"still")
        assert await read(both.source, 5) == b"still"


@pytest.mark.parametrize("count", [len(HELLO) + 1, len(HELLO) + 1000, 70_000])
async def test_a_stall_holds_at_the_very_byte(count: int) -> None:
    """Exactly the bytes up to the mark arrive, the rest when it is healed."""
    stall = NetworkAction("stall", PRECOPY, FORWARD)
    mark = BytesMark(count, Channel.PRECOPY, Direction.FORWARD)
    async with ends(mark, lambda proxy: proxy.act(stall)) as both:
        # Too much for the kernel alone would be no good test of what is held back.
        data = HELLO + b"\0" * 80_000
        await both.source.send_all(data)
        assert await read(both.dest, count) == data[:count]
        assert await is_silent(both.dest)
        both.proxy.act(NetworkAction("heal", PRECOPY))
        assert await read(both.dest, len(data) - count) == data[count:]


async def test_a_held_page_stands_on_all_connections_until_it_is_let_go() -> None:
    """Of a page that is held so much arrives and no more, and the way back goes on."""
    page = PageId(0, 1)
    frame = encode(PageData(payload_bytes=8192, block=0, offset=2 << 20)) + b"\x55" * 8192
    async with ends(watched=(page,)) as both:
        await both.greet()
        both.proxy.act(NetworkAction("hold", PRECOPY, page=page, share=0.001))
        await both.source.send_all(frame + HELLO)
        most = len(frame) - 8192 + 2098
        assert await read(both.dest, most) == frame[:most]
        assert await is_silent(both.dest)
        await both.dest.send_all(b"back")
        assert await read(both.source, 4) == b"back"
        # What heals the network is not about pages.
        both.proxy.act(NetworkAction("heal", PRECOPY))
        assert await is_silent(both.dest)
        both.proxy.act(NetworkAction("release", PRECOPY, page=page))
        assert await read(both.dest, len(frame + HELLO) - most) == (frame + HELLO)[most:]


async def test_a_page_may_be_let_go_while_what_is_before_it_waits() -> None:
    """Nobody waits for a change of what changed while bytes before the held page were sent."""
    page = PageId(0, 1)
    frame = encode(PageData(payload_bytes=8192, block=0, offset=2 << 20)) + b"\x55" * 8192
    stall = NetworkAction("stall", PRECOPY, FORWARD)
    mark = BytesMark(len(HELLO) + 5, Channel.PRECOPY, Direction.FORWARD)
    async with ends(mark, lambda proxy: proxy.act(stall), watched=(page,)) as both:
        await both.greet()
        both.proxy.act(NetworkAction("hold", PRECOPY, page=page))
        await both.source.send_all(frame)
        assert await read(both.dest, 5) == frame[:5]
        # By now the rest of the head waits for the network, and the page behind it to be let go.
        await trio.testing.wait_all_tasks_blocked(0.01)
        both.proxy.act(NetworkAction("release", PRECOPY, page=page))
        await trio.testing.wait_all_tasks_blocked(0.01)
        both.proxy.act(NetworkAction("heal", PRECOPY))
        assert await read(both.dest, len(frame) - 5) == frame[5:]


async def test_what_is_held_goes_nowhere_when_both_ends_have_gone() -> None:
    """What a dead connection holds does not count as passed when its page is let go."""
    page = PageId(0, 1)
    frame = encode(PageData(payload_bytes=8192, block=0, offset=2 << 20)) + b"\x55" * 8192
    async with ends(watched=(page,)) as both:
        await both.greet()
        both.proxy.act(NetworkAction("hold", PRECOPY, page=page))
        await both.source.send_all(frame)
        head = len(frame) - 8192
        assert await read(both.dest, head) == frame[:head]
        await both.dest.aclose()
        await both.source.aclose()
        both.proxy.act(NetworkAction("release", PRECOPY, page=page))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert page not in both.marks.passings


async def test_a_network_stands_still_for_requests() -> None:
    """Each request is told when it has come; all of them go on in one piece, and then the rest."""
    tell, told = trio.open_memory_channel[PageId](9)
    requests = [encode(PageRequest(block=0, page=index, target_page=0)) for index in (3, 1)]
    async with ends(on_request=tell.send_nowait) as both:
        await both.greet()
        both.proxy.stand_still(tuple(Direction))
        await both.source.send_all(HELLO)
        for index, request in zip((3, 1), requests, strict=True):
            await both.dest.send_all(request)
            assert await told.receive() == PageId(0, index)
        assert await is_silent(both.source)
        both.proxy.stand_still(FORWARD)
        assert await both.source.receive_some() == b"".join(requests)
        assert await is_silent(both.dest)
        # Where a scenario stalls the way back, nobody waits for what goes there.
        both.proxy.act(NetworkAction("stall", PRECOPY, BACKWARD))
        assert await read(both.dest, len(HELLO)) == HELLO
        both.proxy.act(NetworkAction("heal", PRECOPY))
        await both.source.send_all(HELLO)
        assert await is_silent(both.dest)
        both.proxy.stand_still(())
        assert await read(both.dest, len(HELLO)) == HELLO


async def test_a_network_with_a_delay_stands_still_for_requests_too() -> None:
    """They come as one piece, so much later; what waits on its way before them goes with it."""
    tell, told = trio.open_memory_channel[PageId](9)
    requests = [encode(PageRequest(block=0, page=index, target_page=0)) for index in (3, 1)]
    async with ends(on_request=tell.send_nowait) as both:
        await both.greet()
        both.proxy.act(NetworkAction("delay", PRECOPY, tuple(Direction), by_ms=100.0))
        both.proxy.stand_still(tuple(Direction))
        for request in requests:
            await both.dest.send_all(request)
            await told.receive()
            # Each is due at a time of its own.
            await trio.sleep(0.02)
        both.proxy.stand_still(FORWARD)
        first = await both.source.receive_some()
        assert len(first) == len(b"".join(requests))


async def test_a_delay_keeps_nothing_of_what_lies_behind_a_held_page() -> None:
    """Else it would take from a source what a fast machine sends until its requests have come."""
    page = PageId(0, 1)
    page_bytes = GEOMETRY.page_span(page).length
    head = encode(PageData(payload_bytes=page_bytes, block=0, offset=page_bytes))
    frame = head + bytes(page_bytes)
    async with ends(watched=(page,)) as both, trio.open_nursery() as nursery:
        both.source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        await both.greet()
        both.proxy.act(NetworkAction("hold", PRECOPY, page=page))
        both.proxy.act(NetworkAction("delay", PRECOPY, FORWARD, by_ms=1.0))
        sent = trio.Event()

        async def send() -> None:
            await both.source.send_all(frame)
            sent.set()

        nursery.start_soon(send)
        # What was waited for when the delay began came without it.
        assert await read(both.dest, len(head)) == head
        assert await is_silent(both.dest)
        assert not sent.is_set()
        both.proxy.act(NetworkAction("release", PRECOPY, page=page))
        assert await read(both.dest, page_bytes) == bytes(page_bytes)


async def test_a_stall_ends_by_itself() -> None:
    """A stall with a time is over then, and only the way that it names is stalled."""
    async with ends() as both:
        await both.greet()
        both.proxy.act(NetworkAction("stall", PRECOPY, BACKWARD, for_ms=50.0))
        before = trio.current_time()
        await both.dest.send_all(b"late")
        await both.source.send_all(b"\0\0")
        assert await read(both.dest, 2) == b"\0\0"
        assert await read(both.source, 4) == b"late"
        assert trio.current_time() - before >= 0.05


async def test_what_piles_up_before_a_stall_comes_as_one_piece() -> None:
    """Small messages that were sent during a stall arrive together, in order."""
    async with ends() as both:
        await both.greet()
        both.proxy.act(NetworkAction("stall", PRECOPY, BACKWARD))
        for word in (b"one", b"two", b"three"):
            await both.dest.send_all(word)
            assert await is_silent(both.source)
        both.proxy.act(NetworkAction("heal", PRECOPY))
        assert await both.source.receive_some() == b"onetwothree"


async def test_a_cut_resets_both_ends_behind_what_has_passed() -> None:
    """What went before the cut arrives, what comes after does not, and nobody sees a good end."""
    cut = NetworkAction("cut", PRECOPY)
    mark = BytesMark(len(HELLO) + 10, Channel.PRECOPY, Direction.FORWARD)
    async with ends(mark, lambda proxy: proxy.act(cut)) as both:
        await both.source.send_all(HELLO + b"\0" * 100)
        assert len(await read(both.dest, len(HELLO) + 10)) == len(HELLO) + 10
        for end in (both.source, both.dest):
            with pytest.raises(trio.BrokenResourceError):
                await read_on(end)


async def test_a_mark_whose_byte_a_cut_has_swallowed_is_reached_by_the_next() -> None:
    """What was to happen at a byte is not forgotten where that never arrives."""
    reached: list[int] = []
    mark = BytesMark(len(HELLO) + 50_000, Channel.PRECOPY, Direction.FORWARD)
    async with ends(mark, lambda _: reached.append(1)) as both:
        address = both.source.socket.getpeername()
        await both.greet()
        both.proxy.act(NetworkAction("throttle", PRECOPY, FORWARD, rate=1000))
        await both.source.send_all(b"\0" * 60_000)
        # The byte of the mark is on its way now, and far from through.
        assert await both.dest.receive_some(1)
        both.proxy.act(NetworkAction("cut", PRECOPY))
        with pytest.raises(trio.BrokenResourceError):
            await read_on(both.dest)
        both.proxy.act(NetworkAction("heal", PRECOPY))
        assert not reached
        async with await trio.open_tcp_stream(*address) as source, await both.accept() as dest:
            await source.send_all(HELLO)
            assert await read(dest, len(HELLO)) == HELLO
            assert reached == [1]


async def test_a_half_close_is_an_end_of_file_for_one_way_only() -> None:
    """The receiver sees the end at the very byte; the way back goes on."""
    half = NetworkAction("half-close", PRECOPY, FORWARD)
    mark = BytesMark(len(HELLO) + 10, Channel.PRECOPY, Direction.FORWARD)
    async with ends(mark, lambda proxy: proxy.act(half)) as both:
        await both.source.send_all(HELLO + b"\0" * 100)
        assert len(await read(both.dest, 999)) == len(HELLO) + 10
        await both.dest.send_all(b"back")
        assert await read(both.source, 4) == b"back"


@pytest.mark.parametrize(("part", "first"), [(Part.PAGE, False), (Part.HEADER, True)])
async def test_corruption_flips_bits_where_it_should(part: Part, *, first: bool) -> None:
    """As many bits as wanted are flipped, one a byte, in the next bytes of that part."""
    async with ends() as both:
        await both.greet()
        both.proxy.act(NetworkAction("corrupt", PRECOPY, FORWARD, bits=2, part=part))
        head = encode(PageData(payload_bytes=4096, block=0, offset=0))
        frame = head + b"\x55" * 4096
        await both.source.send_all(frame)
        seen = await read(both.dest, len(frame))
        flipped = [at for at in range(len(frame)) if seen[at] != frame[at]]
        start = 0 if first else len(head)
        assert flipped == [start, start + 1]
        assert all((seen[at] ^ frame[at]).bit_count() == 1 for at in flipped)


async def test_a_throttle_and_a_delay_take_their_time() -> None:
    """At 1 MB/s 100 kB take a tenth of a second; a delay comes on top of it."""
    async with ends() as both:
        await both.greet()
        both.proxy.act(NetworkAction("throttle", PRECOPY, FORWARD, rate=1_000_000))
        before = trio.current_time()
        await both.source.send_all(b"\0" * 100_000)
        assert len(await read(both.dest, 100_000)) == 100_000
        assert trio.current_time() - before >= 0.09
        both.proxy.act(NetworkAction("heal", PRECOPY))
        both.proxy.act(NetworkAction("delay", PRECOPY, FORWARD, by_ms=50.0))
        before = trio.current_time()
        await both.source.send_all(b"\0")
        # What was being waited for when the delay began comes without it.
        await read(both.dest, 1)
        await both.source.send_all(b"\0")
        assert await read(both.dest, 1) == b"\0"
        assert trio.current_time() - before >= 0.05


async def test_a_link_is_shared_and_not_healed() -> None:
    """The link's rate holds whatever is healed."""
    async with ends(link_rate=1_000_000) as both:
        await both.greet()
        both.proxy.act(NetworkAction("heal", PRECOPY))
        before = trio.current_time()
        await both.source.send_all(b"\0" * 100_000)
        assert len(await read(both.dest, 100_000)) == 100_000
        assert trio.current_time() - before >= 0.09


async def test_two_connections_share_a_link_evenly() -> None:
    """A connection that has been busy for long leaves half of the link to one that comes later.

    Neither has a role, so no gate of a channel could be what slows them.
    """
    counts = [0, 0]
    late_bytes = 200_000
    moments = (trio.Event(), trio.Event())

    async def count(stream: trio.SocketStream, which: int) -> None:
        while data := await stream.receive_some():
            counts[which] += len(data)
            if not which or counts[which] >= late_bytes:
                moments[which].set()

    async with ends(link_rate=2_000_000) as both, trio.open_nursery() as nursery:
        address = both.source.socket.getpeername()
        nursery.start_soon(both.source.send_all, b"\0" * 4_000_000)
        nursery.start_soon(count, both.dest, 0)
        async with (
            await trio.open_tcp_stream(*address) as late,
            await both.accept() as far,
            trio.open_nursery() as senders,
        ):
            await moments[0].wait()
            before, started = counts[0], trio.current_time()
            senders.start_soon(late.send_all, b"\0" * late_bytes * 2)
            senders.start_soon(count, far, 1)
            await moments[1].wait()
            passed = counts[0] - before, counts[1]
            assert 1 / 8 < passed[0] / passed[1] < 8
            # What the buffers held when the watch was started came on top.
            assert sum(passed) / (trio.current_time() - started) < 4_000_000
            # Before what they send over is closed.
            senders.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def test_an_unplugged_channel_stays_so_for_its_time() -> None:
    """After a cut with a time, a new connection of that channel is reset at its hello."""
    async with ends() as both:
        await both.greet()
        address = both.source.socket.getpeername()
        both.proxy.act(NetworkAction("cut", PRECOPY, for_ms=60_000.0))
        with pytest.raises(trio.BrokenResourceError):
            await both.source.receive_some()
        async with await trio.open_tcp_stream(*address) as again:
            await again.send_all(HELLO)
            with pytest.raises(trio.BrokenResourceError):
                await again.receive_some()


async def test_a_destination_that_is_gone_is_a_reset() -> None:
    """Where nobody listens any more, the source's connection is reset."""
    with trio.socket.socket() as unused, trio.fail_after(SECONDS_MAX):
        await unused.bind(("127.0.0.1", 0))
        proxy = Proxy(Marks(GEOMETRY, []), lambda _: None)
        async with trio.open_nursery() as nursery:
            port = unused.getsockname()[1]
            address = await nursery.start(proxy.serve, "127.0.0.1", port)
            stream = await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2]))
            async with stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
            nursery.cancel_scope.cancel()


async def test_a_reset_passes_as_a_reset() -> None:
    """When one end is reset, the other sees that too."""
    async with ends() as both:
        await both.greet()
        linger = b"\1\0\0\0\0\0\0\0"
        both.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await both.source.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await read_on(both.dest)
