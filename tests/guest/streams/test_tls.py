"""TLS under a channel: bytes cross whole and in order, and count as sent when they are."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from guest.streams.exchange import receive_exactly, receive_into, send_all
from guest.streams.tcp import TcpStream
from guest.streams.tls import BATCH_BYTES, SMALL_BATCH_BYTES, TlsStream
from protocol.errors import AuthenticationFailed
from tests.bounds import BOUND_SECONDS
from tests.certificates import contexts, tls_pair
from tests.guests import KIB
from tests.sockets import unix_pair

DATA = bytes(range(256)) * (2 * KIB)


async def test_bytes_cross_both_ways_at_once(tmp_path: Path) -> None:
    """Two streams in opposite directions arrive whole though the sockets are full all the time."""
    async with tls_pair(tmp_path) as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(send_all, client, DATA)
        nursery.start_soon(send_all, server, DATA[::-1])
        nursery.start_soon(expect, server, DATA)
        nursery.start_soon(expect, client, DATA[::-1])


async def test_a_priority_is_that_of_the_connection_below(tmp_path: Path) -> None:
    """Whoever encrypts is no stranger to the host's queues."""
    async with tls_pair(tmp_path) as (client, server):
        for stream in (client, server):
            assert stream.prioritize() == cast("TcpStream", stream._stream).prioritize()


async def expect(stream: TlsStream, data: bytes) -> None:
    """Receive so many bytes, which must be these."""
    assert await receive_exactly(stream, len(data)) == data


async def test_only_tls_1_3_is_spoken(tmp_path: Path) -> None:
    """What was agreed on is version 1.3, and both certificates were shown."""
    async with tls_pair(tmp_path) as (client, server):
        for side in (client, server):
            assert side._tls.version() == "TLSv1.3"
            assert side._tls.getpeercert()
    source, _ = contexts(tmp_path)
    source.minimum_version = ssl.TLSVersion.TLSv1_2
    source.maximum_version = ssl.TLSVersion.TLSv1_2
    assert "protocol version" in await failure_of_both(tmp_path, source)


async def failure_of_both(folder: Path, source: ssl.SSLContext) -> str:
    """Shake hands with a client's context; return what both sides say of it, once both failed."""
    _, dest = contexts(folder)
    reasons = []

    async def fail(stream: TlsStream) -> None:
        try:
            await stream.handshake()
            # A client hears only now what the server thinks of its certificate.
            await receive_exactly(stream, 1)
        except AuthenticationFailed as error:
            reasons.append(str(error))

    with unix_pair(8 * KIB) as (near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, TlsStream(TcpStream(near), source, server_name="127.0.0.1"))
            nursery.start_soon(fail, TlsStream(TcpStream(far), dest))
    return "; ".join(reasons)


async def test_a_client_without_a_certificate_is_refused(tmp_path: Path) -> None:
    """The destination wants one, and the source hears that."""
    contexts(tmp_path)
    source = ssl.create_default_context(cafile=str(tmp_path / "source-ca.pem"))
    reasons = await failure_of_both(tmp_path, source)
    assert "peer did not return a certificate" in reasons
    assert "certificate required" in reasons


async def test_the_destination_must_be_who_was_called(tmp_path: Path) -> None:
    """A good certificate for another address is not good enough."""
    with pytest.RaisesGroup(
        pytest.RaisesExc(AuthenticationFailed, match="IP address mismatch"),
        pytest.RaisesExc(AuthenticationFailed, match="bad certificate"),
    ):
        async with tls_pair(tmp_path, "elsewhere.example"):
            pytest.fail("they have shaken hands")


async def test_garbage_is_no_handshake(tmp_path: Path) -> None:
    """Who does not speak TLS is refused; who has gone is told apart."""
    source, dest = contexts(tmp_path)
    with unix_pair(8 * KIB) as (near, far):
        await send_all(TcpStream(near), b"\x16\x03\x01\0\x05hello")
        with pytest.raises(AuthenticationFailed, match="no TLS connection"):
            await TlsStream(TcpStream(far), dest).handshake()
    with unix_pair(8 * KIB) as (near, far):
        near.close()
        with pytest.raises(EOFError):
            await TlsStream(TcpStream(far), dest).handshake()
    with unix_pair(8 * KIB) as (near, far):
        await send_all(TcpStream(far), b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(AuthenticationFailed, match="wrong version number"):
            await TlsStream(TcpStream(near), source, server_name="127.0.0.1").handshake()


async def test_what_was_read_before_counts(tmp_path: Path) -> None:
    """A server may be given the first bytes of the connection by who has looked at them."""
    source, dest = contexts(tmp_path)
    with unix_pair(8 * KIB) as (near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                TlsStream(TcpStream(near), source, server_name="127.0.0.1").handshake
            )
            begin = await receive_exactly(TcpStream(far), 4)
            await TlsStream(TcpStream(far), dest, received=begin).handshake()


@pytest.mark.parametrize("batch_bytes", [BATCH_BYTES, SMALL_BATCH_BYTES])
async def test_all_but_the_last_byte_counts_at_once(tmp_path: Path, batch_bytes: int) -> None:
    """Of what is encrypted the last byte counts when the socket has everything, and not before."""
    async with tls_pair(tmp_path) as (client, server):
        client.batch_bytes = batch_bytes
        sent, counts = 0, list[int]()
        while not counts or counts[-1]:
            counts.append(client.try_write([memoryview(DATA)[sent:]]))
            sent += counts[-1]
        # The socket is full, so one byte less counts than was taken.
        assert (sent + 1) % batch_bytes == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, server, DATA[: sent + 1])
            await wait_all_tasks_blocked()
            count = client.try_write([memoryview(DATA)[sent:]])
            while not count:
                await wait_all_tasks_blocked()
                count = client.try_write([memoryview(DATA)[sent:]])
            assert count == 1


async def test_what_was_sealed_goes_first_and_once(tmp_path: Path) -> None:
    """Bytes that lie encrypted behind a full socket are not encrypted again with the next ones."""
    async with tls_pair(tmp_path) as (client, server):
        rest, refused = memoryview(DATA), 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, server, DATA)
            while rest:
                count = client.try_write([rest[:100], rest[100:]])
                rest, refused = rest[count:], refused + (not count)
                await trio.lowlevel.checkpoint()
        assert refused


async def test_a_flipped_bit_breaks_the_connection(tmp_path: Path) -> None:
    """Bytes that were changed on the way are an error, and never reach who reads."""
    async with tls_pair(tmp_path) as (client, server):
        client._tls.write(b"as it was")
        sealed = bytearray(client._outgoing.read())
        sealed[-1] ^= 1
        await send_all(client._stream, bytes(sealed))
        with pytest.raises(OSError, match="BAD_RECORD_MAC"):
            await receive_exactly(server, 1)


async def test_an_end_is_an_end_with_or_without_a_farewell(tmp_path: Path) -> None:
    """A closed connection gives nothing more, as a plain one does."""
    async with tls_pair(tmp_path) as (client, server):
        await send_all(client, b"the last")
        client.close()
        assert await receive_exactly(server, 8) == b"the last"
        assert await receive_into(server, [memoryview(bytearray(100))]) == 0
    async with tls_pair(tmp_path) as (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            client._tls.unwrap()
        assert client._drain()
        assert await receive_into(server, [memoryview(bytearray(100))]) == 0


async def test_what_was_decrypted_with_other_bytes_is_not_waited_for(tmp_path: Path) -> None:
    """OpenSSL holds bytes that the kernel knows nothing of: they are here, and said to be."""
    async with tls_pair(tmp_path) as (client, server):
        await send_all(client, DATA[:100])
        place = memoryview(bytearray(10))
        assert await receive_into(server, [place]) == 10
        for begin in range(10, 100, 10):
            assert server.is_readable_soon()
            with trio.fail_after(BOUND_SECONDS):
                await server.wait_readable()
            assert server.unread_bytes() == 100 - begin
            assert server.try_read_into([place]) == 10
            assert bytes(place) == DATA[begin : begin + 10]
        assert server.try_read_into([place]) is None


async def test_bytes_go_to_several_places(tmp_path: Path) -> None:
    """Buffers are filled one after the other, across records."""
    async with tls_pair(tmp_path) as (client, server):
        await send_all(client, b"one")
        await send_all(client, b"two and three")
        first, second = bytearray(5), bytearray(100)
        # Both records are here, not decrypted yet.
        assert server.unread_bytes() > 16
        assert server.try_read_into([memoryview(first), memoryview(second)]) == 16
        assert bytes(first) + bytes(second[:11]) == b"onetwo and three"
