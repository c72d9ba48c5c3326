"""The signs of life of both sides, and what each makes of a peer that gives none."""

import socket
from functools import partial

import trio
import trio.lowlevel
from trio.testing import MockClock

from dest.channel import InChannel
from guest.streams.keepalive import keep_alive
from guest.streams.tcp import TcpStream
from protocol.channels import Channel
from protocol.limits import PING_SECONDS, PULSE_SECONDS
from protocol.messages import Message, PageData, PassEnd, Ping
from source.channel import OutChannel
from source.connect import Connection
from source.outlet import Frame
from source.returns import ReturnPath
from tests.sockets import Peer, loss_while, tcp_pair

PRE = Channel.PRECOPY


async def test_a_silent_destination_is_lost(autojump_clock: MockClock) -> None:
    """Nothing from the destination for the limit breaks the connection; pings went meanwhile."""
    with tcp_pair(seconds=100) as (near, far):
        connection = Connection(OutChannel(PRE, TcpStream(near)), ReturnPath(PRE, TcpStream(near)))
        began = trio.current_time()
        error = await loss_while(
            connection.returns.receive, partial(keep_alive, connection, "destination", 6.0)
        )
        assert "the destination was silent on the precopy connection for 6 s" in str(error)
        assert error.channel == "precopy"
        assert 6 <= trio.current_time() - began <= 6 + 3 * PULSE_SECONDS
        peer = Peer(far)
        near.close()
        heard = [message for message, _ in await peer.receive_all()]
        assert heard
        assert set(heard) == {Ping()}
        assert 6 / (PING_SECONDS + PULSE_SECONDS) - 1 <= len(heard) <= 6 / PING_SECONDS


async def test_a_destination_that_pings_lives(autojump_clock: MockClock) -> None:
    """Pings keep a connection over which nobody has anything to say, and nobody sees them."""
    with tcp_pair(seconds=100) as (near, far):
        connection = Connection(OutChannel(PRE, TcpStream(near)), ReturnPath(PRE, TcpStream(near)))
        peer = Peer(far)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_alive, connection, "destination", 2.0)
            nursery.start_soon(connection.returns.receive)
            for _ in range(20):
                await trio.sleep(1)
                await peer.send(Ping())
            nursery.cancel_scope.cancel()


async def test_a_frame_that_was_broken_off_goes_on_instead() -> None:
    """A Ping would land in the bytes of an open frame, so the frame's next byte goes."""
    with tcp_pair() as (near, far):
        out = OutChannel(PRE, TcpStream(near))
        peer = Peer(far)
        out.ping()
        assert await peer.expect(Ping) == Ping()
        frame = out.open_frame = Frame(PassEnd(index=5))
        for count in range(1, frame.length + 1):
            out.ping()
            assert frame.sent == count
        assert await peer.expect(PassEnd) == PassEnd(index=5)


async def test_a_ping_and_a_frame_do_not_mix() -> None:
    """Frames and pings that two tasks send into a full socket arrive whole, one after the other."""
    payload = bytes(range(256)) * 256
    with tcp_pair(buffer_bytes=4096) as (near, far):
        out, peer = OutChannel(PRE, TcpStream(near)), Peer(far)
        heard: list[type[Message]] = []

        async def ping() -> None:
            while True:
                # What a keepalive does when the sender has just stopped.
                out.ping()
                await trio.lowlevel.checkpoint()

        async def hear() -> None:
            while heard.count(PageData) < 3 or Ping not in heard:
                message, got = await peer.receive()
                heard.append(type(message))
                assert got == (payload if isinstance(message, PageData) else b"")
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping)
            nursery.start_soon(hear)
            for _ in range(3):
                await out.send(PageData(payload_bytes=len(payload), block=0, offset=0), payload)
                await trio.lowlevel.checkpoint()
        assert heard.count(PageData) == 3


async def test_at_the_source_only_silence_is_death(autojump_clock: MockClock) -> None:
    """While pings tell who lives, the kernel's own limit, which a slow link may reach, is off."""
    with tcp_pair(seconds=100) as (near, _):
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4000)
        stream = TcpStream(near)
        made = Connection(OutChannel(PRE, stream), ReturnPath(PRE, stream))
        with trio.move_on_after(1):
            await keep_alive(made, "destination", 4.0)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0


async def test_a_silent_source_is_lost(autojump_clock: MockClock) -> None:
    """Nothing from the source for the limit breaks the connection; pings went meanwhile."""
    with tcp_pair(seconds=100) as (near, far):
        channel = InChannel(TcpStream(near))
        channel.name = Channel.POSTCOPY
        began = trio.current_time()
        error = await loss_while(channel.receive, partial(keep_alive, channel, "source", 4.0))
        assert "the source was silent on the postcopy connection for 4 s" in str(error)
        assert 4 <= trio.current_time() - began <= 4 + 3 * PULSE_SECONDS
        near.close()
        heard = [message for message, _ in await Peer(far).receive_all()]
        assert heard
        assert set(heard) == {Ping()}


async def test_who_does_not_read_blames_nobody(autojump_clock: MockClock) -> None:
    """While nobody reads a connection, as in a long set-up, its silence means nothing."""
    with tcp_pair(seconds=100) as (near, _):
        channel = InChannel(TcpStream(near))
        channel.name = Channel.PRECOPY
        with trio.move_on_after(60) as scope:
            await keep_alive(channel, "source", 2.0)
        assert scope.cancelled_caught


async def test_pings_are_read_over() -> None:
    """A message is what comes between pings."""
    with tcp_pair() as (near, far):
        channel, peer = InChannel(TcpStream(near)), Peer(far)
        for _ in range(3):
            await peer.send(Ping())
        await peer.send(PassEnd(index=1))
        assert await channel.receive() == PassEnd(index=1)


async def test_at_the_destination_only_silence_is_death(autojump_clock: MockClock) -> None:
    """While pings tell who lives, the kernel's own limit, which a slow link may reach, is off."""
    with tcp_pair(seconds=100) as (near, _):
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4000)
        made = InChannel(TcpStream(near))
        made.name = Channel.PRECOPY
        with trio.move_on_after(1):
            await keep_alive(made, "source", 4.0)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
