"""Connects to a destination: one TCP connection a channel, each opened by proofs and a Hello."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio

from guest.streams.exchange import patience, receive_exactly, send_all
from guest.streams.network import TCP, Network
from guest.streams.stream import NOT_ASKED, Stream
from guest.streams.tls import TlsStream
from protocol.addresses import host_port, unmapped
from protocol.channels import Channel
from protocol.credentials import NOTHING, Credentials
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.limits import HELLO_SECONDS_MAX, NONCE_BYTES, SESSION_ID_BYTES
from protocol.messages import PROTOCOL_VERSION, Hello, Resume, Welcome
from protocol.policy import Policy
from protocol.proof import ANSWER_BYTES, CHALLENGE_BYTES, SourceProof
from protocol.session_messages import in_force, offer
from source.channel import OutChannel
from source.returns import ReturnPath


@dataclass(frozen=True)
class Connection:
    """One TCP connection, both its directions.

    Attributes:
        capabilities: What both sides can do, as the destination's Welcome says.
        reached: The address at its other end, of those that the host's name has.
        priority: What became of its going first in this host's queues.
    """

    out: OutChannel
    returns: ReturnPath
    capabilities: tuple[str, ...] = ()
    reached: str = ""
    priority: str = NOT_ASKED

    @property
    def name(self) -> Channel:
        """Its role."""
        return self.out.name

    @property
    def bytes_sent(self) -> int:
        """All that this side sent and the peer's kernel has: what lies here is no sign of life."""
        return self.out.bytes_sent - self.out.delivery().unacknowledged_bytes

    @property
    def arrived_bytes(self) -> int:
        """All that came back."""
        return self.returns.bytes_received

    @property
    def listening(self) -> bool:
        """Somebody waits for what comes back."""
        return self.returns.listening

    def trust_silence(self) -> None:
        """Have the destination's silence alone tell that it is gone, as long as it pings."""
        self.out.trust_silence()

    async def ping(self) -> None:
        """Send a sign of life; see `OutChannel.ping`.

        Raises:
            ConnectionLost: The connection is broken.
        """
        self.out.ping()


Connections = Mapping[Channel, Connection]


@dataclass(frozen=True)
class Opening:
    """What the connections of one epoch begin with.

    Attributes:
        session: What pairs them.
        attempt: 0 for a new session, else which attempt to resume it this is.
        capabilities: What a new session offers.
    """

    session: bytes
    attempt: int = 0
    capabilities: tuple[str, ...] = offer()

    def hello(self, name: Channel) -> Hello | Resume:
        """Return the first message of a connection."""
        if self.attempt:
            return Resume(
                version=PROTOCOL_VERSION, session=self.session, role=name.value,
                attempt=self.attempt,
            )  # fmt: skip
        return Hello(
            version=PROTOCOL_VERSION, session=self.session, role=name.value,
            capabilities=self.capabilities,
        )  # fmt: skip


def new_session() -> bytes:
    """Return what pairs the connections of one migration."""
    return secrets.token_bytes(SESSION_ID_BYTES)


@asynccontextmanager
async def connect(
    host: str,
    port: int,
    policy: Policy,
    credentials: Credentials = NOTHING,
    *,
    opening: Opening | None = None,
    network: Network = TCP,
) -> AsyncIterator[Connections]:
    """Open the connections that a policy needs; they are closed when the block is left.

    Args:
        host: Where the destination listens.
        port: On which TCP port.
        policy: Says how many connections there are.
        credentials: What both sides have to prove to each other.
        opening: What they begin with; None for a new session.
        network: What connects.

    Raises:
        AuthenticationFailed: One side does not prove to the other what that demands.
        ConnectionLost: Nobody listens there, or the connection breaks.
        PeerAborted: The destination refuses.
        RemoteProtocolError: What listens there is no midstream destination.
    """
    opening = opening or Opening(new_session())
    connections: dict[Channel, Connection] = {}
    reached: str | None = None
    try:
        for name in policy.channels:
            # A name's addresses may be those of several machines: the one that answered it is.
            connections[name] = await connect_channel(
                host, port, name, opening, credentials, reached=reached, network=network
            )
            reached = connections[name].reached
        if policy.prioritizes:
            urgent = connections[Channel.POSTCOPY]
            connections[Channel.POSTCOPY] = replace(urgent, priority=urgent.out.prioritize())
        yield connections
    finally:
        for connection in connections.values():
            connection.out.close()


async def connect_channel(
    host: str,
    port: int,
    name: Channel,
    opening: Opening,
    credentials: Credentials = NOTHING,
    *,
    reached: str | None = None,
    network: Network = TCP,
) -> Connection:
    """Open one connection of a session: connect, prove, say hello, hear the welcome.

    Args:
        host: As `connect`, and the other arguments too.
        port: On which TCP port.
        name: The connection's role.
        opening: What it begins with.
        credentials: What both sides have to prove to each other.
        reached: The address that the session's other connection has found; None to try all that
            the host's name has.
        network: What connects.

    Raises:
        AuthenticationFailed, ConnectionLost, PeerAborted, RemoteProtocolError: As `connect`.
    """
    address = host_port(host, port)
    plain, reached = await _open(network, reached or host, port, address)
    try:
        # Longer than the destination gives each newcomer: others may be before us.
        with patience(HELLO_SECONDS_MAX, f"{address} did not prove itself", ConnectionLost):
            stream = await prove(plain, host, name, opening.session, credentials)
        out, returns = OutChannel(name, stream), ReturnPath(name, stream)
        with patience(HELLO_SECONDS_MAX, f"{address} did not answer the hello", ConnectionLost):
            hello = opening.hello(name)
            common = await _greet(out, returns, hello, address)
    except BaseException:
        plain.close()
        raise
    return Connection(out, returns, common, reached)


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
        reason = (
            "was closed" if isinstance(error, EOFError) else f"broke: {error.strerror or error}"
        )
        raise ConnectionLost(
            f"the {name.value} connection {reason}, before anything was proved{hint}"
        ) from error
    return stream


async def _exchange(stream: Stream, proof: SourceProof) -> None:
    await send_all(stream, proof.opening)
    await send_all(stream, proof.prove(await receive_exactly(stream, CHALLENGE_BYTES)))
    proof.check(await receive_exactly(stream, ANSWER_BYTES))


async def _open(network: Network, host: str, port: int, typed: str) -> tuple[Stream, str]:
    try:
        with trio.fail_after(HELLO_SECONDS_MAX):
            return await network.connect(host, port)
    except OSError as error:
        raise ConnectionLost(f"cannot connect to {typed}: {_reason(error)}") from error
    except trio.TooSlowError:
        raise ConnectionLost(
            f"cannot connect to {typed}: no answer in {HELLO_SECONDS_MAX:g} s"
        ) from None


def _reason(error: OSError) -> str:
    """Return the cause that the system gave; trio wraps those of several addresses."""
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    causes = [error, error.__cause__]
    if isinstance(error.__cause__, BaseExceptionGroup):
        causes += error.__cause__.exceptions
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
    return str(error)


async def _greet(
    out: OutChannel, returns: ReturnPath, hello: Hello | Resume, address: str
) -> tuple[str, ...]:
    """Say hello; return the capabilities that are in force."""
    await out.send(hello)
    try:
        answer, _ = await returns.receive()
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"{address} is no midstream destination: {error}") from error
    if not isinstance(answer, Welcome) or answer.version != PROTOCOL_VERSION:
        raise RemoteProtocolError(f"{address} answered the hello with something else")
    return in_force(answer.capabilities)
