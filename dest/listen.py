"""Accepts connections and pairs them by session; a stranger costs a place for seconds, no more.

A connection first proves what is demanded (`greeting`).  Either connection of a migration may
arrive first.  The precopy one makes a session; a postcopy one that is early waits for it, not for
long.  A connection that does not prove itself or say hello in time, or says something else, is told
why, closed and forgotten; when many are on their way, the silent ones give way to those that come.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from dest.binding import accept, address_text, host_text, is_loopback, listen_on, places_of
from dest.channel import InChannel
from dest.greeting import Newcomer, prove
from dest.pending import Complaints, Newcomers
from dest.resumes import Attempt, Resumes
from guest.streams.exchange import patience
from guest.streams.tcp import TcpStream
from protocol.addresses import host_port
from protocol.capabilities import in_force
from protocol.channels import Channel
from protocol.credentials import NOTHING, Credentials
from protocol.errors import ConnectionLost, MidstreamError, MigrationError, RemoteProtocolError
from protocol.limits import HELLO_CONNECTIONS_MAX, HELLO_SECONDS_MAX, PROOF_SECONDS_MAX
from protocol.messages import PROTOCOL_VERSION, Abort, Hello, Message, Resume, Welcome

Log = Callable[[str], None]

# How long a connection that is turned away has to take the reason, and what is read of it at once.
_LINGER_SECONDS_MAX = 1.0
_DROPPED_BYTES = 256


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

    def left(self, name: Channel) -> None:
        """Say that a connection is gone before anything began."""
        del self.channels[name]
        self._welcomed.discard(name)


class Listener:
    """Listening sockets and the connections that they bring; made by `open_listener`.

    Attributes:
        address: Of the first, as HOST:PORT.
    """

    def __init__(
        self,
        socks: Sequence[trio.socket.SocketType],
        log: Log,
        credentials: Credentials = NOTHING,
        silence_seconds_max: float = 10.0,
    ) -> None:
        """Take sockets that listen, at least one."""
        self.address = address_text(socks[0].getsockname())
        self._socks = socks
        self._complaints = Complaints(log)
        self._credentials = credentials
        self._newcomers = Newcomers[trio.CancelScope](HELLO_CONNECTIONS_MAX)
        self._silence_ms_max = int(silence_seconds_max * 1000)
        self._resumes: Resumes | None = None
        self._sessions: dict[bytes, Session] = {}
        self._active: Session | None = None
        self._started = trio.Event()
        self._open: set[trio.socket.SocketType] = set()

    async def run(self) -> None:
        """Accept until cancelled."""
        async with trio.open_nursery() as nursery:
            for sock in self._socks:
                nursery.start_soon(self._accept, sock, nursery)

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
        for sock in (*self._socks, *self._open):
            sock.close()

    async def _accept(self, listening: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            sock, name = await accept(listening, self._complain)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # What was sent and not acknowledged for so long never will be.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._silence_ms_max)
            self._open.add(sock)
            scope = trio.CancelScope()
            loser = self._newcomers.enter(scope, host_text(name))
            if loser is not None:
                loser.cancel()
            nursery.start_soon(self._receive, sock, address_text(name), scope)

    async def _receive(
        self, sock: trio.socket.SocketType, address: str, scope: trio.CancelScope
    ) -> None:
        """See a connection through to its session, or turn it away."""
        refused = False
        with scope:
            try:
                await self._greet(sock, scope)
            except MidstreamError as error:
                refused = True
                self._complain(f"refused a connection from {address}: {error}")
                await _linger(sock)
                self._close(sock)
            finally:
                self._newcomers.leave(scope)
        if scope.cancelled_caught:
            if not refused:
                self._complain(f"gave up a connection from {address}, too many came after it")
            self._close(sock)

    async def _greet(self, sock: trio.socket.SocketType, scope: trio.CancelScope) -> None:
        """Have a connection prove what is demanded, hear its hello, and let it wait for its twin.

        Raises:
            MidstreamError: Nothing came of it, and it has been told.
        """
        with patience(PROOF_SECONDS_MAX, "it has not proved itself", ConnectionLost):
            newcomer = await prove(TcpStream(sock), self._credentials)
        if self._credentials.demanding:
            self._newcomers.make_known(scope)
        channel = newcomer.channel
        try:
            with patience(HELLO_SECONDS_MAX, "no migration began", ConnectionLost):
                name, session = self._admit(newcomer, await channel.receive())
                self._newcomers.make_known(scope)
                capabilities = session.capabilities
                await channel.send(Welcome(version=PROTOCOL_VERSION, capabilities=capabilities))
                session.welcomed(name)
                if name is Channel.PRECOPY:
                    self._started.set()
                # A postcopy connection that is early keeps its place, so that few can wait.
                elif not session.claimed.is_set():
                    await session.claimed.wait()
        except BaseException as error:
            self._forget(channel)
            if isinstance(error, MidstreamError):
                with trio.move_on_after(1), suppress(MidstreamError):
                    await channel.send(Abort(reason=str(error)))
            raise

    def _forget(self, channel: InChannel) -> None:
        """Make room again for a connection in the place of one that came to nothing."""
        for session in list(self._sessions.values()):
            if channel.name is not None and session.channels.get(channel.name) is channel:
                session.left(channel.name)
                if channel.name is Channel.PRECOPY:
                    self._active = None
                if not session.channels:
                    del self._sessions[session.session_id]

    def _complain(self, line: str) -> None:
        self._complaints.say(line, trio.current_time())

    def _close(self, sock: trio.socket.SocketType) -> None:
        sock.close()
        self._open.discard(sock)

    def _admit(self, newcomer: Newcomer, hello: Message) -> tuple[Channel, Session | Attempt]:
        """Check a hello and put the connection where it belongs; return its role and session.

        Raises:
            RemoteProtocolError: Not a hello that fits what is going on.
        """
        if not isinstance(hello, (Hello, Resume)):
            raise RemoteProtocolError("the first message is no hello")
        newcomer.check(hello)
        if hello.version != PROTOCOL_VERSION:
            raise RemoteProtocolError(
                f"protocol version {hello.version} is not version {PROTOCOL_VERSION}"
            )
        if isinstance(hello, Resume):
            if self._resumes is None:
                raise RemoteProtocolError("no migration is under way here that could be resumed")
            return self._resumes.admit(newcomer.channel, hello)
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
        session.channels[name] = newcomer.channel
        newcomer.channel.name = name
        if name is Channel.PRECOPY:
            self._active = session
        return name, session


@asynccontextmanager
async def open_listener(
    host: str,
    port: int,
    log: Log,
    credentials: Credentials = NOTHING,
    silence_seconds_max: float = 10.0,
) -> AsyncIterator[Listener]:
    """Listen on all addresses of a name; everything is closed when the block is left.

    Args:
        host: A name or address; `::` is every address of this machine, of IPv4 too.
        port: A TCP port; 0 picks one that is free at all addresses.
        log: Takes a line about each connection that is refused, and about further addresses.
        credentials: What a connection has to prove.
        silence_seconds_max: How long what is sent may go without being acknowledged.

    Raises:
        MigrationError: The address cannot be listened on, or only with credentials.
    """
    places = await places_of(host, port)
    typed = host_port(host, port)
    if not (credentials.demanding or all(is_loopback(place.name) for place in places)):
        raise MigrationError(
            f"{typed} is not on loopback: listening there needs --secret-file, or --tls-cert, "
            "--tls-key and --tls-ca, so that nobody uninvited migrates to it"
        )
    result = Listener(listen_on(places, typed, log), log, credentials, silence_seconds_max)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(result.run)
            yield result
            nursery.cancel_scope.cancel()
    finally:
        result.close()


async def _linger(sock: trio.socket.SocketType) -> None:
    """Let what was said arrive: to close a connection with unread bytes would throw it away."""
    with trio.move_on_after(_LINGER_SECONDS_MAX), suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while await sock.recv(_DROPPED_BYTES):
            pass
