"""A TCP connection as a stream: what the kernel says of it, and what it is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from guest.streams.exchange import receive_exactly, send_all
from guest.streams.stream import GRANTED, Delivery
from guest.streams.tcp import (
    PRIORITY,
    TCP_INFO_BYTES,
    TcpStream,
    read_tcp_info,
    unacknowledged_bytes,
)
from tests.bounds import bounded
from tests.guests import KIB
from tests.sockets import tcp_pair, tcp_streams, unix_pair


async def test_the_kernel_says_how_a_connection_delivers() -> None:
    """The fields are where the kernel has them: a round trip, and a rate once something went."""
    with tcp_pair() as (near, far):
        stream, peer = TcpStream(near), TcpStream(far)
        for _ in range(20):
            await send_all(stream, bytes(64 * KIB))
            await receive_exactly(peer, 64 * KIB)
        delivery = stream.delivery()
        # Loopback: less than a second, more than a hundred kilobytes a second.
        assert 0 < delivery.round_trip_us < 10**6
        assert delivery.bytes_per_second > 10**5
        info = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        assert read_tcp_info(7, info).unacknowledged_bytes == 7


def test_a_kernel_that_says_less_is_taken_at_its_word() -> None:
    """Before Linux 4.9 there was no rate: then nothing is known but what was not acknowledged."""
    assert read_tcp_info(5, bytes(104)) == Delivery(5, 0, 0)


async def test_what_is_no_tcp_connection_has_no_figures() -> None:
    """Over a Unix socket nobody can tell, and a closed socket has nothing to tell."""
    with unix_pair(4 * KIB) as (near, _):
        stream = TcpStream(near)
        assert stream.delivery() == Delivery()
        stream.close()
        assert stream.delivery() == Delivery()


async def test_what_nobody_reads_lies_in_one_kernel_or_the_other() -> None:
    """Each byte that a stream took is unacknowledged here, or unread there."""
    with tcp_pair() as (near, far):
        stream, peer = TcpStream(near), TcpStream(far)
        count = 0
        while taken := stream.try_write([memoryview(bytes(64 * KIB))]):
            count += taken
        assert unacknowledged_bytes(near.fileno()) + peer.unread_bytes() >= count
        await receive_exactly(peer, count)
        assert peer.unread_bytes() == 0
        assert peer.try_read_into([memoryview(bytearray(1))]) is None


async def test_fewer_bytes_than_were_asked_for_wake_nobody() -> None:
    """A reader that gathers sleeps until so much is here, or the stream ends."""
    with tcp_streams() as (stream, peer):
        peer.wake_at(100)
        await send_all(stream, bytes(99))
        while peer.unread_bytes() < 99:  # noqa: ASYNC110 - the kernel tells nobody
            await trio.sleep(0.001)
        assert not peer.is_readable_soon()
        await send_all(stream, bytes(1))
        await peer.wait_readable()
        assert peer.try_read_into([memoryview(bytearray(200))]) == 100
        stream.close()
        await peer.wait_readable()
        assert peer.try_read_into([memoryview(bytearray(200))]) == 0


async def test_what_may_lie_unsent_is_bounded() -> None:
    """The kernel is told both bounds; it doubles the buffer's."""
    with tcp_pair() as (near, _):
        TcpStream(near).bound_unsent(64 * KIB, 16 * KIB)
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 64 * KIB
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 16 * KIB


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("dscp", [None, 46])
async def test_a_priority_holds_whatever_packets_are_marked_with(
    address: str, dscp: int | None
) -> None:
    """The mark, with which the kernel sets a priority of its own, is made before."""
    with bounded(), connected(address) as sock:
        stream = TcpStream(sock, dscp)
        assert stream.prioritize() == (GRANTED if dscp is None else "granted, DSCP 46")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == PRIORITY
        marked = [sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)]
        if sock.family == socket.AF_INET6:
            marked.append(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS))
        assert [mark >> 2 for mark in marked] == [dscp or 0] * len(marked)


async def test_a_priority_that_is_refused_is_told() -> None:
    """Nothing fails for that: the connection is as good as it was."""
    with tcp_pair() as (near, _):
        stream = TcpStream(near)
        near.close()
        assert stream.prioritize() == "refused: Bad file descriptor"
    with unix_pair(4 * KIB) as (near, _):
        assert TcpStream(near, 46).prioritize() == "refused: Operation not supported"


@contextmanager
def connected(address: str) -> Iterator[trio.socket.SocketType]:
    """Connect over loopback; an address of IPv4 in one of IPv6 is reached by IPv4."""
    there = (socket.AF_INET, "127.0.0.1") if "." in address else (socket.AF_INET6, address)
    try:
        server = socket.create_server((there[1], 0), family=there[0])
    except OSError as error:
        pytest.skip(f"{address}: {error.strerror}")
    with server, socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as near:
        near.connect((address, server.getsockname()[1]))
        with trio.socket.from_stdlib_socket(near.dup()) as sock:
            yield sock


async def test_a_closed_stream_takes_and_gives_nothing() -> None:
    """Whoever waits on it is woken, and whoever tries is told."""
    with tcp_streams() as (stream, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_closed, stream)
            await wait_all_tasks_blocked()
            stream.close()
        stream.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            stream.try_write([memoryview(b"x")])
        with pytest.raises(OSError, match="Bad file descriptor"):
            stream.try_read_into([memoryview(bytearray(1))])


async def _expect_closed(stream: TcpStream) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await stream.wait_readable()
