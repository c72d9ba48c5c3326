"""Accepts connections and pairs them by session; a stranger costs a place for seconds, no more.

A connection first proves what is demanded (`greeting`).  Either connection of a migration may
arrive first.  The precopy one makes a session; a postcopy one that is early waits for it, not for
long.  A connection that does not prove itself or say hello in time, or says something else, is told
why, closed and forgotten; when many are on their way, the silent ones give way to those that come.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from dest.channel import InChannel
from dest.greeting import Newcomer, prove
from dest.listening import Listening, Log, accepting
from dest.resumes import Attempt, Resumes
from guest.streams.exchange import patience, receive_into
from guest.streams.network import TCP, Arrival, Door, Network
from guest.streams.stream import Stream
from protocol.addresses import host_port
from protocol.capabilities import in_force
from protocol.channels import Channel
from protocol.credentials import NOTHING, Credentials
from protocol.errors import ConnectionLost, MidstreamError, MigrationError, RemoteProtocolError
from protocol.limits import HELLO_SECONDS_MAX, PROOF_SECONDS_MAX
from protocol.messages import PROTOCOL_VERSION, Abort, Hello, Message, Resume, Welcome

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


class Listener(Listening):
    """Listens for midstream's connections; made by `open_listener`."""

    def __init__(
        self,
        doors: Sequence[Door],
        log: Log,
        credentials: Credentials = NOTHING,
    ) -> None:
        """Take doors, at least one."""
        super().__init__(doors, log, self._greet, _linger)
        self._credentials = credentials
        self._resumes: Resumes | None = None
        self._sessions: dict[bytes, Session] = {}
        self._active: Session | None = None
        self._started = trio.Event()

    async def accept_session(self) -> Session:
        """Wait for a precopy connection; its session is from then on the only one."""
        await self._started.wait()
        assert self._active is not None
        return self._active

    def take_resumes(self, resumes: Resumes) -> None:
        """Have connections that resume a session gathered from now on."""
        self._resumes = resumes

    async def _greet(self, arrival: Arrival, scope: trio.CancelScope) -> None:
        """Have a connection prove what is demanded, hear its hello, and let it wait for its twin.

        Raises:
            MidstreamError: Nothing came of it, and it has been told.
        """
        with patience(PROOF_SECONDS_MAX, "it has not proved itself", ConnectionLost):
            newcomer = await prove(arrival.stream, self._credentials)
        if self._credentials.demanding:
            self.newcomers.make_known(scope)
        channel = newcomer.channel
        try:
            with patience(HELLO_SECONDS_MAX, "no migration began", ConnectionLost):
                name, session = self._admit(newcomer, await channel.receive())
                self.newcomers.make_known(scope)
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
    network: Network = TCP,
) -> AsyncIterator[Listener]:
    """Listen on all addresses of a name; everything is closed when the block is left.

    Args:
        host: A name or address; `::` is every address of this machine, of IPv4 too.
        port: A TCP port; 0 picks one that is free at all addresses.
        log: Takes a line about each connection that is refused, and about further addresses.
        credentials: What a connection has to prove.
        network: Where it listens.

    Raises:
        MigrationError: The address cannot be listened on, or only with credentials.
    """
    doors = await network.listen(host, port, log, loopback_only=not credentials.demanding)
    if doors is None:
        raise MigrationError(
            f"{host_port(host, port)} is not on loopback: listening there needs --secret-file, or "
            "--tls-cert, --tls-key and --tls-ca, so that nobody uninvited migrates to it"
        )
    async with accepting(Listener(doors, log, credentials)) as listener:
        yield listener


async def _linger(stream: Stream) -> None:
    """Let what was said arrive: to close a connection with unread bytes would throw it away."""
    dropped = memoryview(bytearray(_DROPPED_BYTES))
    with trio.move_on_after(_LINGER_SECONDS_MAX), suppress(OSError):
        stream.end_writing()
        while await receive_into(stream, [dropped]):
            pass
