"""A source on a new connection, before a destination that is played by hand."""

from __future__ import annotations

import socket

import pytest
import trio

from guest.streams.exchange import receive_exactly, send_all
from guest.streams.tcp import TcpStream
from protocol.channels import Channel
from protocol.credentials import NOTHING, Credentials
from protocol.errors import AuthenticationFailed, ConnectionLost, MidstreamError
from protocol.limits import NONCE_BYTES
from protocol.proof import CHALLENGE_BYTES, OPENING_BYTES, PROOF_BYTES, TAG, DestProof
from source.proving import prove
from tests.sides import SESSION
from tests.sockets import tcp_pair, tcp_streams

SECRET = Credentials(secret=b"correct horse battery")


async def fail(*answers: bytes) -> MidstreamError:
    """Prove before a destination that says this and goes; return the error."""
    with tcp_pair() as (near, far):
        await send_all(TcpStream(far), b"".join(answers))
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(MidstreamError) as caught:
            await prove(TcpStream(near), "127.0.0.1", Channel.PRECOPY, SESSION, SECRET)
        return caught.value


async def test_with_nothing_to_prove_nothing_is_sent() -> None:
    """Without credentials the connection is as it was."""
    with tcp_streams() as (near, far):
        assert await prove(near, "127.0.0.1", Channel.PRECOPY, SESSION, NOTHING) is near
        near.close()
        with pytest.raises(EOFError):
            await receive_exactly(far, 1)


async def test_a_destination_that_knows_the_secret() -> None:
    """The source proves itself first, and goes on when the destination has, too."""
    with tcp_streams() as (near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prove, near, "127.0.0.1", Channel.PRECOPY, SESSION, SECRET)
            opening = await receive_exactly(far, OPENING_BYTES)
            assert SECRET.secret is not None
            proof = DestProof(SECRET.secret, opening, bytes(NONCE_BYTES))
            await send_all(far, proof.challenge)
            assert proof.holds(await receive_exactly(far, PROOF_BYTES))
            await send_all(far, proof.answer)


@pytest.mark.parametrize("said", [b"", TAG, TAG + bytes(NONCE_BYTES), TAG + bytes(NONCE_BYTES + 9)])
async def test_an_end_in_between_is_a_lost_connection(said: bytes) -> None:
    """A destination that goes before it has proved itself is one that cannot be migrated to."""
    error = await fail(said)
    assert isinstance(error, ConnectionLost)
    assert "connection was closed, before anything was proved" in str(error)


async def test_a_destination_that_does_not_know_the_secret() -> None:
    """Whoever accepts a proof without having one is not believed, whatever it answers."""
    for answer in (TAG + bytes(32), bytes(CHALLENGE_BYTES), b"\xff" * CHALLENGE_BYTES):
        error = await fail(TAG + bytes(NONCE_BYTES), answer)
        assert isinstance(error, AuthenticationFailed)


async def test_nothing_but_the_exchange_is_read() -> None:
    """What follows the answer stays in the socket for the channel."""
    with tcp_streams() as (near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prove, near, "127.0.0.1", Channel.PRECOPY, SESSION, SECRET)
            opening = await receive_exactly(far, OPENING_BYTES)
            proof = DestProof(SECRET.secret or b"", opening, bytes(NONCE_BYTES))
            await send_all(far, proof.challenge)
            await receive_exactly(far, PROOF_BYTES)
            await send_all(far, proof.answer + b"next")
        assert await receive_exactly(near, 4) == b"next"
