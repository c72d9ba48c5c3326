"""Every message, as a frozen dataclass: its fields, its kind number, its bounds.

A message travels as one frame (`protocol.wire`).  Page bytes, bitmaps and other bulk are not part
of the message: a message that has some says how long they are in `payload_bytes`, and the frame
carries them after the header.  `protocol/README.md` shows who sends what, when.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, get_type_hints

from protocol.fields import Digest, PackedRuns
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.limits import (
    CHUNK_BYTES_MAX,
    CLOSING_BYTES_MAX,
    DEVICE_STATE_BYTES_MAX,
    DISCARD_BYTES_MAX,
    GUEST_SPEC_BYTES_MAX,
    MISSING_MAP_BYTES_MAX,
    REPORT_BYTES_MAX,
)
from protocol.text import one_line

PROTOCOL_VERSION = 1


@dataclass(frozen=True)
class Message:
    """Base of all messages; `payload_bytes` is 0 for those that carry no bulk."""

    kind: ClassVar[int]
    payload_bytes_max: ClassVar[int] = 0
    payload_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Hello(Message):
    """Opens each connection, source to destination: which session, which role in it.

    Attributes:
        version: The sender's `PROTOCOL_VERSION`.
        session: 16 random bytes that pair the connections of one migration.
        role: "precopy" or "postcopy".
        capabilities: What the source can do beyond the base protocol.
    """

    kind: ClassVar[int] = 1
    version: int
    session: bytes
    role: str
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Welcome(Message):
    """Answers a Hello: the connection is accepted, with these capabilities in force."""

    kind: ClassVar[int] = 2
    version: int
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Abort(Message):
    """Ends the session from either side; the last message on the connection.

    Attributes:
        reason: One line for the peer's user; of any other text its `one_line` is taken.
        cancelled: The sender's user wanted it, nothing went wrong.
    """

    kind: ClassVar[int] = 3
    reason: str
    cancelled: bool = False

    def __post_init__(self) -> None:
        """Make a line of the reason: whatever ends a session, the peer can be told."""
        object.__setattr__(self, "reason", one_line(self.reason))


@dataclass(frozen=True, kw_only=True)
class Setup(Message):
    """What migrates and how; the payload is the guest's specification.

    Attributes:
        blocks: (name, length in bytes, page size in bytes) of each RAMBlock.
        policy: The name of the source's policy, see `protocol.policy`.
        chunk_bytes: The most that one PageData carries.
    """

    kind: ClassVar[int] = 4
    payload_bytes_max: ClassVar[int] = GUEST_SPEC_BYTES_MAX
    blocks: tuple[tuple[str, int, int], ...]
    policy: str
    chunk_bytes: int


@dataclass(frozen=True, kw_only=True)
class Ready(Message):
    """The destination has the memory and the vCPUs of a Setup; pages may come."""

    kind: ClassVar[int] = 5


@dataclass(frozen=True, kw_only=True)
class PageData(Message):
    """Bytes of guest memory, as the payload: one unbroken stretch.

    Attributes:
        block: Block index.
        offset: Where the bytes belong, in bytes from the block's start.
        urgent: A vCPU waits for the page.
        queue_us: For an urgent page, how long its request waited at the source.
        send_us: For an urgent page, how long ago its first urgent byte was handed to the socket.
    """

    kind: ClassVar[int] = 6
    payload_bytes_max: ClassVar[int] = CHUNK_BYTES_MAX
    block: int
    offset: int
    urgent: bool = False
    queue_us: int = 0
    send_us: int = 0


@dataclass(frozen=True, kw_only=True)
class ZeroData(Message):
    """A stretch of guest memory that is all zero; like PageData, without the bytes.

    Attributes:
        length: In bytes.
    """

    kind: ClassVar[int] = 7
    block: int
    offset: int
    length: int
    urgent: bool = False
    queue_us: int = 0
    send_us: int = 0


@dataclass(frozen=True, kw_only=True)
class PassEnd(Message):
    """All pages of a precopy pass are before this message."""

    kind: ClassVar[int] = 8
    index: int


@dataclass(frozen=True, kw_only=True)
class PassAck(Message):
    """The destination has received everything before that PassEnd."""

    kind: ClassVar[int] = 9
    index: int


@dataclass(frozen=True, kw_only=True)
class Discard(Message):
    """Target pages of which the destination's copy is stale; the payload is a bitmap.

    Bit i of the payload, least significant first, stands for target page `first + i`.

    Attributes:
        block: Block index.
        first: Target page index in the block of the first bit; a multiple of 8.
        count: How many target pages the bitmap covers.
    """

    kind: ClassVar[int] = 10
    payload_bytes_max: ClassVar[int] = DISCARD_BYTES_MAX
    block: int
    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class SwitchOver(Message):
    """The guest stands still; the payload is its device state; now it is the destination's.

    Attributes:
        postcopy: Discarded pages follow while the guest runs; otherwise there are none.
    """

    kind: ClassVar[int] = 11
    payload_bytes_max: ClassVar[int] = DEVICE_STATE_BYTES_MAX
    postcopy: bool


@dataclass(frozen=True, kw_only=True)
class Running(Message):
    """The guest runs on the destination: the downtime is over."""

    kind: ClassVar[int] = 12


@dataclass(frozen=True, kw_only=True)
class PageRequest(Message):
    """A vCPU of the destination waits for this page.

    Attributes:
        block: Block index.
        page: Page index in the block.
        target_page: Which target page in the page was touched, from 0.
    """

    kind: ClassVar[int] = 13
    block: int
    page: int
    target_page: int


@dataclass(frozen=True, kw_only=True)
class End(Message):
    """The last frame with pages on a channel, with what went over it since it was opened.

    Attributes:
        target_pages: Target pages sent, each time one was sent.
        data_bytes: Page bytes sent; zero stretches count nothing.
    """

    kind: ClassVar[int] = 14
    target_pages: int
    data_bytes: int


@dataclass(frozen=True, kw_only=True)
class Finished(Message):
    """Every page is placed; the counts are the destination's own.

    Attributes:
        pages: Pages of all blocks, all of them placed.
        target_pages: Target pages received over all open channels, each time one came.
        data_bytes: Page bytes received over all open channels.
    """

    kind: ClassVar[int] = 15
    pages: int
    target_pages: int
    data_bytes: int


@dataclass(frozen=True, kw_only=True)
class Account(Message):
    """The destination's closing account as payload: final states, digests, statistics."""

    kind: ClassVar[int] = 16
    payload_bytes_max: ClassVar[int] = CLOSING_BYTES_MAX


@dataclass(frozen=True, kw_only=True)
class Verdict(Message):
    """The source's comparison of the account with what must be there, its report as payload.

    Attributes:
        equal: Every digest is what the guest's program makes it.
        detail: Where the memory differs, for a person; empty when equal.
    """

    kind: ClassVar[int] = 17
    payload_bytes_max: ClassVar[int] = REPORT_BYTES_MAX
    equal: bool
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Bye(Message):
    """The destination has the verdict: the session is complete, both sides may close."""

    kind: ClassVar[int] = 18


@dataclass(frozen=True, kw_only=True)
class RunData(Message):
    """Scattered stretches of one block; the payload is the bytes of those that are not zero.

    They lie back to back in it, in the order of the runs.

    Attributes:
        block: Block index.
        offset: Where the first run begins, in bytes from the block's start.
        runs: The runs, see `protocol.runs`.
        urgent, queue_us, send_us: As in PageData.
    """

    kind: ClassVar[int] = 19
    payload_bytes_max: ClassVar[int] = CHUNK_BYTES_MAX
    block: int
    offset: int
    runs: PackedRuns
    urgent: bool = False
    queue_us: int = 0
    send_us: int = 0


@dataclass(frozen=True, kw_only=True)
class Ping(Message):
    """Says that the sender is alive, where it has had nothing else to say for a while."""

    kind: ClassVar[int] = 20


@dataclass(frozen=True, kw_only=True)
class SwitchOverAhead(Message):
    """The switch-over comes next: from here on the destination may not forget the session."""

    kind: ClassVar[int] = 21


@dataclass(frozen=True, kw_only=True)
class SwitchOverAck(Message):
    """The destination keeps what it has through a break, and waits for the source to come back."""

    kind: ClassVar[int] = 22


@dataclass(frozen=True, kw_only=True)
class Resume(Message):
    """Opens each connection of a session that is broken, in the place of a Hello.

    Attributes:
        version: The sender's `PROTOCOL_VERSION`.
        session: The session's 16 bytes.
        role: "precopy" or "postcopy".
        attempt: Which attempt to resume this is, from 1; a later one replaces an earlier one.
    """

    kind: ClassVar[int] = 23
    version: int
    session: bytes
    role: str
    attempt: int


@dataclass(frozen=True, kw_only=True)
class MissingMap(Message):
    """Target pages that the destination has not received; the payload is a deflated bitmap.

    As in Discard, bit i stands for target page `first + i`.  All that no map names has been
    received.

    Attributes:
        block: Block index.
        first: Target page index in the block of the first bit; a multiple of 8.
        count: How many target pages the bitmap covers.
    """

    kind: ClassVar[int] = 24
    payload_bytes_max: ClassVar[int] = MISSING_MAP_BYTES_MAX
    block: int
    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Standing(Message):
    """Where the destination stands after a break; the maps of what is missing are before it.

    Attributes:
        running: It has the whole SwitchOver and runs the guest; if not, nothing before counts.
        target_pages: How many target pages all maps name together.
        dropped_bytes: Bytes that came, since the session began, and that a break made worthless;
            they come again.
    """

    kind: ClassVar[int] = 25
    running: bool
    target_pages: int
    dropped_bytes: int


@dataclass(frozen=True, kw_only=True)
class Checksum(Message):
    """What the frame that comes next must be: before each that carries pages, where both agreed.

    Attributes:
        head: Of its head, as `protocol.checksums` takes it.
        body: Of its payload.
    """

    kind: ClassVar[int] = 26
    head: Digest
    body: Digest


@dataclass(frozen=True, kw_only=True)
class Resend(Message):
    """Bytes of pages came changed: they count as not received.

    Attributes:
        block: Block index.
        offset: Where the first run begins, in bytes from the block's start.
        runs: Which target pages, see `protocol.runs`; no run is zero.
    """

    kind: ClassVar[int] = 27
    block: int
    offset: int
    runs: PackedRuns


@dataclass(frozen=True, kw_only=True)
class HeldPart(Message):
    """Of a missing target page that a break left half-received, what is here.

    Attributes:
        block: Block index.
        target_page: Which, counted from the block's start.
        held_bytes: How many bytes from its start are here; neither none nor all.
    """

    kind: ClassVar[int] = 28
    block: int
    target_page: int
    held_bytes: int


@dataclass(frozen=True, kw_only=True)
class PageRest(Message):
    """The bytes of a target page of which the destination holds the others, as the payload.

    Attributes:
        block: Block index.
        offset: Where the bytes belong, in bytes from the block's start.
    """

    kind: ClassVar[int] = 29
    payload_bytes_max: ClassVar[int] = TARGET_PAGE_BYTES - 1
    block: int
    offset: int


MESSAGE_TYPES: tuple[type[Message], ...] = tuple(Message.__subclasses__())
BY_KIND = {message_type.kind: message_type for message_type in MESSAGE_TYPES}
assert len(BY_KIND) == len(MESSAGE_TYPES)

FIELD_TYPES = {
    message_type: {
        field.name: get_type_hints(message_type)[field.name] for field in fields(message_type)
    }
    for message_type in MESSAGE_TYPES
}
