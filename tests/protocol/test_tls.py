"""TLS under a channel: bytes cross whole and in order, and count as sent when they are."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from protocol.errors import AuthenticationFailed
from protocol.tls import BATCH_BYTES, SMALL_BATCH_BYTES, TlsTransport
from protocol.transport import receive_exactly, send_all
from tests.certificates import contexts, tls_pair
from tests.helpers import KIB, unix_pair

DATA = bytes(range(256)) * (2 * KIB)


async def test_bytes_cross_both_ways_at_once(tmp_path: Path) -> None:
    """Two streams in opposite directions arrive whole though the sockets are full all the time."""
    async with tls_pair(tmp_path) as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(send_all, client, DATA)
        nursery.start_soon(send_all, server, DATA[::-1])
        nursery.start_soon(expect, server, DATA)
        nursery.start_soon(expect, client, DATA[::-1])


async def expect(transport: TlsTransport, data: bytes) -> None:
    """Receive so many bytes, which must be these."""
    assert await receive_exactly(transport, len(data)) == data


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

    async def fail(transport: TlsTransport) -> None:
        try:
            await transport.handshake()
            # A client hears only now what the server thinks of its certificate.
            await receive_exactly(transport, 1)
        except AuthenticationFailed as error:
            reasons.append(str(error))

    with unix_pair(8 * KIB) as (near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, TlsTransport(near, source, server_name="127.0.0.1"))
            nursery.start_soon(fail, TlsTransport(far, dest))
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
        await send_all(near, b"\x16\x03\x01\0\x05hello")
        with pytest.raises(AuthenticationFailed, match="no TLS connection"):
            await TlsTransport(far, dest).handshake()
    with unix_pair(8 * KIB) as (near, far):
        near.close()
        with pytest.raises(EOFError):
            await TlsTransport(far, dest).handshake()
    with unix_pair(8 * KIB) as (near, far):
        await send_all(far, b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(AuthenticationFailed, match="wrong version number"):
            await TlsTransport(near, source, server_name="127.0.0.1").handshake()


async def test_what_was_read_before_counts(tmp_path: Path) -> None:
    """A server may be given the first bytes of the connection by who has looked at them."""
    source, dest = contexts(tmp_path)
    with unix_pair(8 * KIB) as (near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(TlsTransport(near, source, server_name="127.0.0.1").handshake)
            begin = await receive_exactly(far, 4)
            await TlsTransport(far, dest, received=begin).handshake()


@pytest.mark.parametrize("batch_bytes", [BATCH_BYTES, SMALL_BATCH_BYTES])
async def test_all_but_the_last_byte_counts_at_once(tmp_path: Path, batch_bytes: int) -> None:
    """Of what is encrypted the last byte counts when the socket has everything, and not before."""
    async with tls_pair(tmp_path) as (client, server):
        client.batch_bytes = batch_bytes
        sent, counts = 0, list[int]()
        while not counts or counts[-1]:
            counts.append(client.write_now([memoryview(DATA)[sent:]], write_to(client)))
            sent += counts[-1]
        # The socket is full, so one byte less counts than was taken.
        assert (sent + 1) % batch_bytes == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, server, DATA[: sent + 1])
            await wait_all_tasks_blocked()
            count = client.write_now([memoryview(DATA)[sent:]], write_to(client))
            while not count:
                await wait_all_tasks_blocked()
                count = client.write_now([memoryview(DATA)[sent:]], write_to(client))
            assert count == 1


def write_to(transport: TlsTransport) -> Callable[[memoryview], int]:
    """Return what hands bytes to a transport's socket."""
    return lambda data: os.write(transport.fileno(), data)


async def test_a_cancelled_send_goes_on_where_it_was(tmp_path: Path) -> None:
    """What a cancelled call has encrypted goes first, once, and counts then."""
    async with tls_pair(tmp_path) as (client, server):
        rest, cancelled = memoryview(DATA), 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, server, DATA)
            while rest:
                with trio.CancelScope() as scope:
                    nursery.start_soon(cancel_when_blocked, scope)
                    rest = rest[await client.sendmsg([rest[:100], rest[100:]]) :]
                cancelled += scope.cancelled_caught
        assert cancelled


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    """Cancel at the next moment at which nothing can go on."""
    await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_a_flipped_bit_breaks_the_connection(tmp_path: Path) -> None:
    """Bytes that were changed on the way are an error, and never reach who reads."""
    async with tls_pair(tmp_path) as (client, server):
        sealed = bytearray()

        def keep(data: memoryview) -> int:
            sealed.extend(data)
            return len(data)

        client.write_now([memoryview(b"as it was")], keep)
        sealed[-1] ^= 1
        os.write(client.fileno(), sealed)
        with pytest.raises(OSError, match="BAD_RECORD_MAC"):
            await server.recv(100)


async def test_an_end_is_an_end_with_or_without_a_farewell(tmp_path: Path) -> None:
    """A closed connection gives nothing more, as a plain one does."""
    async with tls_pair(tmp_path) as (client, server):
        await send_all(client, b"the last")
        client.close()
        assert await receive_exactly(server, 8) == b"the last"
        assert await server.recv(100) == b""
    async with tls_pair(tmp_path) as (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            client._tls.unwrap()
        await client._flush()
        assert await server.recv(100) == b""


async def test_bytes_go_to_several_places(tmp_path: Path) -> None:
    """Buffers are filled one after the other, across records."""
    async with tls_pair(tmp_path) as (client, server):
        await send_all(client, b"one")
        await send_all(client, b"two and three")
        first, second = bytearray(5), bytearray(100)
        assert (await server.recvmsg_into([memoryview(first), memoryview(second)]))[0] == 16
        assert bytes(first) + bytes(second[:11]) == b"onetwo and three"
