"""Messages that open and end a session: who is there, what migrates, who has the guest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from protocol.fields import Blocks, Count, Line, Message, Names, SessionId
from protocol.limits import (
    CLOSING_BYTES_MAX,
    DEVICE_STATE_BYTES_MAX,
    GUEST_SPEC_BYTES_MAX,
    REPORT_BYTES_MAX,
)

# What both sides can do beyond the base protocol: Hello offers, Welcome says what is in force.
# A break after the switch-over was announced pauses the session, and it can be resumed.
RECOVER = "recover"
# Both sides say that they are alive, and take a silent peer for dead.
KEEPALIVE = "keepalive"
# A Checksum goes before each frame that carries pages, and what comes changed goes again.
CHECKSUM = "checksum"
# The source tells of each page request how it was answered and what became of it.
ANSWERS = "answers"

OURS = (RECOVER, KEEPALIVE, CHECKSUM, ANSWERS)
# What is offered only where a user wants it.
_WANTED = frozenset({CHECKSUM})


def offer(*wanted: str) -> tuple[str, ...]:
    """Return what a Hello offers: all that this side has, and a checksum only if it is wanted."""
    return tuple(name for name in OURS if name in wanted or name not in _WANTED)


def in_force(offered: Iterable[str]) -> tuple[str, ...]:
    """Return what of a peer's capabilities this side has too, in an order of its own."""
    theirs = frozenset(offered)
    return tuple(name for name in OURS if name in theirs)


class Hello(Message, frozen=True, kw_only=True, tag=1):
    """Opens each connection, source to destination: which session, which role in it.

    Attributes:
        version: The sender's `PROTOCOL_VERSION`.
        session: 16 random bytes that pair the connections of one migration.
        role: "precopy" or "postcopy".
        capabilities: What the source can do beyond the base protocol.
    """

    version: Count
    session: SessionId
    role: Line
    capabilities: Names = ()


class Welcome(Message, frozen=True, kw_only=True, tag=2):
    """Answers a Hello: the connection is accepted, with these capabilities in force."""

    version: Count
    capabilities: Names = ()


class Abort(Message, frozen=True, kw_only=True, tag=3):
    """Ends the session from either side; the last message on the connection.

    Attributes:
        reason: One line for the peer's user; of any other text its `one_line` is sent.
        cancelled: The sender's user wanted it, nothing went wrong.
    """

    reason: Line
    cancelled: bool = False


class Setup(Message, frozen=True, kw_only=True, tag=4):
    """Announces what migrates and how; the payload is the guest's specification.

    Attributes:
        blocks: (name, length in bytes, page size in bytes) of each RAMBlock.
        policy: The name of the source's policy, for people.
        chunk_bytes: The most that one PageData carries.
        switches: What the policy does, see `protocol.policy`.
    """

    payload_bytes_max: ClassVar[int] = GUEST_SPEC_BYTES_MAX
    blocks: Blocks
    policy: Line
    chunk_bytes: Count
    switches: Names


class Ready(Message, frozen=True, kw_only=True, tag=5):
    """The destination has the memory and the vCPUs of a Setup; pages may come."""


class Ping(Message, frozen=True, kw_only=True, tag=20):
    """Says that the sender is alive, where it has had nothing else to say for a while."""


class Resume(Message, frozen=True, kw_only=True, tag=23):
    """Opens each connection of a session that is broken, in the place of a Hello.

    Attributes:
        version: The sender's `PROTOCOL_VERSION`.
        session: The session's 16 bytes.
        role: "precopy" or "postcopy".
        attempt: Which attempt to resume this is, from 1; a later one replaces an earlier one.
    """

    version: Count
    session: SessionId
    role: Line
    attempt: Count


class SwitchOverAhead(Message, frozen=True, kw_only=True, tag=21):
    """The switch-over comes next: from here on the destination may not forget the session."""


class SwitchOverAck(Message, frozen=True, kw_only=True, tag=22):
    """The destination keeps what it has through a break, and waits for the source to come back.

    Attributes:
        clock_ns: What the destination's monotonic clock shows; 0 if it does not say.
    """

    clock_ns: Count = 0


class SwitchOver(Message, frozen=True, kw_only=True, tag=11):
    """The guest stands still; the payload is its device state; now it is the destination's.

    Attributes:
        postcopy: Discarded pages follow while the guest runs; otherwise there are none.
    """

    payload_bytes_max: ClassVar[int] = DEVICE_STATE_BYTES_MAX
    postcopy: bool


class Running(Message, frozen=True, kw_only=True, tag=12):
    """The guest runs on the destination: the downtime is over.

    Attributes:
        run_ns: Since when, by the destination's monotonic clock; 0 if it does not say.
    """

    run_ns: Count = 0


class End(Message, frozen=True, kw_only=True, tag=14):
    """The last frame with pages on a channel, with what went over it since it was opened.

    Attributes:
        target_pages: Target pages sent, each time one was sent.
        data_bytes: Page bytes sent; zero stretches count nothing.
    """

    target_pages: Count
    data_bytes: Count


class Finished(Message, frozen=True, kw_only=True, tag=15):
    """Every page is placed; the counts are the destination's own.

    Attributes:
        pages: Pages of all blocks, all of them placed.
        target_pages: Target pages received over all open channels, each time one came.
        data_bytes: Page bytes received over all open channels.
    """

    pages: Count
    target_pages: Count
    data_bytes: Count


class Account(Message, frozen=True, kw_only=True, tag=16):
    """The destination's closing account as payload: final states, digests, statistics."""

    payload_bytes_max: ClassVar[int] = CLOSING_BYTES_MAX


class Verdict(Message, frozen=True, kw_only=True, tag=17):
    """The source's comparison of the account with what must be there, its report as payload.

    Attributes:
        equal: Every digest is what the guest's program makes it.
        detail: Where the memory differs, for a person; empty when equal.
    """

    payload_bytes_max: ClassVar[int] = REPORT_BYTES_MAX
    equal: bool
    detail: Line = ""


class Bye(Message, frozen=True, kw_only=True, tag=18):
    """The destination has the verdict: the session is complete, both sides may close."""
