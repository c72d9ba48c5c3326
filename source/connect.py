"""Connects to a destination: one TCP connection a channel, each opened by a Hello."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio

from protocol.capabilities import OURS, in_force
from protocol.channels import Channel
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.limits import HELLO_SECONDS_MAX, SESSION_ID_BYTES
from protocol.messages import PROTOCOL_VERSION, Hello, Resume, Welcome
from protocol.policy import Policy
from source.channel import OutChannel
from source.returns import ReturnPath


@dataclass(frozen=True)
class Connection:
    """One TCP connection, both its directions.

    Attributes:
        capabilities: What both sides can do, as the destination's Welcome says.
    """

    out: OutChannel
    returns: ReturnPath
    capabilities: tuple[str, ...] = ()


Connections = Mapping[Channel, Connection]


def new_session() -> bytes:
    """Return what pairs the connections of one migration."""
    return secrets.token_bytes(SESSION_ID_BYTES)


@asynccontextmanager
async def connect(
    host: str,
    port: int,
    policy: Policy,
    *,
    session: bytes | None = None,
    attempt: int = 0,
    silence_seconds_max: float = 10.0,
) -> AsyncIterator[Connections]:
    """Open the connections that a policy needs; they are closed when the block is left.

    Args:
        host: Where the destination listens.
        port: On which TCP port.
        policy: Says how many connections there are.
        session: What pairs them; None for a new session.
        attempt: 0 for a new session, else which attempt to resume it this is.
        silence_seconds_max: How long what is sent may go without being acknowledged.

    Raises:
        ConnectionLost: Nobody listens there, or the connection breaks.
        PeerAborted: The destination refuses.
        RemoteProtocolError: What listens there is no midstream destination.
    """
    session = session or new_session()
    names = list(Channel) if policy.own_channel else [Channel.PRECOPY]
    connections: dict[Channel, Connection] = {}
    try:
        for name in names:
            sock = await _open(host, port, silence_seconds_max)
            connections[name] = Connection(OutChannel(name, sock), ReturnPath(name, sock))
        for name, connection in connections.items():
            hello = _hello(name, session, attempt)
            capabilities = await _greet(connection, hello, f"{host}:{port}")
            connections[name] = replace(connection, capabilities=capabilities)
        yield connections
    finally:
        for connection in connections.values():
            connection.out.close()


def _hello(name: Channel, session: bytes, attempt: int) -> Hello | Resume:
    if attempt:
        return Resume(version=PROTOCOL_VERSION, session=session, role=name.value, attempt=attempt)
    return Hello(version=PROTOCOL_VERSION, session=session, role=name.value, capabilities=OURS)


async def _open(host: str, port: int, silence_seconds_max: float) -> trio.socket.SocketType:
    try:
        with trio.fail_after(HELLO_SECONDS_MAX):
            stream = await trio.open_tcp_stream(host, port)
    except OSError as error:
        raise ConnectionLost(f"cannot connect to {host}:{port}: {_reason(error)}") from error
    except trio.TooSlowError:
        raise ConnectionLost(
            f"cannot connect to {host}:{port}: no answer in {HELLO_SECONDS_MAX:g} s"
        ) from None
    # What was sent and not acknowledged for so long never will be.
    stream.socket.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence_seconds_max * 1000)
    )
    # Without it, the small head of a frame could wait for the acknowledgement of the one before.
    stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # trio keeps little in the kernel, which costs a busy stream four times the CPU time: until
    # postcopy, when it is worth that, the system's default holds.
    stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)
    return stream.socket


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


async def _greet(connection: Connection, hello: Hello | Resume, address: str) -> tuple[str, ...]:
    """Say hello; return the capabilities that are in force."""
    with trio.move_on_after(HELLO_SECONDS_MAX):
        await connection.out.send(hello)
        try:
            answer, _ = await connection.returns.receive()
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{address} is no midstream destination: {error}") from error
        if not isinstance(answer, Welcome) or answer.version != PROTOCOL_VERSION:
            raise RemoteProtocolError(f"{address} answered the hello with something else")
        return in_force(answer.capabilities)
    raise ConnectionLost(f"{address} did not answer the hello in {HELLO_SECONDS_MAX:g} s")
