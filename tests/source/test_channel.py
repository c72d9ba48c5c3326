"""The sending half of a connection: whatever interrupts it, it knows which bytes are sent."""

import os
import select
import socket
import threading
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from guest.streams import exchange
from guest.streams.stream import Delivery
from guest.streams.tcp import TcpStream
from guest.streams.tls import SMALL_BATCH_BYTES
from protocol.channels import Channel
from protocol.errors import ConnectionLost, LocalProtocolError
from protocol.messages import PageData, PassEnd
from protocol.wire import encode
from source.buffering import SEND_BUFFER_BYTES_MIN, UNSENT_SHARE, Buffering
from source.channel import OutChannel
from source.outlet import Frame
from tests.bounds import BOUND_SECONDS
from tests.certificates import tls_pair
from tests.guests import KIB
from tests.sockets import Peer, tcp_pair, unix_pair

PAYLOAD = bytes(range(256)) * 4 * KIB
DATA = PageData(payload_bytes=len(PAYLOAD), block=0, offset=0)
WHOLE = encode(DATA) + PAYLOAD


async def receive_exactly(sock: trio.socket.SocketType, count: int) -> bytes:
    """Return the next bytes that come."""
    return await exchange.receive_exactly(TcpStream(sock), count)


def read_all(fd: int, count: int) -> None:
    """Read so many bytes from a socket that does not block, in a thread, and close it."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while count > 0:
        poll.poll()
        count -= len(os.read(fd, count))
    os.close(fd)


async def test_messages_arrive_whole_and_counted() -> None:
    """What `send` takes comes out at the other end, and `bytes_sent` counts heads and payloads."""
    with tcp_pair() as (near, far):
        out, peer = OutChannel(Channel.PRECOPY, TcpStream(near)), Peer(far)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(out.send, DATA, PAYLOAD)
            assert await peer.receive() == (DATA, PAYLOAD)
        await out.send(PassEnd(index=3))
        assert await peer.expect(PassEnd) == PassEnd(index=3)
        assert out.open_frame is None
        assert out.bytes_sent == len(WHOLE) + len(encode(PassEnd(index=3)))


async def test_send_some_hands_over_no_more_than_the_limit() -> None:
    """A frame goes in pieces as small as its sender wants them, across its head as well."""
    with tcp_pair() as (near, far):
        out, frame = OutChannel(Channel.PRECOPY, TcpStream(near)), Frame(DATA, PAYLOAD)
        counts = [await out.send_some(frame, 7) for _ in range(8)]
        assert counts == [7] * 8
        assert frame.sent == out.bytes_sent == 56
        assert await receive_exactly(far, 56) == WHOLE[:56]


async def test_a_cancelled_send_counts_what_the_kernel_took() -> None:
    """A send cancelled at a full socket, again and again, loses no byte and sends none twice."""
    with tcp_pair(4 * KIB) as (near, far):
        out = OutChannel(Channel.PRECOPY, TcpStream(near))
        received = bytearray()
        cancelled = 0
        out.open_frame = frame = Frame(DATA, PAYLOAD)
        while not frame.done:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(out.finish_open_frame)
                await wait_all_tasks_blocked()
                cancelled += not frame.done
                nursery.cancel_scope.cancel()
            assert len(received) <= frame.sent == out.bytes_sent
            received += await receive_exactly(far, frame.sent - len(received))
        assert cancelled >= 3
        assert bytes(received) == WHOLE


@pytest.mark.parametrize("steps", range(1, 5))
async def test_cancelled_while_the_kernel_takes_it_is_counted(steps: int) -> None:
    """Whichever step of the event loop a cancellation hits, what went is counted."""
    with tcp_pair() as (near, far):
        out, frame = OutChannel(Channel.PRECOPY, TcpStream(near)), Frame(DATA, PAYLOAD)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(out.send_some, frame, 10)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        near.shutdown(trio.socket.SHUT_WR)
        assert frame.sent == out.bytes_sent == len(await far.recv(100))


async def test_over_tls_every_byte_is_counted_once(tmp_path: Path) -> None:
    """A frame broken off at a full encrypted connection, again and again, arrives whole."""
    async with tls_pair(tmp_path) as (near, far):
        out = OutChannel(Channel.PRECOPY, near)
        near.batch_bytes = SMALL_BATCH_BYTES
        received, place = bytearray(), bytearray(64 * KIB)
        stops = set()
        out.open_frame = frame = Frame(DATA, PAYLOAD)
        while not frame.done:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(out.finish_open_frame)
                await wait_all_tasks_blocked()
                stops.add(frame.sent)
                nursery.cancel_scope.cancel()
            # A frame that has begun says so, and one of which a byte is on its way is not done.
            assert frame.sent == out.bytes_sent > 0
            # Read what is there, which may be a part of a record and give nothing.
            assert far.unread_bytes()
            far._receive()
            received += place[: far._open([memoryview(place)])]
            assert len(received) <= frame.sent + 1
        received += await exchange.receive_exactly(far, len(WHOLE) - len(received))
        assert len(stops) > 10
        assert bytes(received) == WHOLE
        # Nothing of it was left for the next message to push out.
        await out.send(PassEnd(index=7))
        last = encode(PassEnd(index=7))
        assert await exchange.receive_exactly(far, len(last)) == last


async def test_cancelled_before_it_began_sends_nothing() -> None:
    """A call that was cancelled already takes no byte of its frame."""
    with tcp_pair() as (near, _):
        out, frame = OutChannel(Channel.PRECOPY, TcpStream(near)), Frame(DATA, PAYLOAD)
        with trio.CancelScope() as scope:
            scope.cancel()
            await out.send_some(frame, frame.length)
        assert scope.cancelled_caught
        assert frame.sent == out.bytes_sent == 0


async def test_nothing_overtakes_a_half_sent_frame() -> None:
    """While a frame is half-sent another is refused; when it is finished the next one follows."""
    with tcp_pair(4 * KIB) as (near, far):
        out, peer = OutChannel(Channel.POSTCOPY, TcpStream(near)), Peer(far)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(out.send, DATA, PAYLOAD)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert out.open_frame is not None
        before = out.bytes_sent
        with pytest.raises(LocalProtocolError, match="half-sent on the postcopy channel"):
            await out.send(PassEnd(index=0))
        assert out.bytes_sent == before
        async with trio.open_nursery() as nursery:
            nursery.start_soon(out.finish_open_frame)
            assert await peer.receive() == (DATA, PAYLOAD)
        await out.finish_open_frame()
        await out.send(PassEnd(index=1))
        assert await peer.expect(PassEnd) == PassEnd(index=1)


async def test_a_broken_connection_is_named() -> None:
    """A send to a peer that is gone ends in ConnectionLost, which says which connection broke."""
    with tcp_pair(4 * KIB) as (near, far):
        out = OutChannel(Channel.POSTCOPY, TcpStream(near))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_loss, out)
            await wait_all_tasks_blocked()
            Peer(far).reset()


async def _expect_loss(out: OutChannel) -> None:
    with pytest.raises(ConnectionLost, match=r"the postcopy connection broke: .*reset by peer"):
        await out.send(DATA, PAYLOAD)


async def test_close_lets_go_of_socket_and_memory() -> None:
    """A closed channel has no socket, and no half-sent frame that would hold guest memory."""
    with tcp_pair() as (near, far):
        out, peer = OutChannel(Channel.PRECOPY, TcpStream(near)), Peer(far)
        memory = bytearray(PAYLOAD)
        out.open_frame = Frame(DATA, memoryview(memory))
        out.close()
        memory.clear()  # Nobody holds a view of it any more.
        with pytest.raises(EOFError):
            await peer.receive()


async def test_little_stays_in_the_kernel_in_postcopy() -> None:
    """After the switch the socket holds a small buffer, of which little may wait unsent."""
    with tcp_pair() as (near, _):
        OutChannel(Channel.PRECOPY, TcpStream(near)).keep_little_in_the_kernel()
        # The kernel doubles what it is asked for.
        send_bytes = near.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert send_bytes == 2 * SEND_BUFFER_BYTES_MIN
        unsent_bytes = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        assert unsent_bytes == SEND_BUFFER_BYTES_MIN // UNSENT_SHARE


async def test_the_send_buffer_follows_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found out about the rate when the kernel took no more is what the kernel is told."""
    fulls: list[int] = []

    class Measured(Buffering):
        def full(self, sent_bytes: int, now_ns: int) -> bool:  # type: ignore[explicit-override] # typing.override: from 3.12
            assert now_ns > 0
            fulls.append(sent_bytes)
            self.near_bytes = 256 * KIB
            return True

    monkeypatch.setattr("source.channel.Buffering", Measured)
    with tcp_pair(4 * KIB) as (near, far):
        out, frame = OutChannel(Channel.PRECOPY, TcpStream(near)), Frame(DATA, PAYLOAD)
        out.keep_little_in_the_kernel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_exactly, far, frame.length)
            while not frame.done:
                await out.send_some(frame, frame.length)
        assert 0 < fulls[0] < frame.length
        send_bytes = near.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        # The kernel may allow less.
        assert send_bytes > 2 * SEND_BUFFER_BYTES_MIN
        unsent_bytes = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        assert unsent_bytes == 256 * KIB // UNSENT_SHARE


async def test_the_kernel_is_not_told_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is found out time and again, and most of the time nothing follows from it."""
    told: list[tuple[int, int]] = []
    fulls = 0

    class Measured(Buffering):
        def full(self, sent_bytes: int, now_ns: int) -> bool:  # type: ignore[explicit-override] # typing.override: from 3.12
            nonlocal fulls
            fulls += 1
            # The fourth time it is another size.
            self.near_bytes = (SEND_BUFFER_BYTES_MIN, 2 * SEND_BUFFER_BYTES_MIN)[fulls > 3]
            return True

    class Told(TcpStream):
        def bound_unsent(self, buffer_bytes: int, unsent_bytes: int) -> None:  # type: ignore[explicit-override]
            told.append((buffer_bytes, unsent_bytes))

    monkeypatch.setattr("source.channel.Buffering", Measured)
    with tcp_pair() as (near, _):
        out = OutChannel(Channel.PRECOPY, Told(near))
        out.keep_little_in_the_kernel()
        for _ in range(6):
            # Nothing went: there is room at once.
            await out.wait_room()
    small = SEND_BUFFER_BYTES_MIN
    assert told == [(each, each // UNSENT_SHARE) for each in (small, 2 * small)]


async def test_in_precopy_room_is_waited_for_without_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A peer that goes on reading gets all of a frame from one call, before any other task runs."""
    # However long it takes the reader to get a processor.
    monkeypatch.setattr("guest.streams.tcp.PATIENCE_MS", 60_000)
    monkeypatch.setattr("source.channel.UNTURNED_NS_MAX", 60 * 10**9)
    with tcp_pair(4 * KIB) as (near, far):
        out, frame = OutChannel(Channel.PRECOPY, TcpStream(near)), Frame(DATA, PAYLOAD)
        reader = threading.Thread(target=read_all, args=(os.dup(far.fileno()), frame.length))
        reader.start()
        sent_bytes = out.send_in_a_row(frame, frame.length)
        # The reader ends with all of it, also where this call was too short.
        while not frame.done:
            await out.send_some(frame, frame.length)
        await trio.to_thread.run_sync(reader.join)
        # A call that does not wait sends what two such buffers hold.
        assert sent_bytes == frame.length == out.bytes_sent


async def test_in_postcopy_no_room_is_waited_for_outside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There a request may come any moment."""
    monkeypatch.setattr("guest.streams.tcp.PATIENCE_MS", 60_000)
    with tcp_pair(4 * KIB) as (near, _):
        out, frame = OutChannel(Channel.PRECOPY, TcpStream(near)), Frame(DATA, PAYLOAD)
        out.keep_little_in_the_kernel()
        assert 0 < out.send_in_a_row(frame, frame.length) < frame.length


async def test_what_was_not_delivered_is_known() -> None:
    """Bytes that nobody has acknowledged are a backlog, until somebody has."""
    with tcp_pair() as (near, far):
        out = OutChannel(Channel.POSTCOPY, TcpStream(near))
        assert out.delivery().unacknowledged_bytes == 0
        frame = Frame(DATA, PAYLOAD)
        while out.send_now(frame, frame.length):
            pass
        left_bytes = out.delivery().unacknowledged_bytes
        assert 0 < left_bytes <= frame.sent
        await receive_exactly(far, frame.sent)
        with trio.fail_after(BOUND_SECONDS):
            while out.delivery().unacknowledged_bytes:  # noqa: ASYNC110 - the kernel tells nobody
                await trio.sleep(0.001)


async def test_what_is_no_tcp_connection_is_left_alone() -> None:
    """It has no backlog that would be waited for."""
    with unix_pair(4 * KIB) as (near, _):
        assert OutChannel(Channel.POSTCOPY, TcpStream(near)).delivery() == Delivery()


async def test_short_messages_go_between_frames() -> None:
    """All at once; not while a frame is open, and nothing of them where the stream is full."""
    with tcp_pair(4 * KIB) as (near, far):
        out = OutChannel(Channel.PRECOPY, TcpStream(near))
        assert out.send_short(PassEnd(index=1), PassEnd(index=2))
        assert await far.recv(1000) == encode(PassEnd(index=1)) + encode(PassEnd(index=2))
        frame = out.open_frame = Frame(DATA, PAYLOAD)
        assert not out.send_short(PassEnd(index=3))
        while out.send_now(frame, frame.length):
            pass
        out.open_frame = None
        assert not out.send_short(PassEnd(index=3))
        assert out.bytes_sent == frame.sent + 2 * len(encode(PassEnd(index=1)))
