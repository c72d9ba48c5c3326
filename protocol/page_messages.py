"""Messages that carry pages, ask for them, and say what became of them, after a break too."""

from __future__ import annotations

from typing import ClassVar

from protocol.fields import Count, DigestField, Line, Message, Pages, RunsField
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.limits import CHUNK_BYTES_MAX, DISCARD_BYTES_MAX, MISSING_MAP_BYTES_MAX

# How a source answers a page request.
# It waits for its turn, behind older requests.
QUEUED = "queued"
# Likewise, and in its turn the page went on from the byte where it had been broken off.
BOOSTED = "boosted"
# The page was being sent in the background, and became urgent on its way.
URGENT_IN_PLACE = "urgent-in-place"
# All of it was with the socket before the request came.
ALREADY_SENT = "already-sent"
# The policy leaves it to the background.
POSTPONED = "postponed"
# It was being sent for another request already.
DUPLICATE = "duplicate"
# It lay in the precopy connection behind other bytes, and went again over the postcopy channel.
SENT_AGAIN = "sent-again"

ANSWERS = (QUEUED, BOOSTED, URGENT_IN_PLACE, ALREADY_SENT, POSTPONED, DUPLICATE, SENT_AGAIN)


class PageData(Message, frozen=True, kw_only=True, tag=6):
    """Bytes of guest memory, as the payload: one unbroken stretch.

    Attributes:
        block: Block index.
        offset: Where the bytes belong, in bytes from the block's start.
        urgent: A vCPU waits for the page.
        queue_us: For an urgent page, how long its request waited at the source.
        send_us: For an urgent page, how long ago its first urgent byte was handed to the socket.
    """

    payload_bytes_max: ClassVar[int] = CHUNK_BYTES_MAX
    block: Count
    offset: Count
    urgent: bool = False
    queue_us: Count = 0
    send_us: Count = 0


class ZeroData(Message, frozen=True, kw_only=True, tag=7):
    """A stretch of guest memory that is all zero; like PageData, without the bytes.

    Attributes:
        length: In bytes.
    """

    block: Count
    offset: Count
    length: Count
    urgent: bool = False
    queue_us: Count = 0
    send_us: Count = 0


class RunData(Message, frozen=True, kw_only=True, tag=19):
    """Scattered stretches of one block; the payload is the bytes of those that are not zero.

    They lie back to back in it, in the order of the runs.

    Attributes:
        block: Block index.
        offset: Where the first run begins, in bytes from the block's start.
        runs: The runs, see `protocol.runs`.
        urgent, queue_us, send_us: As in PageData.
    """

    payload_bytes_max: ClassVar[int] = CHUNK_BYTES_MAX
    block: Count
    offset: Count
    runs: RunsField
    urgent: bool = False
    queue_us: Count = 0
    send_us: Count = 0


class Checksum(Message, frozen=True, kw_only=True, tag=26):
    """The digests of the frame that comes next: before each with pages, where both agreed.

    Attributes:
        head: Of its head, as `protocol.checksums` takes it.
        body: Of its payload.
    """

    head: DigestField
    body: DigestField


class PassEnd(Message, frozen=True, kw_only=True, tag=8):
    """All pages of a precopy pass are before this message."""

    index: Count


class PassAck(Message, frozen=True, kw_only=True, tag=9):
    """The destination has received everything before that PassEnd."""

    index: Count


class Discard(Message, frozen=True, kw_only=True, tag=10):
    """Target pages of which the destination's copy is stale; the payload is a bitmap.

    Bit i of the payload, least significant first, stands for target page `first + i`.

    Attributes:
        block: Block index.
        first: Target page index in the block of the first bit; a multiple of 8.
        count: How many target pages the bitmap covers.
    """

    payload_bytes_max: ClassVar[int] = DISCARD_BYTES_MAX
    block: Count
    first: Count
    count: Count


class PageRequest(Message, frozen=True, kw_only=True, tag=13):
    """A vCPU of the destination waits for this page.

    Attributes:
        block: Block index.
        page: Page index in the block.
        target_page: Which target page in the page was touched, from 0.
    """

    block: Count
    page: Count
    target_page: Count


class Resend(Message, frozen=True, kw_only=True, tag=27):
    """Bytes of pages came changed: they count as not received.

    Attributes:
        block: Block index.
        offset: Where the first run begins, in bytes from the block's start.
        runs: Which target pages, see `protocol.runs`; no run is zero.
    """

    block: Count
    offset: Count
    runs: RunsField


class RequestAnswer(Message, frozen=True, kw_only=True, tag=30):
    """How a page request was answered, and what became of it; where both sides agreed to it.

    Told when all of the page is with the socket, and when nobody waits for anything else.  Times
    are of the source's monotonic clock, which is not the destination's.

    Attributes:
        block, page, target_page: As in the request.
        answer: One of `protocol.page_messages`.
        came_ns: When the request was read.
        queued_ns: How long it then waited for its turn, behind older requests.
        postponed_ns: How long it waited because the policy put it off.
        sending_ns: How long bytes of the page were being handed to the socket.
            Of what goes again these two are of the second copy.
        told_ns: When this was written.
        interrupted: The connection broke before the page was sent, or may have lost it.
        behind: The pages that went before it, as (block, page); the first of them, if many.
        behind_count: How many those are in all.
        first_queued_ns: Of what goes again, how long its first copy had waited by then; 0 where
            that was with the socket before the request came.
    """

    block: Count
    page: Count
    target_page: Count
    answer: Line
    came_ns: Count
    queued_ns: Count
    postponed_ns: Count
    sending_ns: Count
    told_ns: Count
    interrupted: bool = False
    behind: Pages = ()
    behind_count: Count = 0
    first_queued_ns: Count = 0


class SourceTime(Message, frozen=True, kw_only=True, tag=31):
    """The source's monotonic clock, told while nothing else is on its way.

    Attributes:
        now_ns: The time there.
    """

    now_ns: Count


class MissingMap(Message, frozen=True, kw_only=True, tag=24):
    """Target pages that the destination has not received; the payload is a deflated bitmap.

    As in Discard, bit i stands for target page `first + i`.  All that no map names has been
    received.

    Attributes:
        block: Block index.
        first: Target page index in the block of the first bit; a multiple of 8.
        count: How many target pages the bitmap covers.
    """

    payload_bytes_max: ClassVar[int] = MISSING_MAP_BYTES_MAX
    block: Count
    first: Count
    count: Count


class HeldPart(Message, frozen=True, kw_only=True, tag=28):
    """Of a missing target page that a break left half-received, what is here.

    Attributes:
        block: Block index.
        target_page: Which, counted from the block's start.
        held_bytes: How many bytes from its start are here; neither none nor all.
    """

    block: Count
    target_page: Count
    held_bytes: Count


class Standing(Message, frozen=True, kw_only=True, tag=25):
    """Where the destination stands after a break; the maps of what is missing are before it.

    Attributes:
        running: It has the whole SwitchOver and runs the guest; if not, nothing before counts.
        target_pages: How many target pages all maps name together.
        dropped_bytes: Bytes that came, since the session began, and that a break made worthless;
            they come again.
        run_ns: Since when the guest runs there, as in Running; 0 if it does not.
    """

    running: bool
    target_pages: Count
    dropped_bytes: Count
    run_ns: Count = 0


class PageRest(Message, frozen=True, kw_only=True, tag=29):
    """The bytes of a target page of which the destination holds the others, as the payload.

    Attributes:
        block: Block index.
        offset: Where the bytes belong, in bytes from the block's start.
    """

    payload_bytes_max: ClassVar[int] = TARGET_PAGE_BYTES - 1
    block: Count
    offset: Count
