"""The link that is a process: what passes it, how fast, for whom, and how it ends."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from scripts.links.shape import queue_bytes
from scripts.links.throttle import Bucket, Throttle
from tests.bounds import bounded, nothing_left

# Far more than the link and all buffers on the way can hold for the time that a test looks.
ENDLESS = b"\0" * (64 << 20)


def test_a_link_serves_in_the_order_of_asking() -> None:
    """Each piece takes its place behind all that asked before it; what was idle is soon lost."""
    bucket = Bucket(1_000_000)

    places = [bucket.take(1000, 10.0) for _ in range(4)]

    assert places == pytest.approx([9.998, 9.999, 10.0, 10.001])
    assert bucket.take(1000, 20.0) == pytest.approx(19.998)


@pytest.mark.parametrize(("rate", "piece"), [(1000, 1514), (10_000_000, 10_000)])
def test_pieces_are_short(rate: int, piece: int) -> None:
    """A piece takes a millisecond; only where that would be less than a packet it is one."""
    assert Bucket(rate).piece_bytes == piece


class Far:
    """What is behind a throttle, and where it is to be found in front of it."""

    def __init__(
        self, address: tuple[str, int], listener: trio.SocketListener, throttle: Throttle
    ) -> None:
        """Take all of it."""
        self.throttle = throttle
        self.address = address
        self.listener = listener

    async def connect(self) -> tuple[trio.SocketStream, trio.SocketStream]:
        """Return both ends of a new connection."""
        near = await trio.open_tcp_stream(*self.address)
        return near, await self.listener.accept()


@asynccontextmanager
async def throttled(rate: int) -> AsyncIterator[Far]:
    """Stand a throttle before a listener; nothing may be left of either."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    with bounded():
        async with trio.open_nursery() as nursery, listener:
            port = listener.socket.getsockname()[1]
            throttle = Throttle(rate)
            address = await nursery.start(throttle.serve, "127.0.0.1", port)
            host, _, own_port = address.rpartition(":")
            yield Far((host, int(own_port)), listener, throttle)
            nursery.cancel_scope.cancel()


async def read(stream: trio.SocketStream, count: int) -> bytes:
    """Read so many bytes, or up to the end of file."""
    data = b""
    while len(data) < count and (more := await stream.receive_some(count - len(data))):
        data += more
    return data


async def test_bytes_pass_both_ways_and_ends_pass_too() -> None:
    """Everything arrives as it was sent, and each end of file at the other end."""
    with nothing_left():
        async with throttled(100_000_000) as far, trio.open_nursery() as nursery:
            near, there = await far.connect()
            async with near, there:
                data = bytes(range(256)) * 4096
                nursery.start_soon(near.send_all, data)
                assert await read(there, len(data)) == data
                await there.send_all(b"back")
                assert await read(near, 4) == b"back"
                await near.send_eof()
                assert await there.receive_some() == b""
                await there.send_all(b"still")
                assert await read(near, 5) == b"still"


async def test_the_rate_is_one_for_all_connections() -> None:
    """A connection that was busy for long leaves half of the link to one that comes later."""
    counts = [0, 0]
    enough = (trio.Event(), trio.Event())

    async def count(stream: trio.SocketStream, which: int) -> None:
        while True:
            counts[which] += len(await stream.receive_some())
            if counts[which] >= 200_000:
                enough[which].set()

    with nothing_left():
        async with throttled(2_000_000) as far, trio.open_nursery() as nursery:
            pairs = [await far.connect() for _ in counts]
            before, started = 0, 0.0
            for which, (near, there) in enumerate(pairs):
                before, started = counts[0], trio.current_time()
                nursery.start_soon(near.send_all, ENDLESS)
                nursery.start_soon(count, there, which)
                await enough[which].wait()
            passed = counts[0] - before, counts[1]
            assert 0.25 < passed[0] / passed[1] < 4
            # What the buffers held when the watch was started came on top.
            assert sum(passed) / (trio.current_time() - started) < 4_000_000
            nursery.cancel_scope.cancel()
        # Not before those who send over them have ended.
        for stream in (end for pair in pairs for end in pair):
            await trio.aclose_forcefully(stream)


async def test_an_end_that_is_gone_takes_the_other_with_it() -> None:
    """Who waits for bytes of an end that was reset hears of it, though it sends nothing itself."""
    with nothing_left():
        async with throttled(100_000_000) as far:
            near, there = await far.connect()
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await near.aclose()
            async with there:
                assert await there.receive_some() == b""


async def test_where_nobody_listens_the_connection_ends() -> None:
    """A destination that is gone is an end of the connection, and no failure of the link."""
    with nothing_left():
        async with throttled(100_000_000) as far:
            await far.listener.aclose()
            async with await trio.open_tcp_stream(*far.address) as near:
                assert await near.receive_some() == b""


@pytest.mark.parametrize("rate", [1, 100_000_000])
async def test_it_can_be_ended_whatever_it_waits_for(rate: int) -> None:
    """Cancelling ends threads that wait for their turn, for bytes, and for room."""
    with nothing_left():
        async with throttled(rate) as far:
            near, there = await far.connect()
            with trio.move_on_after(0.05):
                await near.send_all(ENDLESS)
        await trio.aclose_forcefully(near)
        await trio.aclose_forcefully(there)


@pytest.mark.parametrize(("rate", "held"), [(20_000, True), (1_000_000_000, False)])
async def test_it_tells_whether_the_rate_ever_held(rate: int, held: bool) -> None:
    """What passes at once has met no limit."""
    with nothing_left():
        async with throttled(rate) as far:
            near, there = await far.connect()
            async with near, there:
                for _ in range(2):
                    await near.send_all(bytes(4000))
                    await read(there, 4000)
            assert far.throttle.has_held is held


async def test_on_a_slow_link_little_is_under_way() -> None:
    """What a proxy and its sockets hold is in proportion to the rate: the queue of such a link."""
    rate = 20_000
    with nothing_left():
        async with throttled(rate) as far:
            near, there = await far.connect()
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            sent = 0
            with trio.move_on_after(0.5):
                while True:
                    sent += await near.socket.send(bytes(1000))
            received = len(await there.receive_some())
            # The sender's own buffer, and what the kernel rounds up, come on top.
            assert sent - received < 2 * queue_bytes(rate)
        await trio.aclose_forcefully(near)
        await trio.aclose_forcefully(there)
