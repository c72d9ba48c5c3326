"""What the scheduler works with, and what it says of that.  Pure.

A page on its way goes in chunks, each a frame; requests for it are answered, and what is done with
it is noticed and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocol import page_messages as answers
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.events import PageEvent
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span, new_span
from protocol.pageset import PageSet
from protocol.runs import Runs, Stretch, overlap
from source.scheme import Pick


class Lies(Enum):
    """Where the bytes of a target page lie that is in a frame on the precopy channel."""

    # With the stream, and soonest there by it.
    NEAR = "near"
    # With it, behind so much that it goes again, and overtakes that.
    FAR = "far"
    # Not with it yet: it goes again, likewise.
    UNSENT = "unsent"


class Lane(Enum):
    """Who asks for chunks: one user for everything, or one each for requests and background."""

    ALL = "all"
    URGENT = "urgent"
    BACKGROUND = "background"

    # Each is the only one of its kind.  Enum's own hash, that of a name, is Python code, and every
    # decision looks several times at what its lane is about.
    __hash__ = object.__hash__


@dataclass(slots=True)
class Chunk:
    """A piece of guest memory to send as one frame; nobody changes it.

    Attributes:
        span: The bytes, in one run or in several.
        page: The page that they belong to; where they belong to more than one, the first.
        channel: Where the frame goes.
        urgent: Whether a vCPU waits for it, as known when the chunk was given out.
        boosted: Urgent, and the rest of a page that was broken off in the background.
        requested_ns: When the request that it serves came, None for background.
    """

    span: Stretch
    page: PageId
    channel: Channel
    urgent: bool
    boosted: bool
    requested_ns: int | None


class Job:
    """A page (or runs of small pages, or of parts of huge ones) on its way.

    Attributes:
        span: What it is to send: of this, all that remains.
        page: The page; where it is about more than one, the first.
        channel: Where its next chunk goes.
        requested_ns: When the request that makes it urgent came, None for background.
        boosted: Was broken off in the background, and is now urgent.
        begun: Some of its bytes are on the wire already.
        postponed: A vCPU asked for it while it was being sent, and was put off.
        chunk: Given out and neither sent nor taken back.
        picks: What a prefetcher picked of it; empty for what a request or the scan is about.
        cause: Why, in the words of a user's prefetcher; empty for all else.
        is_copy: What it is to send is in a frame on the precopy channel, and goes again.
        given: The spans of all its chunks so far.
        first: What its first chunk is to be, where whoever made the job has found that out already.
    """

    boosted: bool = False
    begun: bool = False
    postponed: bool = False
    is_copy: bool = False
    chunk: Chunk | None = None
    picks: tuple[Pick, ...] = ()
    cause: str = ""

    def __init__(
        self,
        span: Stretch,
        page: PageId,
        channel: Channel,
        requested_ns: int | None = None,
        first: Stretch | None = None,
    ) -> None:
        """Begin with nothing given out; what is the same for most jobs is the class's."""
        self.span = span
        self.page = page
        self.channel = channel
        self.first = first
        self.requested_ns = requested_ns
        self.given: list[Stretch] = []

    @property
    def urgent(self) -> bool:
        """Whether a vCPU waits for it."""
        return self.requested_ns is not None

    def carries(self, unit: Span, remaining: PageSet) -> bool:
        """Tell whether a unit is one of its; what lies between two of its runs is not.

        Args:
            unit: A page, or a target page.
            remaining: What no chunk was made of yet.
        """
        if isinstance(self.span, Runs):
            # A prefetcher may leave what lies between, which then remains and is no part of it.
            return overlap(self.span, unit)
        return covers(self.span, unit) and (
            remaining.holds_any(unit) or any(overlap(given, unit) for given in self.given)
        )


class Cutter:
    """Cuts chunks out of what remains to be sent; they are taken out of it."""

    def __init__(self, remaining: PageSet, chunk_bytes: int) -> None:
        """Take what no chunk was made of yet, and the most that one carries."""
        self._remaining = remaining
        self._chunk_pages = chunk_bytes // TARGET_PAGE_BYTES

    def cut(self, job: Job) -> Chunk:
        """Return the job's broken-off chunk as it is by now, or make one of its next runs."""
        requested_ns, broken_off = job.requested_ns, job.chunk
        if broken_off is not None:
            runs, channel = broken_off.span, broken_off.channel
        else:
            found, job.first = job.first, None
            if found is None:
                found = self.take_first(job.span)
            assert found is not None, "a job without bytes left is finished by chunk_sent"
            runs, channel = found, job.channel
            job.given.append(runs)
        job.chunk = chunk = Chunk(
            runs, job.page, channel, requested_ns is not None, job.boosted, requested_ns
        )
        return chunk

    def take_first(self, stretch: Stretch) -> Stretch | None:
        """Take out of what remains what the next chunk for a stretch carries, None without any."""
        block, first = stretch.block, stretch.offset // TARGET_PAGE_BYTES
        if stretch.length == TARGET_PAGE_BYTES:
            return stretch if self._remaining.discard(block, first) else None
        stop = stretch.end // TARGET_PAGE_BYTES
        return self._remaining.take_first(block, first, stop, self._chunk_pages)


class Answer(Enum):
    """What a page request leads to, by the words that cross."""

    QUEUED = answers.QUEUED
    DUPLICATE = answers.DUPLICATE
    ALREADY_SENT = answers.ALREADY_SENT
    URGENT_IN_PLACE = answers.URGENT_IN_PLACE
    POSTPONED = answers.POSTPONED
    SENT_AGAIN = answers.SENT_AGAIN


@dataclass(slots=True)
class Notice:
    """Something that the scheduler did on the way to a decision, for whoever watches.

    Attributes:
        event: What it is to be told as.
        page: Which page.
        channel: Where it goes, or went.
        urgent: Whether a vCPU waits for it.
        boosted: Whether it had been broken off in the background.
        cause: Why it goes, where a user's prefetcher says so.
    """

    event: type[PageEvent]
    page: PageId
    channel: Channel
    urgent: bool
    boosted: bool
    cause: str = ""


@dataclass
class SchedulerCounts:
    """What happened so far, under the names of the report."""

    received: int = 0
    duplicate: int = 0
    already_sent: int = 0
    postponed: int = 0
    on_precopy_channel: int = 0
    on_postcopy_channel: int = 0
    preemptions: int = 0
    boosted: int = 0
    # Target pages that went again to overtake what they lay behind, and are among the resent bytes.
    copies: int = 0
    # Bytes of guest memory that went a second time though the destination had them: of what went
    # when a page was broken off, or of target pages that a break left half-received.
    resent_bytes: int = 0
    # Bytes that went a second time because a break had lost them on their way.
    lost_bytes: int = 0
    recoveries: int = 0
    # Frames that came changed, and the bytes of guest memory that went again for that.
    changed_frames: int = 0
    changed_bytes: int = 0


def covers(outer: Stretch, inner: Span) -> bool:
    """Tell whether a span lies between where a stretch begins and where it ends."""
    return outer.block == inner.block and outer.offset <= inner.offset and inner.end <= outer.end


def unit_of(geometry: Geometry, page: PageId, target_page: int, critical: bool) -> Span:
    """Return what is urgent of a requested page: all of it, or the target page that was touched.

    Raises:
        RemoteProtocolError: The guest has no such page, or the page no such target page.
    """
    block_index, page_index = page
    blocks = geometry.blocks
    if 0 <= block_index < len(blocks):
        block = blocks[block_index]
        page_bytes, inside = block.page_bytes, target_page * TARGET_PAGE_BYTES
        offset = page_index * page_bytes
        if 0 <= offset < block.length_bytes and 0 <= inside < page_bytes:
            if critical:
                return new_span((block_index, offset + inside, TARGET_PAGE_BYTES))
            return new_span((block_index, offset, page_bytes))
    raise RemoteProtocolError(
        f"target page {target_page} of page {page_index} of block {block_index} is outside the "
        "guest"
    )
