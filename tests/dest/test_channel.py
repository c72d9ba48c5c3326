"""The receiving half of a connection: bytes go where they belong, whatever pieces they come in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dest.channel import InChannel
from dest.landing import Landing
from guest.streams.exchange import receive_exactly, send_all
from guest.streams.tcp import TcpStream
from protocol.channels import Channel
from protocol.errors import ConnectionLost, PeerAborted, RemoteProtocolError
from protocol.messages import (
    Abort,
    Account,
    End,
    Message,
    PageData,
    PassAck,
    PassEnd,
    Ready,
    ZeroData,
)
from protocol.runs import Runs
from protocol.wire import encode
from tests.certificates import tls_pair
from tests.guests import KIB, MIB
from tests.sides import run_frame
from tests.sockets import Peer, tcp_pair, unix_pair

PAGE = bytes(range(256)) * 16
PAGE_DATA = PageData(payload_bytes=len(PAGE), block=0, offset=0)


@contextmanager
def make_channel() -> Iterator[tuple[InChannel, Peer]]:
    """Connect a channel and a peer; the block is bounded."""
    with tcp_pair() as (near, far):
        channel = InChannel(TcpStream(near))
        channel.name = Channel.POSTCOPY
        yield channel, Peer(far)


async def send_in_pieces(peer: Peer, data: bytes, piece_bytes: int) -> None:
    """Send bytes a piece at a time."""
    for start in range(0, len(data), piece_bytes):
        await peer.send_bytes(data[start : start + piece_bytes])


async def receive_page(channel: InChannel, length: int = len(PAGE)) -> tuple[bytes, list[int]]:
    """Return a payload as it lies in memory, and what was told of its coming."""
    memory = bytearray(length)
    told: list[int] = []
    await channel.receive_payload(memoryview(memory), told.append)
    return bytes(memory), told


async def test_payload_bytes_go_straight_to_their_place() -> None:
    """A payload is written into the view that is given, and nowhere else."""
    memory = bytearray(b"." * 3 * len(PAGE))
    with make_channel() as (channel, peer):
        await peer.send(PAGE_DATA, PAGE)
        assert await channel.receive() == PAGE_DATA
        middle = memoryview(memory)[len(PAGE) : 2 * len(PAGE)]
        told: list[int] = []
        await channel.receive_payload(middle, told.append)
        assert memory == b"." * len(PAGE) + PAGE + b"." * len(PAGE)
        assert sum(told) == len(PAGE)
        assert all(told)


async def test_progress_is_told_as_the_bytes_come() -> None:
    """What has come is in memory, and told, before the rest has come."""
    memory = bytearray(len(PAGE))
    told: list[int] = []
    with make_channel() as (channel, peer):
        await peer.send_bytes(encode(PAGE_DATA))
        await channel.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.receive_payload, memoryview(memory), told.append)
            for first in range(0, len(PAGE), 1024):
                await peer.send_bytes(PAGE[first : first + 1024])
                await wait_all_tasks_blocked()
                assert memory[: first + 1024] == PAGE[: first + 1024]
                assert sum(told) == first + 1024


STREAM: list[tuple[Message, bytes]] = [
    (PassEnd(index=0), b""),
    (PAGE_DATA, PAGE),
    (ZeroData(block=0, offset=0, length=4096), b""),
    (PageData(payload_bytes=1, block=1, offset=2), b"x"),
    (PageData(payload_bytes=30, block=1, offset=2), b"payload of thirty bytes length"),
    (End(target_pages=3, data_bytes=4), b""),
]


async def receive_stream(channel: InChannel) -> list[tuple[Message, bytes]]:
    """Receive as many messages as the stream has."""
    received: list[tuple[Message, bytes]] = []
    for _ in STREAM:
        message = await channel.receive()
        payload = b""
        if message.payload_bytes:
            payload, told = await receive_page(channel, message.payload_bytes)
            assert sum(told) == message.payload_bytes
        received.append((message, payload))
    return received


@pytest.mark.parametrize("piece", [1, 3, 61, 64, 65, 1000, 10_000])
async def test_a_stream_is_the_same_in_any_pieces(piece: int) -> None:
    """Heads that come along with the payload before them are not lost, wherever the cuts are."""
    data = b"".join(encode(message) + payload for message, payload in STREAM)
    with make_channel() as (channel, peer):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def trickle() -> None:
                for first in range(0, len(data), piece):
                    await peer.send_bytes(data[first : first + piece])
                    # The other side takes the piece before the next one comes.
                    await wait_all_tasks_blocked()

            assert await receive_stream(channel) == STREAM
        assert channel.bytes_received == len(data)


@pytest.mark.parametrize("piece", [1, 64, 1000, 4097, 100_000])
async def test_scattered_bytes_go_to_their_places_in_any_pieces(piece: int) -> None:
    """A long head, the bytes of many places, and the next frame: nothing is lost at any cut."""
    lengths = [5, 1, 10] if piece == 1 else [1, 64, 63, 4096, *[8] * 200, 700]
    payload = bytes(index % 251 for index in range(sum(lengths)))
    runs = Runs.of_target_pages(0, np.arange(0, 1000, 2))
    message, _ = run_frame(runs, payload=payload)
    data = encode(message) + payload + encode(End(target_pages=3, data_bytes=4))
    places = [memoryview(bytearray(length)) for length in lengths]
    told: list[int] = []
    with make_channel() as (channel, peer):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def trickle() -> None:
                for first in range(0, len(data), piece):
                    await peer.send_bytes(data[first : first + piece])
                    await wait_all_tasks_blocked()

            assert await channel.receive() == message
            await channel.receive_scattered(Landing(places), told.append)
            assert await channel.receive() == End(target_pages=3, data_bytes=4)
    assert b"".join(places) == payload
    assert sum(told) == len(payload)


@pytest.mark.parametrize("piece", [61, 64, 65, 1000])
async def test_waste_is_read_and_not_written(piece: int) -> None:
    """From the moment when bytes are waste none is written, and the stream goes on behind them."""
    view = memoryview(bytearray(len(PAGE)))
    data = encode(PAGE_DATA) + PAGE + encode(Ready())
    counts: list[int] = []
    with make_channel() as (channel, peer):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def trickle() -> None:
                for first in range(0, len(data), piece):
                    await peer.send_bytes(data[first : first + piece])
                    await wait_all_tasks_blocked()

            assert await channel.receive() == PAGE_DATA
            await channel.receive_payload(view, counts.append, lambda: len(counts) >= 2)
            assert await channel.receive() == Ready()
    assert sum(counts) == len(PAGE)
    kept = sum(counts[:2])
    assert bytes(view) == PAGE[:kept] + bytes(len(PAGE) - kept)


async def test_a_payload_that_is_waste_from_the_start_writes_nothing() -> None:
    """Not even what came along with the head of the frame reaches its place."""
    view = memoryview(bytearray(len(PAGE)))
    with make_channel() as (channel, peer):
        await peer.send(PAGE_DATA, PAGE)
        await peer.send(Ready())
        assert await channel.receive() == PAGE_DATA
        await channel.receive_payload(view, lambda _: None, lambda: True)
        assert await channel.receive() == Ready()
    assert bytes(view) == bytes(len(PAGE))


async def test_the_next_head_comes_along_with_a_payload() -> None:
    """Between frames that are there already no read is made for a head alone."""
    frames = 50
    with make_channel() as (channel, peer):
        await peer.send_bytes((encode(PAGE_DATA) + PAGE) * frames)
        reads = 0
        receive_into = channel._receive_into

        async def count(places: Callable[[], list[memoryview]], gathered_bytes: int = 1) -> int:
            nonlocal reads
            reads += 1
            return await receive_into(places, gathered_bytes)

        channel._receive_into = count  # type: ignore[method-assign]
        for _ in range(frames):
            assert await channel.receive() == PAGE_DATA
            assert (await receive_page(channel))[0] == PAGE
        # With a read for each head it would be twice as many as there are frames.
        assert reads < 1.5 * frames


@pytest.mark.parametrize("unhurried", [False, True])
async def test_gathered_bytes_are_read_in_few_pieces(unhurried: bool) -> None:
    """A payload that comes in many pieces is told in few, all of it, with or without hurry."""
    payload = bytes(range(256)) * 8 * KIB
    message = PageData(payload_bytes=len(payload), block=0, offset=0)
    with make_channel() as (channel, peer):
        channel.unhurried = unhurried
        memory, told = bytearray(len(payload)), list[int]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_in_pieces, peer, encode(message) + payload, 16 * KIB)
            assert await channel.receive() == message
            await channel.receive_payload(memoryview(memory), told.append, gathered=True)
        assert memory == payload
        assert sum(told) == len(payload)
        # Hurried, it is the half of what is left each time, and the last 64 KiB as they come.
        assert len(told) <= (6 if unhurried else 16)


async def test_who_is_unhurried_lets_others_run() -> None:
    """However fast the bytes come, the event loop has its turns."""
    frames, turns = 200, 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    with make_channel() as (channel, peer), pytest.MonkeyPatch.context() as patch:
        patch.setattr("dest.channel.UNTURNED_NS_MAX", 0)
        patch.setattr("dest.channel._UNGATHERED_BYTES_MAX", 0)
        channel.unhurried = True
        await peer.send_bytes((encode(PAGE_DATA) + PAGE) * frames)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_turns)
            for _ in range(frames):
                assert await channel.receive() == PAGE_DATA
                await channel.receive_payload(
                    memoryview(bytearray(len(PAGE))), lambda _: None, gathered=True
                )
            nursery.cancel_scope.cancel()
    assert turns > frames // 2


async def test_what_was_gathered_is_read_at_once_when_no_more_may_come() -> None:
    """`stop_gathering` wakes who waits for more, and what lies in the kernel is read."""
    payload = bytes(300 * KIB)
    message = PageData(payload_bytes=len(payload), block=0, offset=0)
    with make_channel() as (channel, peer):
        told: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send_bytes, encode(message) + payload[: 200 * KIB])
            assert await channel.receive() == message
            view = memoryview(bytearray(len(payload)))
            nursery.start_soon(partial(channel.receive_payload, view, told.append, gathered=True))
            await wait_all_tasks_blocked()
            # The kernel tells nobody when a buffer has filled, or run empty.
            while channel.arrived_bytes < 200 * KIB:  # noqa: ASYNC110
                await trio.sleep(0.001)
            assert sum(told) < 200 * KIB
            channel.stop_gathering()
            with trio.fail_after(10):
                while channel.has_unread:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            assert sum(told) == 200 * KIB
            nursery.cancel_scope.cancel()


async def test_a_payload_without_bytes_is_over_at_once() -> None:
    """Nothing is read and nothing told where nothing was announced."""
    with make_channel() as (channel, peer):
        await peer.send(PassEnd(index=1))
        await channel.receive()
        assert await receive_page(channel, 0) == (b"", [])


async def test_an_abort_ends_it_with_the_peers_reason() -> None:
    """An Abort is an error that carries what the source said."""
    with make_channel() as (channel, peer):
        await peer.send(Abort(reason="cancelled by its user", cancelled=True))
        with pytest.raises(PeerAborted, match="cancelled by its user"):
            await channel.receive()


@pytest.mark.parametrize("part", [b"", encode(PAGE_DATA)[:9]])
async def test_an_end_of_file_is_a_lost_connection(part: bytes) -> None:
    """Whether between two messages or inside one, the connection's end is never success."""
    with make_channel() as (channel, peer):
        await peer.send_bytes(part)
        peer.close()
        with pytest.raises(ConnectionLost, match="closed the postcopy connection"):
            await channel.receive()


async def test_an_end_inside_a_payload_is_a_lost_connection() -> None:
    """A payload that stops short has been told up to there, and is an error."""
    with make_channel() as (channel, peer):
        await peer.send_bytes(encode(PAGE_DATA) + PAGE[:100])
        peer.close()
        await channel.receive()
        with pytest.raises(ConnectionLost):
            await receive_page(channel)


async def test_a_reset_is_a_lost_connection_in_both_directions() -> None:
    """A connection that breaks is told by its name, to who reads and to who sends."""
    with make_channel() as (channel, peer):
        peer.reset()
        with pytest.raises(ConnectionLost, match="the postcopy connection broke"):
            await channel.receive()
        with pytest.raises(ConnectionLost, match="the postcopy connection broke"):
            await channel.send(Ready())


async def test_garbage_is_the_peers_fault() -> None:
    """Bytes that are no message are a RemoteProtocolError and nothing else."""
    with make_channel() as (channel, peer):
        await peer.send_bytes(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(RemoteProtocolError):
            await channel.receive()


async def test_several_tasks_may_send() -> None:
    """Messages of tasks that send at the same time come out whole, none inside another."""
    payload = bytes(MIB)
    account = Account(payload_bytes=len(payload))
    with unix_pair(16 * KIB) as (near, far):
        channel, peer = InChannel(TcpStream(near)), Peer(far)
        async with trio.open_nursery() as nursery:
            for index in range(5):
                nursery.start_soon(channel.send, account, payload)
                nursery.start_soon(channel.send, PassAck(index=index))
            received = [await peer.receive() for _ in range(10)]
        assert received.count((account, payload)) == 5
        acks = [message.index for message, _ in received if isinstance(message, PassAck)]
        assert sorted(acks) == list(range(5))
        expected = 5 * len(encode(account) + payload + encode(PassAck(index=0)))
        assert channel.bytes_sent == expected


async def test_a_message_goes_without_a_turn_of_the_loop() -> None:
    """What can go at once is with the socket when the call returns, and is counted."""
    with make_channel() as (channel, peer):
        assert channel.send_now(Ready())
        assert channel.bytes_sent == len(encode(Ready()))
        message, _ = await peer.receive()
        assert message == Ready()


async def test_nothing_goes_into_the_midst_of_another_message() -> None:
    """While a message is on its way none goes at once; nothing of the refused one is sent."""
    with unix_pair(4 * KIB) as (near, far):
        channel, peer = InChannel(TcpStream(near)), Peer(far)
        account = Account(payload_bytes=MIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, account, bytes(MIB))
            await wait_all_tasks_blocked()
            assert not channel.send_now(Ready())
            assert (await peer.receive())[0] == account
        # A cancelled one's rest comes first, too.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, account, bytes(MIB))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert not channel.send_now(Ready())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, Ready())
            assert (await peer.receive())[0] == account
            assert (await peer.receive())[0] == Ready()


async def test_what_does_not_go_at_once_goes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a message that the socket takes in part the rest follows by itself, before others."""
    write = TcpStream.try_write
    with make_channel() as (channel, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send_rests)
            await wait_all_tasks_blocked()
            monkeypatch.setattr(
                TcpStream, "try_write", lambda stream, data: write(stream, [data[0][:3]])
            )
            assert channel.send_now(PassAck(index=7))
            assert channel.bytes_sent == 3
            assert not channel.send_now(Ready())
            assert (await peer.receive())[0] == PassAck(index=7)
            await channel.send(Ready())
            assert (await peer.receive())[0] == Ready()
            nursery.cancel_scope.cancel()


async def test_a_full_socket_takes_nothing_at_once() -> None:
    """A message of which nothing can go is refused, and may be sent in its turn."""
    with unix_pair(4 * KIB) as (near, far):
        channel, peer = InChannel(TcpStream(near)), Peer(far)
        count = 0
        while channel.send_now(PassAck(index=count)):
            count += 1
        assert not channel._unsent
        for index in range(count):
            assert (await peer.receive())[0] == PassAck(index=index)


async def test_over_tls_it_goes_at_once_too(tmp_path: Path) -> None:
    """Encrypted messages are handed over, or what is left of one goes before the next."""
    async with tls_pair(tmp_path) as (near, far):
        channel = InChannel(near)
        count = 0
        while channel.send_now(PassAck(index=count)):
            count += 1
        assert count
        said = b"".join(encode(PassAck(index=index)) for index in range(count + 1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, PassAck(index=count))
            assert await receive_exactly(far, len(said)) == said


async def test_a_lost_connection_is_told_at_once() -> None:
    """Who asks over a connection that broke hears of it."""
    with make_channel() as (channel, _):
        channel.close()
        with pytest.raises(ConnectionLost):
            channel.send_now(Ready())


async def test_small_frames_come_in_one_piece() -> None:
    """A target page and its head take one read where such frames are expected."""
    with make_channel() as (channel, peer):
        channel.expect_small_frames()
        await peer.send(PAGE_DATA, PAGE)
        assert await channel.receive() == PAGE_DATA
        assert channel.bytes_received == len(encode(PAGE_DATA)) + len(PAGE)
        assert await receive_page(channel) == (PAGE, [len(PAGE)])


async def test_who_always_finds_bytes_lets_others_have_their_turn() -> None:
    """However much lies there, tasks that wait for something else run while it is read."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    with tcp_pair() as (near, far):
        channel, peer = InChannel(TcpStream(near)), Peer(far)
        for _ in range(20):
            await peer.send(PAGE_DATA, PAGE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            for _ in range(20):
                await channel.receive()
                await receive_page(channel)
            nursery.cancel_scope.cancel()
    assert turns >= 5


async def test_a_cancelled_send_does_not_break_the_stream() -> None:
    """What a cancelled call leaves of its message goes before the next one."""
    payload = bytes(range(256)) * KIB
    account = Account(payload_bytes=len(payload))
    with unix_pair(16 * KIB) as (near, far):
        channel, peer = InChannel(TcpStream(near)), Peer(far)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, account, payload)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert 0 < channel.bytes_sent < len(payload)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, Abort(reason="cancelled by its user"))
            assert await peer.receive() == (account, payload)
            assert await peer.expect(Abort) == Abort(reason="cancelled by its user")


async def test_frames_come_over_tls(tmp_path: Path) -> None:
    """Encrypted frames arrive as plain ones do, also where bytes may gather in the kernel."""
    view = memoryview(bytearray(len(PAGE)))
    counts: list[int] = []
    async with tls_pair(tmp_path) as (far, near):
        channel = InChannel(near)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, far, (encode(PAGE_DATA) + PAGE) * 3 + encode(Ready()))
            for _ in range(3):
                assert await channel.receive() == PAGE_DATA
                await channel.receive_payload(view, counts.append, gathered=True)
                assert bytes(view) == PAGE
            assert await channel.receive() == Ready()
        assert sum(counts) == 3 * len(PAGE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, PassAck(index=1))
            expected = encode(PassAck(index=1))
            assert await receive_exactly(far, len(expected)) == expected


async def test_scattered_bytes_come_over_tls_too(tmp_path: Path) -> None:
    """The kernel is not waited for bytes that OpenSSL holds already, into however many views."""
    view, counts = memoryview(bytearray(len(PAGE))), list[int]()
    async with tls_pair(tmp_path) as (far, near):
        channel = InChannel(near)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, far, (encode(PAGE_DATA) + PAGE) * 3 + encode(Ready()))
            for _ in range(3):
                assert await channel.receive() == PAGE_DATA
                with trio.fail_after(10):
                    await channel.receive_scattered(
                        Landing([view[:KIB], view[KIB:]]), counts.append, gathered=True
                    )
                assert bytes(view) == PAGE
            assert await channel.receive() == Ready()
        assert sum(counts) == 3 * len(PAGE)


async def test_what_still_comes_can_be_waited_out() -> None:
    """`wait_closed` drops whatever a source says until it closes the connection."""
    with make_channel() as (channel, peer):
        await peer.send_bytes(bytes(100 * KIB))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.wait_closed)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            peer.close()


async def test_closing_twice_is_harmless() -> None:
    """A closed channel may be closed again, and the peer sees the end."""
    with make_channel() as (channel, peer):
        channel.close()
        channel.close()
        with pytest.raises(EOFError):
            await peer.receive()
