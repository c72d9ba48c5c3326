"""Accepts connections and pairs them by session; a stranger costs a slot for seconds, nothing more.

Either connection of a migration may arrive first.  The precopy one makes a session; a postcopy one
that is early waits for it, not for long.  A connection that does not say hello in time, or says
something else, is told why, closed and forgotten.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from dest.channel import InChannel
from dest.resumes import Attempt, Resumes
from protocol.capabilities import in_force
from protocol.channels import Channel
from protocol.errors import MidstreamError, MigrationError, RemoteProtocolError
from protocol.limits import HELLO_CONNECTIONS_MAX, HELLO_SECONDS_MAX
from protocol.messages import PROTOCOL_VERSION, Abort, Hello, Message, Resume, Welcome

Log = Callable[[str], None]


@dataclass
class Session:
    """The connections of one migration as they come.

    Attributes:
        session_id: What pairs them.
        channels: Those whose hello was accepted.
        capabilities: What both sides can do.
        claimed: The precopy connection has its Welcome.
        paired: Both connections have theirs.
    """

    session_id: bytes
    channels: dict[Channel, InChannel] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    claimed: trio.Event = field(default_factory=trio.Event)
    paired: trio.Event = field(default_factory=trio.Event)
    _welcomed: set[Channel] = field(default_factory=set)

    def welcomed(self, name: Channel) -> None:
        """Say that a connection has its Welcome; from now on it is the migration's."""
        self._welcomed.add(name)
        if name is Channel.PRECOPY:
            self.claimed.set()
        if len(self._welcomed) == len(Channel):
            self.paired.set()


class Listener:
    """A listening socket and the connections that it brings; made by `open_listener`."""

    def __init__(self, sock: trio.socket.SocketType, log: Log, silence_seconds_max: float) -> None:
        """Take a listening socket."""
        host, port = sock.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._sock = sock
        self._log = log
        self._silence_ms_max = int(silence_seconds_max * 1000)
        self._resumes: Resumes | None = None
        self._slots = trio.CapacityLimiter(HELLO_CONNECTIONS_MAX)
        self._sessions: dict[bytes, Session] = {}
        self._active: Session | None = None
        self._started = trio.Event()
        self._open: set[InChannel] = set()

    async def run(self) -> None:
        """Accept until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._slots.acquire_on_behalf_of(slot := object())
                sock, address = await self._accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # What was sent and not acknowledged for so long never will be.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._silence_ms_max)
                nursery.start_soon(self._greet, InChannel(sock), address, slot)

    async def accept_session(self) -> Session:
        """Wait for a precopy connection; its session is from then on the only one."""
        await self._started.wait()
        assert self._active is not None
        return self._active

    def take_resumes(self, resumes: Resumes) -> None:
        """Have connections that resume a session gathered from now on."""
        self._resumes = resumes

    def close(self) -> None:
        """Close the listening socket and every connection it brought."""
        self._sock.close()
        for channel in self._open:
            channel.close()

    async def _accept(self) -> tuple[trio.socket.SocketType, str]:
        while True:
            try:
                sock, address = await self._sock.accept()
            except OSError as error:
                # Out of descriptors, or a client that gave up: none of that is ours to die of.
                self._log(f"a connection could not be accepted: {error.strerror or error}")
                await trio.sleep(0.1)
            else:
                return sock, f"{address[0]}:{address[1]}"

    async def _greet(self, channel: InChannel, address: str, slot: object) -> None:
        self._open.add(channel)
        try:
            with trio.fail_after(HELLO_SECONDS_MAX):
                name, session = self._admit(channel, await channel.receive())
                capabilities = session.capabilities
                await channel.send(Welcome(version=PROTOCOL_VERSION, capabilities=capabilities))
                session.welcomed(name)
                if name is Channel.PRECOPY:
                    self._started.set()
                # A postcopy connection that is early keeps its slot, so that few can wait.
                await session.claimed.wait()
        except (MidstreamError, trio.TooSlowError) as error:
            reason = str(error) or f"no migration began in {HELLO_SECONDS_MAX:g} s"
            self._log(f"refused a connection from {address}: {reason}")
            self._forget(channel)
            await self._turn_away(channel, reason)
        finally:
            self._slots.release_on_behalf_of(slot)

    def _forget(self, channel: InChannel) -> None:
        """Make room again for a connection in the place of one that came to nothing."""
        for session in list(self._sessions.values()):
            if channel.name is not None and session.channels.get(channel.name) is channel:
                del session.channels[channel.name]
                if channel.name is Channel.PRECOPY:
                    self._active = None
                if not session.channels:
                    del self._sessions[session.session_id]

    async def _turn_away(self, channel: InChannel, reason: str) -> None:
        with trio.move_on_after(1), suppress(MidstreamError):
            await channel.send(Abort(reason=reason))
        channel.close()
        self._open.discard(channel)

    def _admit(self, channel: InChannel, hello: Message) -> tuple[Channel, Session | Attempt]:
        """Check a hello and put the connection where it belongs; return its role and session.

        Raises:
            RemoteProtocolError: Not a hello that fits what is going on.
        """
        if not isinstance(hello, (Hello, Resume)):
            raise RemoteProtocolError("the first message is no hello")
        if hello.version != PROTOCOL_VERSION:
            raise RemoteProtocolError(
                f"protocol version {hello.version} is not version {PROTOCOL_VERSION}"
            )
        if isinstance(hello, Resume):
            if self._resumes is None:
                raise RemoteProtocolError("no migration is under way here that could be resumed")
            return self._resumes.admit(channel, hello)
        if hello.role not in {name.value for name in Channel}:
            raise RemoteProtocolError(f"unknown role {hello.role[:40]!r}")
        if self._active is not None and self._active.session_id != hello.session:
            raise RemoteProtocolError("a migration is under way here already")
        capabilities = in_force(hello.capabilities)
        session = self._sessions.setdefault(
            hello.session, Session(hello.session, capabilities=capabilities)
        )
        name = Channel(hello.role)
        if name in session.channels:
            raise RemoteProtocolError(f"the session has a {hello.role} connection already")
        session.channels[name] = channel
        channel.name = name
        if name is Channel.PRECOPY:
            self._active = session
        return name, session


@asynccontextmanager
async def open_listener(
    host: str, port: int, log: Log, silence_seconds_max: float = 10.0
) -> AsyncIterator[Listener]:
    """Listen; everything is closed when the block is left.

    Args:
        host: A name or address.
        port: A TCP port; 0 picks one.
        log: Takes a line about each connection that is refused.
        silence_seconds_max: How long what is sent may go without being acknowledged.

    Raises:
        MigrationError: The address cannot be listened on.
    """
    try:
        (listener, *more) = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise MigrationError(
            f"cannot listen on {host}:{port}: {error.strerror or error}"
        ) from error
    for other in more:
        other.socket.close()
    result = Listener(listener.socket, log, silence_seconds_max)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(result.run)
            yield result
            nursery.cancel_scope.cancel()
    finally:
        result.close()
