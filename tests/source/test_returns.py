"""The return path: requests at once, the rest in order, and nothing that a peer could say hurts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from guest.streams.tcp import TcpStream
from protocol.channels import Channel
from protocol.errors import ConnectionLost, PeerAborted, RemoteProtocolError
from protocol.messages import (
    Abort,
    Account,
    Bye,
    Finished,
    PageRequest,
    Ready,
)
from protocol.wire import encode
from source.returns import PAYLOAD_BYTES_MAX, ReturnPath
from tests.guests import KIB
from tests.sockets import Peer, tcp_pair

FINISHED = Finished(pages=1, target_pages=2, data_bytes=3)


class Rig:
    """A return path, who speaks over it, and the requests that came."""

    def __init__(self, near: trio.socket.SocketType, far: trio.socket.SocketType) -> None:
        """Put them together."""
        self.path = ReturnPath(Channel.PRECOPY, TcpStream(near))
        self.path.on_idle = self.rest
        # How many requests there were each time that nothing more had come.
        self.rests: list[int] = []
        self.peer = Peer(far)
        self.requests: list[PageRequest] = []

    async def run(self) -> None:
        """Keep the requests that come, until cancelled."""
        while True:
            message, _ = await self.path.receive()
            assert isinstance(message, PageRequest)
            self.requests.append(message)

    def rest(self) -> None:
        """Note that nothing more has come."""
        self.rests.append(len(self.requests))


@contextmanager
def make_rig() -> Iterator[Rig]:
    """Connect a return path and a peer; the block is bounded."""
    with tcp_pair() as (near, far):
        yield Rig(near, far)


def request(index: int) -> PageRequest:
    """Return a page request."""
    return PageRequest(block=0, page=index, target_page=0)


async def test_messages_come_in_order_with_their_payloads() -> None:
    """What is received is what was sent, payloads included, and every byte is counted."""
    payload = bytes(range(256)) * KIB
    account = Account(payload_bytes=len(payload))
    with make_rig() as rig:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.peer.send, Ready())
            assert await rig.path.receive() == (Ready(), b"")
            nursery.start_soon(rig.peer.send, account, payload)
            assert await rig.path.receive() == (account, payload)
        expected = len(encode(Ready()) + encode(account) + payload)
        assert rig.path.bytes_received == expected


async def test_a_payload_that_comes_byte_by_byte_is_whole() -> None:
    """Wherever the stream is cut, head, payload and the next head are told apart."""
    stream = encode(Account(payload_bytes=5)) + b"bytes" + encode(Bye())
    with make_rig() as rig:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def trickle() -> None:
                for value in stream:
                    await rig.peer.send_bytes(bytes([value]))
                    await wait_all_tasks_blocked()

            assert await rig.path.receive() == (Account(payload_bytes=5), b"bytes")
            assert await rig.path.receive() == (Bye(), b"")


async def test_an_abort_ends_it_with_the_peers_reason() -> None:
    """An Abort is an error that carries what the destination said."""
    with make_rig() as rig:
        await rig.peer.send(Abort(reason="no memory left"))
        with pytest.raises(PeerAborted, match="no memory left"):
            await rig.path.receive()


@pytest.mark.parametrize("part", [b"", encode(FINISHED)[:3], encode(FINISHED)[:-1]])
async def test_an_end_of_file_is_a_lost_connection(part: bytes) -> None:
    """Whether between two messages or inside one, the connection's end is never success."""
    with make_rig() as rig:
        await rig.peer.send_bytes(part)
        rig.peer.close()
        with pytest.raises(ConnectionLost, match="closed the precopy connection"):
            await rig.path.receive()


async def test_an_end_inside_a_payload_is_a_lost_connection() -> None:
    """A payload that stops short is no payload."""
    with make_rig() as rig:
        await rig.peer.send_bytes(encode(Account(payload_bytes=100)) + b"some")
        rig.peer.close()
        with pytest.raises(ConnectionLost):
            await rig.path.receive()


async def test_a_reset_is_a_lost_connection() -> None:
    """A connection that breaks is told by its name."""
    with make_rig() as rig:
        rig.peer.reset()
        with pytest.raises(ConnectionLost, match="the precopy connection broke"):
            await rig.path.receive()


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\1\xc1", b"\0\0\0\0", b"\xff" * 8],
)
async def test_garbage_is_the_peers_fault(data: bytes) -> None:
    """Bytes that are no message are a RemoteProtocolError and nothing else."""
    with make_rig() as rig:
        await rig.peer.send_bytes(data)
        with pytest.raises(RemoteProtocolError):
            await rig.path.receive()


async def test_a_payload_over_the_limit_is_refused_before_it_comes() -> None:
    """What a peer announces is checked before room is made for it, and the limit can be raised."""
    account = Account(payload_bytes=PAYLOAD_BYTES_MAX + 1)
    with make_rig() as rig:
        await rig.peer.send(account)
        with pytest.raises(RemoteProtocolError, match="over"):
            await rig.path.receive()
    with make_rig() as rig:
        rig.path.payload_bytes_max += 1
        async with trio.open_nursery() as nursery:
            payload = bytes(account.payload_bytes)
            nursery.start_soon(rig.peer.send, account, payload)
            assert await rig.path.receive() == (account, payload)


async def test_what_still_comes_can_be_waited_out() -> None:
    """`wait_closed` drops whatever a destination says until it closes the connection."""
    with make_rig() as rig:
        await rig.peer.send_bytes(b"no message at all")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.path.wait_closed)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            rig.peer.close()


async def test_a_flood_of_requests_is_no_fault() -> None:
    """Page requests come in any number: each is handed on, in order."""
    requests = [request(index) for index in range(1000)]
    with make_rig() as rig:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.run)
            await rig.peer.send_bytes(b"".join(map(encode, requests)))
            await wait_all_tasks_blocked()
            assert rig.requests == requests
            nursery.cancel_scope.cancel()


async def test_all_that_have_come_are_told_of_together() -> None:
    """Who serves requests is called when there are no more, however many pieces they came in."""
    with make_rig() as rig:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.run)
            await wait_all_tasks_blocked()
            assert rig.rests == [0]
            # One read takes what fits; all of these are known before anything else is done.
            await rig.peer.send_bytes(b"".join(encode(request(index)) for index in range(10_000)))
            while len(rig.requests) < 10_000:
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            assert rig.rests[-1] == 10_000
            assert rig.rests.count(10_000) == 1
            nursery.cancel_scope.cancel()


async def test_who_floods_lets_others_have_their_turn() -> None:
    """However much lies there, others run, and are told, before the seventeenth read in a row."""
    with make_rig() as rig:
        await rig.peer.send_bytes(b"".join(encode(request(index)) for index in range(100)))
        place = memoryview(bytearray(8))
        assert [await rig.path._read([place]) for _ in range(40)] == [8] * 40
        assert rig.rests == [0, 0]
