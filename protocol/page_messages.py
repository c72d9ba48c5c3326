"""What carries pages, asks for them, and says what became of them."""

from __future__ import annotations

from typing import ClassVar

from protocol.fields import Digest, Message, PackedRuns, message
from protocol.limits import (
    CHUNK_BYTES_MAX,
    DISCARD_BYTES_MAX,
)


@message
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


@message
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


@message
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


@message
class Checksum(Message):
    """What the frame that comes next must be: before each that carries pages, where both agreed.

    Attributes:
        head: Of its head, as `protocol.checksums` takes it.
        body: Of its payload.
    """

    kind: ClassVar[int] = 26
    head: Digest
    body: Digest


@message
class PassEnd(Message):
    """All pages of a precopy pass are before this message."""

    kind: ClassVar[int] = 8
    index: int


@message
class PassAck(Message):
    """The destination has received everything before that PassEnd."""

    kind: ClassVar[int] = 9
    index: int


@message
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


@message
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


@message
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


@message
class RequestAnswer(Message):
    """How a page request was answered, and what became of it; where both sides agreed to it.

    Told when all of the page is with the socket, and when nobody waits for anything else.  Times
    are of the source's monotonic clock, which is not the destination's.

    Attributes:
        block, page, target_page: As in the request.
        answer: One of `protocol.answers`.
        came_ns: When the request was read.
        queued_ns: How long it then waited for its turn, behind older requests.
        postponed_ns: How long it waited because the policy put it off.
        sending_ns: How long bytes of the page were being handed to the socket.
        told_ns: When this was written.
        interrupted: The connection broke before the page was sent, or may have lost it.
        behind: The pages that went before it, as (block, page); the first of them, if many.
        behind_count: How many those are in all.
    """

    kind: ClassVar[int] = 30
    block: int
    page: int
    target_page: int
    answer: str
    came_ns: int
    queued_ns: int
    postponed_ns: int
    sending_ns: int
    told_ns: int
    interrupted: bool = False
    behind: tuple[tuple[int, int], ...] = ()
    behind_count: int = 0


@message
class SourceTime(Message):
    """The source's monotonic clock, told while nothing else is on its way.

    Attributes:
        now_ns: The time there.
    """

    kind: ClassVar[int] = 31
    now_ns: int
