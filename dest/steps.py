"""Commands of the engines: what there is to do, and what a peer can do of it.  Pure.

With bytes and vCPUs `dest.engine` says it, and `dest.executor` does it; from one phase to the next
`dest.phases` says which step comes, and `dest.migration` does it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from protocol.channels import Channel
from protocol.geometry import Span
from protocol.messages import Message
from protocol.pageset import PageSet
from protocol.report import DestPart


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Terms of a peer: what it can do, and has agreed to.

    Attributes:
        peer: Who it is, for people.
        ending: The channels on which it says that all was sent.
        recovers: It comes back after a break.
        gives_verdict: It compares the memories in the end, and says how they do.
        rest_seconds: How long what is missing when it has said so may be on its way yet, over a
            channel that is not among those.
        linger_seconds: How long it is given to close first, once it has the last word.
    """

    peer: str
    ending: tuple[Channel, ...]
    recovers: bool
    gives_verdict: bool
    rest_seconds: float
    linger_seconds: float


class Place(NamedTuple):
    """To do: let vCPUs touch bytes that are all in memory.  Call `placed` next, then `completed`.

    Attributes:
        span: Which bytes; whole units.
        channel: Over which channel the last of them came; None for those that a break left.
        goes_on: More of the same frame is to be placed, so its page is not whole before.
    """

    span: Span
    channel: Channel | None
    goes_on: bool = False


class Release(NamedTuple):
    """To do: wake a vCPU that waits for the beginning of a span which was placed before."""

    vcpu: int
    span: Span


class Say(NamedTuple):
    """Say a word to the peer; one that it knows nothing of is none."""

    word: Message
    payload: bytes = b""


class Discard(NamedTuple):
    """Make vCPUs fault on what is stale from now on, at once and without a wait in between."""


class TakeOver(NamedTuple):
    """Run the guest here, whatever happens meanwhile; answered with the time of that, in ns.

    Attributes:
        device_state: What its vCPUs begin with, as the guest takes it.
    """

    device_state: Any


class Receive(NamedTuple):
    """Receive until channels have ended, and for a while until nothing is missing.

    Attributes:
        ending: Which channels.
        rest_seconds: For how long after that, at most.
    """

    ending: tuple[Channel, ...]
    rest_seconds: float


class Stop(NamedTuple):
    """Bring the guest to a stand for good; answered with what is `Stood`.

    Attributes:
        accounted: The peer wants an account of the memory.
    """

    accounted: bool


class Stood(NamedTuple):
    """A guest that stands for good.

    Attributes:
        part: This side's part of the report.
        account: What the peer is told of the memory; empty where it does not want to know.
    """

    part: DestPart
    account: bytes


class HearVerdict(NamedTuple):
    """Give the peer an account, and hear how the memories compare, in so many seconds.

    Answered with the verdict and the source's part of the report.
    """

    account: bytes
    seconds: float


class Keep(NamedTuple):
    """Save the guest, if its user wants that."""


class Leave(NamedTuple):
    """Wait for the peer to close, for so many seconds; answered with whether all was in order."""

    seconds: float


class Forget(NamedTuple):
    """Count what is half-received as missing: no more of it will come."""


class SaveRest(NamedTuple):
    """Save what is here of a guest that has no future, if its user wants that.

    Answered with what came of it in words, empty if nobody wanted it.

    Attributes:
        missing: What is not here.
        is_hurried: The user wants the end: a pipe that nobody reads is not waited for.
    """

    missing: PageSet
    is_hurried: bool


Step: TypeAlias = (
    Say | Discard | TakeOver | Receive | Stop | HearVerdict | Keep | Leave | Forget | SaveRest
)
Steps: TypeAlias = Generator[Step, Any, None]
