"""How a source proves on a new connection that it may take part, and has the destination do so."""

from __future__ import annotations

import secrets

from guest.streams.exchange import receive_exactly, send_all
from guest.streams.stream import Stream
from guest.streams.tls import TlsStream
from protocol.addresses import unmapped
from protocol.channels import Channel
from protocol.credentials import Credentials
from protocol.errors import ConnectionLost
from protocol.limits import NONCE_BYTES
from protocol.proof import ANSWER_BYTES, CHALLENGE_BYTES, SourceProof


async def prove(
    plain: Stream, host: str, name: Channel, session: bytes, credentials: Credentials
) -> Stream:
    """Do what the credentials say before the first frame; return what frames go over.

    Args:
        plain: A new connection.
        host: The name or address that the destination's certificate must be for, unless the
            credentials name another.
        name: The connection's role.
        session: The session's id.
        credentials: What both sides have to prove; if nothing, nothing is sent.

    Raises:
        AuthenticationFailed: One side does not prove to the other what that demands.
        ConnectionLost: The connection broke.
    """
    stream, hint = plain, ""
    try:
        if credentials.tls is not None:
            # A destination that reads frames only can make nothing of TLS, and say nothing to it.
            hint = ", does the destination speak TLS?"
            # A certificate knows neither interfaces nor IPv4 in an address of IPv6.
            wanted = credentials.server_name or unmapped(host.partition("%")[0])
            stream = tls = TlsStream(plain, credentials.tls, server_name=wanted)
            await tls.handshake()
            hint = ""
        if credentials.secret is not None:
            await _exchange(
                stream,
                SourceProof(credentials.secret, name, session, secrets.token_bytes(NONCE_BYTES)),
            )
    except (EOFError, OSError) as error:
        reason = "was closed" if isinstance(error, EOFError) else f"broke: {_words(error)}"
        raise ConnectionLost(
            f"the {name.value} connection {reason}, before anything was proved{hint}"
        ) from error
    return stream


def _words(error: OSError) -> str:
    return error.strerror or str(error)


async def _exchange(stream: Stream, proof: SourceProof) -> None:
    await send_all(stream, proof.opening)
    await send_all(stream, proof.prove(await receive_exactly(stream, CHALLENGE_BYTES)))
    proof.check(await receive_exactly(stream, ANSWER_BYTES))
