"""Lets midstream's connections in and pairs them; a stranger costs a place for seconds, no more.

A connection first proves what is demanded (`greeting`).  Either connection of a migration may
arrive first.  The precopy one makes a session; a postcopy one that is early waits for it, not for
long.  A connection that does not prove itself or say hello in time, or says something else, is told
why, closed and forgotten; when many are on their way, the silent ones give way to those that come.

With others a source comes back to a session that broke: each attempt of it is a set of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from dest.channel import InChannel
from dest.greeting import Newcomer, prove
from guest.streams.exchange import patience, receive_into
from guest.streams.network import Arrival
from guest.streams.stream import Stream
from protocol.channels import Channel
from protocol.credentials import NOTHING, Credentials
from protocol.errors import ConnectionLost, MidstreamError, RemoteProtocolError
from protocol.limits import HELLO_SECONDS_MAX, PROOF_SECONDS_MAX
from protocol.messages import PROTOCOL_VERSION, Abort, Hello, Message, Resume, Welcome
from protocol.session_messages import in_force

# How long a connection that is turned away has to take the reason, and what is read of it at once.
_LINGER_SECONDS_MAX = 1.0
_DROPPED_BYTES = 256

_NEEDS = (
    "--secret-file, or --tls-cert, --tls-key and --tls-ca, so that nobody uninvited migrates to it"
)


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


@dataclass(kw_only=True)
class Attempt(Session):
    """The connections of one attempt to resume a session; none waits for the other.

    Attributes:
        number: As the source counts.
        resumes: Told when all are there.
    """

    number: int
    resumes: Resumes

    def __post_init__(self) -> None:
        """Release whoever waits for the precopy connection."""
        self.claimed.set()

    def welcomed(self, name: Channel) -> None:  # type: ignore[explicit-override]
        """Say that a connection has its Welcome."""
        self._welcomed.add(name)
        if self._welcomed == self.resumes.wanted:
            self.resumes.complete(self)


class Resumes:
    """The attempts to resume one session; the newest counts, whatever became of those before."""

    def __init__(
        self, session_id: bytes, wanted: Iterable[Channel], capabilities: tuple[str, ...]
    ) -> None:
        """Begin with no attempt.

        Args:
            session_id: Whose.
            wanted: The connections that make an attempt whole.
            capabilities: What is in force, and stays so.
        """
        self.session_id = session_id
        self.wanted = set(wanted)
        self._capabilities = capabilities
        self._newest: Attempt | None = None
        self._whole: Attempt | None = None
        self._taken: Attempt | None = None
        self._changed = trio.Event()

    def admit(self, channel: InChannel, message: Resume) -> tuple[Channel, Attempt]:
        """Put a connection where it belongs; return its role and its attempt.

        Raises:
            RemoteProtocolError: It fits nowhere.
        """
        if message.session != self.session_id:
            raise RemoteProtocolError("another session is under way here")
        name = next((each for each in self.wanted if each.value == message.role), None)
        if name is None:
            raise RemoteProtocolError(f"unknown role {message.role[:40]!r}")
        attempt = self._attempt(message.attempt)
        if name in attempt.channels:
            raise RemoteProtocolError(f"the attempt has a {message.role} connection already")
        attempt.channels[name] = channel
        channel.name = name
        return name, attempt

    def complete(self, attempt: Attempt) -> None:
        """Say that an attempt has all its connections."""
        if attempt is self._newest:
            self._whole = attempt
            self._changed.set()

    async def wait(self) -> None:
        """Wait until an attempt is whole; `take` gives it out."""
        while self._whole is None:
            await self._changed.wait()
            self._changed = trio.Event()

    async def take(self) -> Mapping[Channel, InChannel]:
        """Return the connections of the newest attempt, when it is whole."""
        await self.wait()
        assert self._whole is not None
        self._taken, self._whole = self._whole, None
        return self._taken.channels

    def _attempt(self, number: int) -> Attempt:
        newest = self._newest
        if newest is None or number > newest.number:
            if newest is not None and newest is not self._taken:
                for channel in newest.channels.values():
                    channel.close()
            self._whole = None
            self._newest = newest = Attempt(
                self.session_id, capabilities=self._capabilities, number=number, resumes=self
            )
        elif number < newest.number:
            raise RemoteProtocolError(f"attempt {number} is over, {newest.number} has begun")
        return newest


class SessionAdmission:
    """Lets one session in, and its attempts to resume.

    Attributes:
        needs: See `dest.listening`.
    """

    def __init__(self, credentials: Credentials = NOTHING) -> None:
        """Start without a session.

        Args:
            credentials: What a connection has to prove.
        """
        self.needs = "" if credentials.demanding else _NEEDS
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
        """Gather connections that resume a session from now on."""
        self._resumes = resumes

    async def welcome(self, arrival: Arrival, make_known: Callable[[], None]) -> bool:
        """Demand proof of a connection, hear its hello, and let it wait for its twin.

        Raises:
            MidstreamError: Nothing came of it, and it has been told.
        """
        with patience(PROOF_SECONDS_MAX, "it has not proved itself", ConnectionLost):
            newcomer = await prove(arrival.stream, self._credentials)
        if self._credentials.demanding:
            make_known()
        channel = newcomer.channel
        try:
            with patience(HELLO_SECONDS_MAX, "no migration began", ConnectionLost):
                name, session = self._admit(newcomer, await channel.receive())
                make_known()
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
        return True

    async def turn_away(self, stream: Stream) -> None:
        """Let what was said arrive: to close a connection with unread bytes would throw it away."""
        dropped = memoryview(bytearray(_DROPPED_BYTES))
        with trio.move_on_after(_LINGER_SECONDS_MAX), suppress(OSError):
            stream.end_writing()
            while await receive_into(stream, [dropped]):
                pass

    def _forget(self, channel: InChannel) -> None:
        """Make room again for a connection in the place of one that came to nothing."""
        for session in list(self._sessions.values()):
            if channel.name is not None and session.channels.get(channel.name) is channel:
                session.left(channel.name)
                if channel.name is Channel.PRECOPY:
                    self._active = None
                if not session.channels:
                    del self._sessions[session.session_id]

    def _admit(self, newcomer: Newcomer, hello: Message) -> tuple[Channel, Session]:
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
