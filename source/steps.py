"""What a phase of a migration wants done next; its user does it, and goes on with what came of it.

A phase is a generator, and pure: it yields one step after the other, is sent what came of each, or
thrown what went wrong, and returns what it came to.  So it reads like the sequence diagrams of
`protocol/README.md`, and whatever can happen meanwhile happens at a `yield`.  Time comes with what
happened: its user sets the `Now` of a migration before each time that a phase goes on.

    received = yield Do.HEAR                    # wait, for as long as it takes
    late = yield Within(Do.HEAR, seconds)       # LATE if that was not enough
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from protocol.channels import Channel
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.messages import Message
from protocol.pageset import PageSet
from protocol.report import AccountRecord

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass
class Now:
    """The time of what happened last, in nanoseconds of the user's clock."""

    ns: int = 0

    @property
    def seconds(self) -> float:
        """The same in seconds."""
        return self.ns / 1e9


class Do(Enum):
    """A step that needs no more words; what comes of it stands behind each."""

    HEAR = "wait for the next message that was not handed on"  # Received
    STOP_GUEST = "stop the guest"  # its device state, encoded
    RUN_GUEST = "let the guest run here again"
    START_LOG = "forget what the guest has written to so far"
    HARVEST = "ask what it has written to since"  # flat target pages
    STOP_LOG = "leave the guest's writes alone"
    KEEP_LITTLE = "bound what the precopy connection holds unsent, for postcopy"
    KEEP_ALIVE = "give signs of life from now on, and take a silent destination for dead"
    LOOK_OUT = "wait for the user to name another address"
    READ_ON = "read on for a moment why the destination ended it"  # PeerAborted or None


class Say(NamedTuple):
    """Send a whole message over a channel, behind what is under way there."""

    message: Message
    payload: bytes | memoryview = b""
    channel: Channel = Channel.PRECOPY


class Drain(NamedTuple):
    """Send what the scheduler has, until it has no more.

    Attributes:
        until: Asked with the time before each frame of the background: true to leave the rest.
    """

    until: Callable[[int], bool] | None = None


class Compare(NamedTuple):
    """Compare the guest's memory with the destination's account; a `Comparison` comes of it."""

    account: bytes


@dataclass(frozen=True)
class Accessed:
    """What vCPUs have touched from the switch-over on.

    Attributes:
        pages: The target pages.
        is_whole: They are all; else the vCPUs have made more steps than were looked at.
    """

    pages: PageSet
    is_whole: bool


@dataclass(frozen=True)
class Comparison:
    """What the comparison of both memories came to.

    Attributes:
        account: The destination's account.
        equal: Every digest is equal.
        detail: Where they differ, for a person; empty if nowhere.
        image: Of a guest with an image, what it has changed, for the report; None for others.
        accessed: What its vCPUs have touched; None where nobody wants to know, or can.
    """

    account: AccountRecord
    equal: bool
    detail: str
    image: dict[str, Any] | None = None
    accessed: Accessed | None = None


class Report(NamedTuple):
    """Put this side's part of the report together, with a `Comparison`; a `SourcePart` it is."""

    comparison: Comparison


class Attempt(NamedTuple):
    """Try to resume the session at an address; why nothing came of it is what comes of it.

    Attributes:
        host: Of the address.
        port: Likewise.
        number: Which attempt of the session it is.
        seconds: How long whoever is found there may take until he is no stranger.
    """

    host: str
    port: int
    number: int
    seconds: float


class Farewell(NamedTuple):
    """Tell the destination that this ends, behind the frame under way, while that has its time.

    Attributes:
        reason: Why.
        cancelled: Its user wants it.
        anew: Over new connections, if there can be any at once.
    """

    reason: str
    cancelled: bool = False
    anew: bool = False


class Within(NamedTuple):
    """Give a step so many seconds; `LATE` comes of it where they are not enough."""

    step: Do | Say | Drain | Compare
    seconds: float


Step: TypeAlias = Do | Say | Drain | Compare | Report | Attempt | Farewell | Within
# A phase that comes to a T.
Steps: TypeAlias = Generator[Step, Any, T]


class Late(Enum):
    """What comes of a step that was not done in time."""

    LATE = "late"


LATE = Late.LATE


@dataclass(frozen=True)
class Received(Generic[M]):
    """A message, its payload, and when it came (nanoseconds, the user's clock)."""

    message: M
    payload: bytes
    at_ns: int


def expect(
    message_type: type[M], seconds_max: float, late: Callable[[], Exception] | None = None
) -> Steps[Received[M]]:
    """Hear the next message, which must be of that type.

    Args:
        message_type: That.
        seconds_max: How long it may take.
        late: Returns what to raise when it takes longer; None for a lost connection.

    Raises:
        RemoteProtocolError: It is another.
        ConnectionLost: Nothing came in time.
    """
    received = yield Within(Do.HEAR, seconds_max)
    name = message_type.__name__
    if received is LATE:
        lost = ConnectionLost(f"the destination sent no {name} for {seconds_max:g} s")
        raise lost if late is None else late()
    message = received.message
    if not isinstance(message, message_type):
        raise RemoteProtocolError(f"{type(message).__name__} came where {name} was due")
    return Received(message, received.payload, received.at_ns)
