"""What to send next, over which channel, and how urgently: the heart of midstream.

How urgent something is and which channel it takes are two different things, and every decision here
carries both.  QEMU's postcopy-preempt once had one flag for the two; a request for exactly the page
that lay half-sent on the precopy channel could then be served on neither channel and waited for the
request queue to run empty (`migration/ram.c`, cured in QEMU 7.1 by "Respect postcopy request order
in preemption mode").

The rules:

1. Order of service: the oldest page request; then the preempted page; then the background: what a
   prefetcher picks, then the scan.  A user's order may have another request than the oldest served.
2. A request for the preempted page is served in its turn in the queue: urgent, on the channel where
   the page began, from the byte where it stopped.  The policy may say otherwise (`halfsent`); but a
   frame that was begun ends on its channel before anything else goes there.
3. Urgent pages are never preempted.  A background page is, as soon as a request arrives.
4. So at most one page is preempted at a time.
5. A request for a page that was sent, or that is queued already, sends nothing.
6. A request for the page that is being sent in the background makes it urgent in place; but where
   an older request is about to break that page off, it waits for its turn behind it.
7. Where the policy is critical, "page" in these rules is the one target page that was touched; what
   is left of its page is background that comes before the scan, the newest request's first.
8. Where the policy overtakes, what rules 2, 5 and 6 say of a single target page holds only as long
   as it lies behind little: else it goes again, by itself and in its turn, over the postcopy
   channel.  So it goes twice, and never more often.
9. Where the policy is concurrent, requests and background each have a lane, and no page is in both;
   a request for the page that the background is in the middle of is left to it.

The scheduler has no clock and no socket.  Its user asks for `next_chunk()`, sends it, and says what
became of it: `chunk_sent()`, or `chunk_interrupted()` when `wants_preemption` came true on the way.
A concurrent policy has two users, one a lane, each with a chunk of its own.
"""

from __future__ import annotations

from protocol import events
from protocol.channels import Channel
from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry, PageId, Span
from protocol.policy import Policy
from source.answering import Answering
from source.jobs import Answer, Chunk, Job, Lane, Lies
from source.work import Work

# Before Python 3.12 each look at an enumeration's member costs as much as two calls.
_PRECOPY = Channel.PRECOPY
_URGENT, _BACKGROUND = Lane.URGENT, Lane.BACKGROUND

_NO_CHUNK = "there is no chunk that could have been sent"


class Scheduler(Work):
    """Decides the order of service for one guest; see the module's rules.

    Attributes:
        lanes: Who asks for chunks.
    """

    def __init__(self, geometry: Geometry, policy: Policy, chunk_bytes: int) -> None:
        """Start with nothing to send; see `Work`."""
        super().__init__(geometry, policy, chunk_bytes)
        self.lanes = (Lane.URGENT, Lane.BACKGROUND) if policy.concurrent else (Lane.ALL,)
        self._answering = Answering(
            policy, self._queue, self._in_flight, self._cutter, self._prefetching, self.counts,
            self._note,
        )  # fmt: skip

    @property
    def wants_preemption(self) -> bool:
        """Whether what is being sent now should be broken off for a request."""
        if not (self._queue and self._current and self.policy.preempts):
            return False
        current = self._current.get(Lane.ALL)
        return current is not None and current.requested_ns is None

    def urgent(self, lane: Lane = Lane.ALL) -> bool:
        """Tell whether what a lane is sending is urgent; it may become so while it is sent."""
        return lane in self._current and self._current[lane].urgent

    def is_sending(self, lane: Lane) -> bool:
        """Tell whether a lane is in the middle of something, between two chunks of it, too."""
        return lane in self._current

    def goes_first(self, lane: Lane) -> bool:
        """Tell whether what a lane sends next is urgent on the postcopy channel, as far as known.

        A request's turn may also come to nothing, or to the half-sent page.
        """
        job = self._current.get(lane)
        if job is None or self.wants_preemption:
            return bool(self._queue) and lane is not _BACKGROUND
        return job.urgent and job.channel is not _PRECOPY

    def request(
        self, page: PageId, target_page: int, now_ns: int, lies: Lies | None = None
    ) -> Answer:
        """Take a page request; afterwards look at `wants_preemption`.

        Args:
            page: The page that a vCPU waits for.
            target_page: Which target page of it was touched, from 0.
            now_ns: The time, by whatever clock the chunks' user compares it with.
            lies: Of a policy that overtakes, and a target page of which nothing remains: where it
                lies; None where it is not known to lie anywhere.

        Raises:
            RemoteProtocolError: The guest has no such page.
            LocalProtocolError: What is being sent was added as what nobody can wait for.
        """
        unit = self.unit_of(page, target_page)
        if self._background.across_pages:
            raise LocalProtocolError("there are no page requests while no vCPU runs there")
        answer = self._answering.answer(page, unit, now_ns, lies)
        if self._prefetching.hears:
            self._prefetching.requested(page, target_page, now_ns, answer.value)
        return answer

    def next_chunk(self, lane: Lane = Lane.ALL) -> Chunk | None:
        """Return what to send now, or None when the lane has nothing.

        Afterwards call `chunk_sent` or `chunk_interrupted`.

        Raises:
            LocalProtocolError: The lane's chunk before is still out, or there is no such lane.
        """
        job = self._current.get(lane)
        if job is None:
            if lane not in self.lanes:
                raise LocalProtocolError(f"the policy has no lane {lane.value!r}")
        elif job.chunk is not None:
            raise LocalProtocolError("the last chunk was neither sent nor interrupted")
        elif self._queue and self.wants_preemption:
            self._preempt()
            job = None
        if job is None:
            job = self._pick(lane)
            if job is None:
                return None
            self._current[lane] = job
            self._note(events.PageStart, job)
        return self._cutter.cut(job)

    def ahead(self, lane: Lane, count_max: int) -> list[Span]:
        """Return the pages that a lane sends next if nothing comes between, each in one chunk.

        They lie in rows of one block, and the chunk that is out is of such a page, too.
        Nothing where that is not so, or where somebody is to hear of each page.

        Args:
            lane: Whose chunk is out.
            count_max: The most pages that are wanted, 1 or more.
        """
        job = self._current.get(lane)
        if job is None or job.chunk is None or job.urgent or job.postponed:
            return []
        whole = self._geometry.page_span(job.page)
        half_sent = self._half_sent
        is_alone = not (self._queue or half_sent.job or half_sent.tail) and len(self._current) == 1
        if job.chunk.span != whole or not is_alone or self._prefetching.hears:
            return []
        return self._background.ahead(count_max)

    def run_on(self, lane: Lane, row: Span) -> Chunk:
        """Say that the lane's chunk, and those of a row of pages but the last, went whole.

        It is as if `chunk_sent` and `next_chunk` had been called once for each page of the row.

        Args:
            lane: Whose chunk was out.
            row: The first that was `ahead`, or the first pages of it.

        Returns:
            The chunk of the last of these pages, which now is out.
        """
        job = self._current[lane] = self._background.run_on(row)
        return self._cutter.cut(job)

    def chunk_sent(self, lane: Lane = Lane.ALL) -> int:
        """Say that a lane's chunk is whole with the socket; return how many pages now are, too."""
        job = self._current.get(lane)
        if job is None or (sent := job.chunk) is None:
            raise LocalProtocolError(_NO_CHUNK)
        job.chunk = None
        job.begun = True
        if self._half_sent.end(job):
            del self._current[lane]
            self._note(events.PartSent, job)
            return 0
        if sent.span is not job.span and self._remaining.holds_any(job.span):
            return 0
        del self._current[lane]
        # A page that is sent once is told of once.
        page_count = 0 if job.is_copy else self._in_flight.pages_ended(sent)
        if not page_count:
            self._note(events.PartSent, job)
        elif self._prefetching.hears and not self._background.across_pages:
            self._prefetching.sent(sent.span, sent.channel)
        return page_count

    def chunk_interrupted(self, *, begun: bool) -> None:
        """Say that the last chunk was broken off, because `wants_preemption` came true.

        Args:
            begun: Whether the socket took at least one byte of its frame.  If so the same span is
                given out again when the page resumes, and the frame's rest must go first on its
                channel; if not, it is as if the chunk had never been made.

        Raises:
            LocalProtocolError: No chunk is out, or nothing wants it broken off.
        """
        job = self._current.get(Lane.ALL)
        if job is None or (chunk := job.chunk) is None:
            raise LocalProtocolError(_NO_CHUNK)
        if not self.wants_preemption:
            raise LocalProtocolError("a chunk was broken off though no request calls for it")
        if begun:
            job.begun = True
        else:
            self._remaining.add(chunk.span)
            job.given.remove(chunk.span)
            job.chunk = None
        self._preempt()

    def _preempt(self) -> None:
        job = self._current.pop(Lane.ALL)
        assert not job.urgent
        if self._half_sent.break_off(job):
            self._note(events.Preempt, job)
        elif not job.begun:
            self._background.take_back(job)

    def _pick(self, lane: Lane) -> Job | None:
        while self._queue and lane is not _BACKGROUND:
            job = self._answering.job_for(*self._queue.take(self._half_sent))
            if job is not None:
                return job
        if lane is _URGENT:
            return None
        half_sent = self._half_sent.resume()
        if half_sent is not None:
            return half_sent
        beside = self._current.get(_URGENT) if self._current else None
        return self._background.next_job(beside.span if beside else None)
