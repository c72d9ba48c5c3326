"""A page on its way through several chunks, and the chunks: what the scheduler works with."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.runs import Stretch, overlap


class Lane(Enum):
    """Who asks for chunks: one user for everything, or one each for requests and background."""

    ALL = "all"
    URGENT = "urgent"
    BACKGROUND = "background"

    # Each is the only one of its kind.  Enum's own hash, that of a name, is Python code, and every
    # decision looks several times at what its lane is about.
    __hash__ = object.__hash__


class Chunk(NamedTuple):
    """A piece of guest memory to send as one frame.

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


@dataclass(slots=True)
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
        given: The spans of all its chunks so far.
        first: What its first chunk is to be, where whoever made the job has found that out already.
    """

    span: Span
    page: PageId
    channel: Channel
    requested_ns: int | None = None
    boosted: bool = False
    begun: bool = False
    postponed: bool = False
    chunk: Chunk | None = None
    given: list[Stretch] = field(default_factory=list)
    first: Stretch | None = None

    @property
    def urgent(self) -> bool:
        """Whether a vCPU waits for it."""
        return self.requested_ns is not None

    def gave(self, unit: Span) -> bool:
        """Tell whether a chunk of it has bytes of a unit; what lies between two runs it has not."""
        return any(overlap(stretch, unit) for stretch in self.given)


class Request(NamedTuple):
    """A page request.

    Attributes:
        page: The page that a vCPU waits for.
        unit: What is urgent of it: all of it, or the target page that was touched.
        requested_ns: When it came.
    """

    page: PageId
    unit: Span
    requested_ns: int


class RequestQueue:
    """The requests that wait for their turn, oldest first, at most one for each unit."""

    def __init__(self) -> None:
        """Start empty."""
        self._requests: deque[Request] = deque()
        self._units: set[Span] = set()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._requests)

    def __contains__(self, unit: Span) -> bool:
        """Tell whether a request for a unit waits."""
        return unit in self._units

    def append(self, request: Request) -> None:
        """Put a request behind all others."""
        self._requests.append(request)
        self._units.add(request.unit)

    def pop(self) -> Request:
        """Return the oldest, which no longer waits."""
        request = self._requests.popleft()
        self._units.remove(request.unit)
        return request


def covers(outer: Span, inner: Span) -> bool:
    """Tell whether a span holds all of another."""
    return outer.block == inner.block and outer.offset <= inner.offset and inner.end <= outer.end


def unit_of(geometry: Geometry, page: PageId, target_page: int, *, critical: bool) -> Span:
    """Return what is urgent of a requested page: all of it, or the target page that was touched.

    Raises:
        RemoteProtocolError: The guest has no such page, or the page no such target page.
    """
    inside = geometry.has_page(page) and (
        0 <= target_page < geometry.blocks[page.block].target_pages_per_page
    )
    if not inside:
        raise RemoteProtocolError(
            f"target page {target_page} of page {page.index} of block {page.block} is outside the "
            "guest"
        )
    span = geometry.page_span(page)
    if not critical:
        return span
    return Span(span.block, span.offset + target_page * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES)
