"""What to send next, over which channel, and how urgently: the heart of midstream.

How urgent something is and which channel it takes are two different things, and every decision here
carries both.  QEMU's postcopy-preempt once had one flag for the two; a request for exactly the page
that lay half-sent on the precopy channel could then be served on neither channel and waited for the
request queue to run empty (`migration/ram.c`, cured in QEMU 7.1 by "Respect postcopy request order
in preemption mode").

The rules:

1. Order of service: the oldest page request; then the preempted page; then the background scan.
2. A request for the preempted page is served in its turn in the queue: urgent, on the channel where
   the page began, from the byte where it stopped.
3. Urgent pages are never preempted.  A background page is, as soon as a request arrives.
4. So at most one page is preempted at a time.
5. A request for a page that was sent, or that is queued already, sends nothing.
6. A request for the page that is being sent in the background makes it urgent in place.

The scheduler has no clock and no socket.  Its user asks for `next_chunk()`, sends it, and says what
became of it: `chunk_sent()`, or `chunk_interrupted()` when `wants_preemption` came true on the way.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from protocol import events
from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.pageset import PageSet
from protocol.policy import HalfSent, Policy


class Answer(Enum):
    """What a page request leads to."""

    QUEUED = "queued"
    DUPLICATE = "duplicate"
    ALREADY_SENT = "already-sent"
    URGENT_IN_PLACE = "urgent-in-place"
    POSTPONED = "postponed"


class Notice(NamedTuple):
    """Something that the scheduler did on the way to a decision, for whoever watches.

    Attributes:
        event: `protocol.events.PREEMPT` or `protocol.events.BOOST`.
        page: The page that was broken off, or that is finished urgently.
        channel: Where it began.
    """

    event: str
    page: PageId
    channel: Channel


@dataclass(frozen=True)
class Chunk:
    """A piece of guest memory to send as one frame.

    Attributes:
        span: The bytes.
        page: The page that they belong to; of a run of small pages, the first.
        channel: Where the frame goes.
        urgent: Whether a vCPU waits for it, as known when the chunk was given out.
        boosted: Urgent, and the rest of a page that was broken off in the background.
        requested_ns: When the request that it serves came, None for background.
    """

    span: Span
    page: PageId
    channel: Channel
    urgent: bool
    boosted: bool
    requested_ns: int | None


@dataclass
class _Job:
    """A page (or a run of small pages) on its way, through possibly several chunks."""

    span: Span
    page: PageId
    channel: Channel
    requested_ns: int | None = None
    boosted: bool = False
    # Some of its bytes are on the wire already.
    begun: bool = False
    # A vCPU asked for it while it was being sent, and was put off.
    postponed: bool = False
    # Given out by next_chunk() and neither sent nor taken back.
    chunk: Chunk | None = None

    @property
    def urgent(self) -> bool:
        return self.requested_ns is not None


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


class Scheduler:
    """Decides the order of service for one guest; see the module's rules."""

    def __init__(self, geometry: Geometry, policy: Policy, chunk_bytes: int) -> None:
        """Start with nothing to send.

        Args:
            geometry: The guest's blocks.
            policy: The switches that tell the presets apart.
            chunk_bytes: The most that one chunk carries, a multiple of the target page.

        Raises:
            LocalProtocolError: Chunks of that size do not divide into target pages.
        """
        if chunk_bytes <= 0 or chunk_bytes % TARGET_PAGE_BYTES:
            raise LocalProtocolError(f"chunks of {chunk_bytes} bytes are not allowed")
        self.counts = SchedulerCounts()
        self._geometry = geometry
        self._policy = policy
        self._chunk_bytes = chunk_bytes
        self._remaining = PageSet(geometry)
        self._queue: deque[tuple[PageId, int]] = deque()
        self._queued: set[PageId] = set()
        self._current: _Job | None = None
        self._preempted: _Job | None = None
        self._cursor = (0, 0)
        self._notices: list[Notice] = []

    @property
    def remaining_bytes(self) -> int:
        """Bytes that no chunk was made of yet."""
        return self._remaining.length_bytes

    @property
    def queued_requests(self) -> int:
        """Requests that wait for their turn."""
        return len(self._queue)

    @property
    def preempted_page(self) -> PageId | None:
        """The page that lies half-sent, if there is one."""
        return self._preempted.page if self._preempted else None

    @property
    def urgent(self) -> bool:
        """Whether what is being sent now is urgent; it may become so while it is being sent."""
        return self._current is not None and self._current.urgent

    @property
    def wants_preemption(self) -> bool:
        """Whether what is being sent now should be broken off for a request."""
        return (
            self._policy.preempts
            and bool(self._queue)
            and self._current is not None
            and not self._current.urgent
        )

    def take_notices(self) -> list[Notice]:
        """Return what was done since the last call, oldest first."""
        notices, self._notices = self._notices, []
        return notices

    def add(self, pages: PageSet) -> None:
        """Take what a precopy pass, or the postcopy phase, has to send; the scan starts anew.

        Raises:
            LocalProtocolError: A page is on its way; its new bytes could overtake its old ones.
        """
        if self._current or self._preempted:
            raise LocalProtocolError("pages cannot be added while one is being sent")
        self._remaining.update(pages)
        self._cursor = (0, 0)

    def request(self, page: PageId, now_ns: int) -> Answer:
        """Take a page request; afterwards look at `wants_preemption`.

        Args:
            page: The page that a vCPU waits for.
            now_ns: The time, by whatever clock `next_chunk`'s caller compares it with.

        Raises:
            RemoteProtocolError: The guest has no such page.
        """
        if not self._geometry.has_page(page):
            raise RemoteProtocolError(
                f"page {page.index} of block {page.block} is outside the guest"
            )
        self.counts.received += 1
        current = self._current
        if current is not None and _covers(current.span, self._geometry.page_span(page)):
            if current.urgent:
                self.counts.duplicate += 1
                return Answer.DUPLICATE
            if self._policy.half_sent is HalfSent.POSTPONE:
                current.postponed = True
                self.counts.postponed += 1
                return Answer.POSTPONED
            self._make_urgent(current, now_ns)
            return Answer.URGENT_IN_PLACE
        if page in self._queued:
            self.counts.duplicate += 1
            return Answer.DUPLICATE
        if not self._is_preempted(page) and not self._remaining.holds_page(page):
            self.counts.already_sent += 1
            return Answer.ALREADY_SENT
        self._queue.append((page, now_ns))
        self._queued.add(page)
        return Answer.QUEUED

    def next_chunk(self) -> Chunk | None:
        """Return what to send now, or None when everything was sent.

        Afterwards call `chunk_sent` or `chunk_interrupted`.

        Raises:
            LocalProtocolError: The chunk before is still out.
        """
        if self._current is not None and self._current.chunk is not None:
            raise LocalProtocolError("the last chunk was neither sent nor interrupted")
        if self.wants_preemption:
            self._preempt()
        if self._current is None:
            self._current = self._pick()
        if self._current is None:
            return None
        return self._cut(self._current)

    def chunk_sent(self) -> bool:
        """Say that the last chunk is whole with the socket; return whether its page now is, too."""
        job = self._job_with_chunk()
        job.chunk = None
        job.begun = True
        if self._remaining.holds_any(job.span):
            return False
        self._current = None
        return True

    def chunk_interrupted(self, *, begun: bool) -> None:
        """Say that the last chunk was broken off, because `wants_preemption` came true.

        Args:
            begun: Whether the socket took at least one byte of its frame.  If so the same span is
                given out again when the page resumes, and the frame's rest must go first on its
                channel; if not, it is as if the chunk had never been made.

        Raises:
            LocalProtocolError: No chunk is out, or nothing wants it broken off.
        """
        job = self._job_with_chunk()
        if not self.wants_preemption:
            raise LocalProtocolError("a chunk was broken off though no request calls for it")
        if begun:
            job.begun = True
        else:
            assert job.chunk is not None
            self._remaining.add(job.chunk.span)
            job.chunk = None
        self._preempt()

    def _job_with_chunk(self) -> _Job:
        if self._current is None or self._current.chunk is None:
            raise LocalProtocolError("there is no chunk that could have been sent")
        return self._current

    def _preempt(self) -> None:
        job = self._current
        assert job is not None
        assert not job.urgent
        assert self._preempted is None
        self._current = None
        # A page that was asked for and put off comes next when the queue is empty, begun or not.
        if job.begun or job.postponed:
            self._preempted = job
            self.counts.preemptions += 1
            self._notices.append(Notice(events.PREEMPT, job.page, job.channel))
        else:
            # Nothing of the page is on the wire, so nothing ties it to the precopy channel.
            self._cursor = (job.span.block, job.span.offset)

    def _pick(self) -> _Job | None:
        while self._queue:
            page, requested_ns = self._queue.popleft()
            self._queued.discard(page)
            job = self._urgent_job(page, requested_ns)
            if job is not None:
                return job
        if self._preempted is not None:
            job, self._preempted = self._preempted, None
            return job
        return self._background_job()

    def _urgent_job(self, page: PageId, requested_ns: int) -> _Job | None:
        """Return the job that serves a request, or None if nothing is to be sent for it now."""
        if self._is_preempted(page):
            if self._policy.half_sent is HalfSent.POSTPONE:
                self.counts.postponed += 1
                return None
            job, self._preempted = self._preempted, None
            assert job is not None
            job.boosted = True
            self.counts.boosted += 1
            self._notices.append(Notice(events.BOOST, job.page, job.channel))
            self._make_urgent(job, requested_ns)
            return job
        # A run of small pages that was sent after the request came may have held this one.
        if not self._remaining.holds_page(page):
            self.counts.already_sent += 1
            return None
        channel = Channel.POSTCOPY if self._policy.own_channel else Channel.PRECOPY
        job = _Job(self._geometry.page_span(page), page, channel)
        self._make_urgent(job, requested_ns)
        return job

    def _make_urgent(self, job: _Job, requested_ns: int) -> None:
        job.requested_ns = requested_ns
        if job.channel is Channel.PRECOPY:
            self.counts.on_precopy_channel += 1
        else:
            self.counts.on_postcopy_channel += 1
        if self._policy.locality:
            self._cursor = (job.span.block, job.span.end)

    def _background_job(self) -> _Job | None:
        place = self._remaining.first_from(*self._cursor)
        if place is None:
            return None
        block, offset = place
        page_bytes = self._geometry.blocks[block].page_bytes
        page = PageId(block, offset // page_bytes)
        span = self._geometry.page_span(page)
        if page_bytes == TARGET_PAGE_BYTES:
            # Base pages go in runs, as many as a chunk holds: one frame for one page of 4 KiB would
            # spend more time on its header than on its bytes.
            rest = Span(block, offset, self._geometry.blocks[block].length_bytes - offset)
            span = self._remaining.first_run(rest, self._chunk_bytes) or span
        self._cursor = (block, span.end)
        return _Job(span, page, Channel.PRECOPY)

    def _cut(self, job: _Job) -> Chunk:
        """Return the job's broken-off chunk as it is by now, or make one of its next run."""
        run = job.chunk.span if job.chunk is not None else None
        if run is None:
            run = self._remaining.first_run(job.span, self._chunk_bytes)
            assert run is not None, "a job without bytes left is finished by chunk_sent"
            self._remaining.remove(run)
        job.chunk = Chunk(run, job.page, job.channel, job.urgent, job.boosted, job.requested_ns)
        return job.chunk

    def _is_preempted(self, page: PageId) -> bool:
        return self._preempted is not None and _covers(
            self._preempted.span, self._geometry.page_span(page)
        )


def _covers(outer: Span, inner: Span) -> bool:
    return outer.block == inner.block and outer.offset <= inner.offset and inner.end <= outer.end
