"""How a new connection proves that it may take part, before anything else of it is looked at.

Until it has, it is given a few hundred bytes (OpenSSL takes more for its handshake) and seconds.
One that speaks another language than it should (frames, proofs or TLS, which their first bytes
tell) is told why in its own.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import NoReturn

from dest.channel import InChannel
from guest.streams.exchange import receive_exactly, send_all
from guest.streams.stream import Stream
from guest.streams.tls import TlsStream
from protocol.credentials import Credentials
from protocol.errors import AuthenticationFailed, ConnectionLost, RemoteProtocolError
from protocol.limits import NONCE_BYTES
from protocol.messages import Abort, Hello, Resume
from protocol.proof import (
    OPENING_BYTES,
    PROOF_BYTES,
    TAG,
    TAG_BYTES,
    DestProof,
    Refusal,
    refusal,
)
from protocol.wire import encode

# The type of a TLS record that begins a handshake; a frame's first byte is zero.
_TLS_FIRST_BYTE = 0x16


@dataclass(frozen=True)
class Newcomer:
    """A connection that has proved what was demanded of it.

    Attributes:
        channel: Its Hello comes next.
        proof: What it has proved to be by the secret; None where none is demanded.
    """

    channel: InChannel
    proof: DestProof | None

    def check(self, hello: Hello | Resume) -> None:
        """Check that a hello is for what was proved.

        Raises:
            RemoteProtocolError: It is for another session or role.
        """
        if self.proof is None:
            return
        if (hello.session, hello.role) != (self.proof.session, self.proof.role.value):
            raise RemoteProtocolError("the hello is not for what was proved")


async def prove(stream: Stream, credentials: Credentials) -> Newcomer:
    """Demand proof that a new connection may take part; it has been told why if it may not.

    Raises:
        AuthenticationFailed: It may not.
        ConnectionLost: It is gone.
    """
    try:
        return await _prove(stream, credentials)
    except EOFError:
        raise ConnectionLost("the source closed the new connection") from None
    except OSError as error:
        raise ConnectionLost(f"the new connection broke: {error.strerror or error}") from error


async def _prove(plain: Stream, credentials: Credentials) -> Newcomer:
    stream = plain
    begin = await receive_exactly(plain, TAG_BYTES)
    if credentials.tls is not None:
        if begin[0] != _TLS_FIRST_BYTE:
            await _refuse(plain, begin, Refusal.TLS_DEMANDED)
        stream = tls = TlsStream(plain, credentials.tls, received=begin)
        await tls.handshake()
        begin = await receive_exactly(stream, TAG_BYTES)
    elif begin[0] == _TLS_FIRST_BYTE:
        raise AuthenticationFailed("the source speaks TLS and the destination does not")
    if credentials.secret is None:
        if begin == TAG:
            await _refuse(stream, begin, Refusal.NO_SECRET_HERE)
        return Newcomer(InChannel(stream, begin), None)
    if begin != TAG:
        await _refuse(stream, begin, Refusal.SECRET_DEMANDED)
    return await _challenge(stream, credentials.secret)


async def _challenge(stream: Stream, secret: bytes) -> Newcomer:
    opening = TAG + await receive_exactly(stream, OPENING_BYTES - TAG_BYTES)
    proof = DestProof(secret, opening, secrets.token_bytes(NONCE_BYTES))
    await send_all(stream, proof.challenge)
    if not proof.holds(await receive_exactly(stream, PROOF_BYTES)):
        await _refuse(stream, TAG, Refusal.SECRETS_DIFFER)
    await send_all(stream, proof.answer)
    return Newcomer(InChannel(stream), proof)


async def _refuse(stream: Stream, begin: bytes, why: Refusal) -> NoReturn:
    """Say why, in the language that a connection has begun with."""
    told = refusal(why) if begin == TAG else encode(Abort(reason=why.reason))
    await send_all(stream, told)
    raise AuthenticationFailed(why.reason)
