"""The destination's signs of life, and what it makes of a source that gives none."""

import socket
from functools import partial

import trio
from trio.testing import MockClock

from dest.channel import InChannel
from dest.keepalive import keep_alive
from guest.streams.tcp import TcpStream
from protocol.channels import Channel
from protocol.limits import PULSE_SECONDS
from protocol.messages import PassEnd, Ping
from tests.helpers import Peer, loss_while, tcp_pair


async def test_a_silent_source_is_lost(autojump_clock: MockClock) -> None:
    """Nothing from the source for the limit breaks the connection; pings went meanwhile."""
    with tcp_pair(seconds=100) as (near, far):
        channel = InChannel(TcpStream(near))
        channel.name = Channel.POSTCOPY
        began = trio.current_time()
        error = await loss_while(channel.receive, partial(keep_alive, channel, 4.0))
        assert "silent on the postcopy connection for 4 s" in str(error)
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
            await keep_alive(channel, 2.0)
        assert scope.cancelled_caught


async def test_pings_are_read_over() -> None:
    """A message is what comes between pings."""
    with tcp_pair() as (near, far):
        channel, peer = InChannel(TcpStream(near)), Peer(far)
        for _ in range(3):
            await peer.send(Ping())
        await peer.send(PassEnd(index=1))
        assert await channel.receive() == PassEnd(index=1)


async def test_only_silence_is_death(autojump_clock: MockClock) -> None:
    """While pings tell who lives, the kernel's own limit, which a slow link may reach, is off."""
    with tcp_pair(seconds=100) as (near, _):
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4000)
        made = InChannel(TcpStream(near))
        made.name = Channel.PRECOPY
        with trio.move_on_after(1):
            await keep_alive(made, 4.0)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
