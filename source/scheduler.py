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
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.pageset import PageSet
from protocol.policy import Policy
from protocol.runs import Runs, Stretch
from source.background import Background
from source.halfsent import treatment
from source.jobs import Answer, Chunk, Cutter, Job, Lane, Lies, Notice, SchedulerCounts, unit_of
from source.prefetched import Prefetched
from source.prefetching import Prefetching
from source.request_queue import RequestQueue
from source.scheme import Scheme

# Before Python 3.12 each look at an enumeration's member costs as much as two calls.
_PRECOPY = Channel.PRECOPY
_URGENT, _BACKGROUND = Lane.URGENT, Lane.BACKGROUND
_QUEUED = Answer.QUEUED

_NO_CHUNK = "there is no chunk that could have been sent"


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
            PolicyFailed: A user's prefetcher or order cannot be made.
        """
        if chunk_bytes <= 0 or chunk_bytes % TARGET_PAGE_BYTES:
            raise LocalProtocolError(f"chunks of {chunk_bytes} bytes are not allowed")
        self.counts = SchedulerCounts()
        self.lanes = (Lane.URGENT, Lane.BACKGROUND) if policy.concurrent else (Lane.ALL,)
        self._geometry = geometry
        self.policy = policy
        self._remaining = PageSet(geometry)
        self._cutter = Cutter(self._remaining, chunk_bytes)
        self._prefetching = Prefetching(policy, self._remaining)
        self._background = Background(
            self._remaining, self._prefetching, chunk_bytes, in_parts=policy.critical
        )
        self._urgent_channel = Channel.POSTCOPY if policy.own_channel else Channel.PRECOPY
        self._queue = RequestQueue(policy)
        self._current: dict[Lane, Job] = {}
        self._half_sent = treatment(policy)(self._remaining, self.counts)
        # The target pages that went twice.
        self._copied: set[Span] = set()
        self._notices: list[Notice] = []
        self._is_failure_told = not isinstance(policy, Scheme)

    @property
    def remaining_bytes(self) -> int:
        """Bytes that no chunk was made of yet."""
        return self._remaining.length_bytes

    @property
    def unsent_bytes(self) -> int:
        """Bytes that are not whole with a socket: those without a chunk, and all chunks under way.

        What `HalfSent.RESEND` sends again is in it twice until its first frame is out.
        """
        half_sent = self._half_sent
        under_way = [*self._current.values(), half_sent.job, half_sent.tail]
        # A frame's tail that is being finished is the current job, too.
        chunks = {id(job): job.chunk for job in under_way if job is not None}
        return self._remaining.length_bytes + sum(
            chunk.span.length for chunk in chunks.values() if chunk is not None
        )

    @property
    def queued_requests(self) -> int:
        """Requests that wait for their turn."""
        return len(self._queue)

    @property
    def policy_failure(self) -> str:
        """Why a user's part of the policy is not asked any more, in a line; empty if it is."""
        return self._prefetching.failure or self._queue.failure

    def take_failure(self) -> str:
        """Return that once, for whoever tells of it."""
        failure = "" if self._is_failure_told else self.policy_failure
        self._is_failure_told = bool(failure) or self._is_failure_told
        return failure

    @property
    def prefetched(self) -> Prefetched | None:
        """What a user's prefetcher picked; None without one."""
        return self._prefetching.prefetched

    @property
    def preempted_page(self) -> PageId | None:
        """The page that lies half-sent, if there is one."""
        job = self._half_sent.job
        return job.page if job is not None else None

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

    def lacks(self, unit: Span) -> bool:
        """Tell whether bytes of a unit remain to be sent, or lie half-sent."""
        return self._remaining.holds_any(unit) or self._half_sent.holds(unit)

    @property
    def wants_preemption(self) -> bool:
        """Whether what is being sent now should be broken off for a request."""
        if not (self._queue and self._current and self.policy.preempts):
            return False
        current = self._current.get(Lane.ALL)
        return current is not None and current.requested_ns is None

    def take_notices(self) -> list[Notice]:
        """Return what was done since the last call, oldest first."""
        notices, self._notices = self._notices, []
        return notices

    def add(self, pages: PageSet, *, postcopy: bool = False, across_pages: bool = False) -> None:
        """Take what a precopy pass, or the postcopy phase, has to send; the scan starts anew.

        Args:
            pages: What to send.
            postcopy: Requests may come; what one may have to wait for is kept short.
            across_pages: None may come, because no vCPU runs on the destination: one chunk may hold
                several huge pages, or scattered parts of them.

        Raises:
            LocalProtocolError: A page is on its way, and its new bytes could overtake its old ones;
                or requests wait though no vCPU is to run there.
        """
        if self._current or self._half_sent.job or self._half_sent.tail:
            raise LocalProtocolError("pages cannot be added while one is being sent")
        if across_pages and self._queue:
            raise LocalProtocolError("page requests wait for what no vCPU can touch")
        self._remaining.update(pages)
        self._background.restart(postcopy=postcopy, across_pages=across_pages)

    def withdraw(self) -> PageSet:
        """Take back all that no chunk was made of, the rest of begun pages too; return it.

        Raises:
            LocalProtocolError: A chunk is out, or lies half-sent.
        """
        if self.unsent_bytes != self.remaining_bytes:
            raise LocalProtocolError("pages cannot be taken back while one is being sent")
        self._current.clear()
        withdrawn = PageSet(self._geometry)
        withdrawn.update(self._remaining)
        self._remaining.replace(PageSet(self._geometry))
        return withdrawn

    def keep_runs(self, run_bytes: int) -> None:
        """Have what goes in runs go in runs of at most so many bytes, from now on."""
        self._background.keep_runs(run_bytes)

    def begin_again(self, missing: PageSet) -> None:
        """Forget what was under way and asked for: after a break, exactly this is to be sent.

        Requests come again, and no frame of before will be finished.
        """
        self._queue.clear()
        self._current.clear()
        self._half_sent.forget()
        self._copied.clear()
        self._notices.clear()
        self._remaining.replace(missing)
        self._background.restart(postcopy=True, across_pages=False)

    def send_again(self, stretch: Stretch) -> None:
        """Take for not sent what came changed; who waits for it asks for it anew."""
        self._remaining.add(stretch)

    def unit_of(self, page: PageId, target_page: int) -> Span:
        """Return what a request makes urgent.

        Raises:
            RemoteProtocolError: The guest has no such page.
        """
        return unit_of(self._geometry, page, target_page, self.policy.critical)

    @property
    def remaining(self) -> PageSet:
        """What no chunk was made of yet; not to be changed."""
        return self._remaining

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
        answer = self._answer(page, unit, now_ns, lies)
        if self._prefetching.hears:
            self._prefetching.requested(page, target_page, now_ns, answer.value)
        return answer

    def _answer(self, page: PageId, unit: Span, now_ns: int, lies: Lies | None) -> Answer:
        if self._background.across_pages:
            raise LocalProtocolError("there are no page requests while no vCPU runs there")
        self.counts.received += 1
        under_way = self._under_way(unit) if self._current else None
        if under_way is not None and (lies is None or under_way.urgent):
            answer = self._answer_under_way(under_way, page, unit, now_ns)
            if answer is not None:
                return answer
        if unit in self._queue:
            self.counts.duplicate += 1
            return Answer.DUPLICATE
        if lies is Lies.FAR and unit not in self._copied:
            self._queue[unit] = job = Job(unit, page, self._urgent_channel, now_ns)
            job.is_copy = True
            return Answer.SENT_AGAIN
        half_sent = self._half_sent
        lies_here = under_way is not None or (half_sent.job is not None and half_sent.holds(unit))
        if lies is not None or not (lies_here or self._remaining.holds_any(unit)):
            self.counts.already_sent += 1
            return Answer.ALREADY_SENT
        self._queue[unit] = Job(unit, page, self._urgent_channel, now_ns)
        # It has its turn, and in it nothing is sent for it.
        puts_off = half_sent.puts_off and half_sent.holds(unit)
        return Answer.POSTPONED if puts_off else _QUEUED

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
        page_count = 0 if job.is_copy else self._pages_ended(sent)
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

    def _pages_ended(self, sent: Chunk) -> int:
        """Return how many pages have all of their bytes on the wire with a job's last chunk."""
        block = self._geometry.blocks[sent.page.block]
        if self._geometry.has_base_pages[sent.page.block]:
            return sent.span.length // TARGET_PAGE_BYTES
        if not self._background.across_pages:
            return 0 if self.policy.critical and self._is_partial(sent.page) else 1
        if isinstance(sent.span, Runs):
            count = sent.span.page_count(block.target_pages_per_page)
        else:
            count = len(self._geometry.pages_of(sent.span))
        last = self._geometry.page_of(sent.page.block, sent.span.end // TARGET_PAGE_BYTES - 1)
        return count - self._remaining.holds_page(last)

    def _under_way(self, unit: Span) -> Job | None:
        """Return the job that is sending a unit; the tail of a frame is not sending its page."""
        for job in self._current.values():
            if job is not self._half_sent.tail and job.carries(unit, self._remaining):
                return job
        return None

    def _answer_under_way(self, job: Job, page: PageId, unit: Span, now_ns: int) -> Answer | None:
        """Return the answer to a request that a job under way meets, None if it has to queue."""
        if job.urgent:
            self.counts.duplicate += 1
            return Answer.DUPLICATE
        if self._half_sent.puts_off:
            job.postponed = True
            self.counts.postponed += 1
            return Answer.POSTPONED
        if self.wants_preemption:
            return None
        job.requested_ns = now_ns
        self._begin_urgent(job, page, unit)
        return Answer.URGENT_IN_PLACE

    def _preempt(self) -> None:
        job = self._current.pop(Lane.ALL)
        assert not job.urgent
        if self._half_sent.break_off(job):
            self._note(events.Preempt, job)
        elif not job.begun:
            self._background.take_back(job)

    def _pick(self, lane: Lane) -> Job | None:
        while self._queue and lane is not _BACKGROUND:
            job = self._urgent_job(*self._queue.take(self._half_sent))
            if job is not None:
                return job
        if lane is _URGENT:
            return None
        half_sent = self._half_sent.resume()
        if half_sent is not None:
            return half_sent
        beside = self._current.get(_URGENT) if self._current else None
        return self._background.next_job(beside.span if beside else None)

    def _urgent_job(self, unit: Span, request: Job) -> Job | None:
        """Return the job that serves a request, or None if nothing is to be sent for it now."""
        if request.is_copy:
            return self._copy_job(unit, request)
        half_sent = self._half_sent
        if half_sent.job is not None and half_sent.holds(unit):
            return self._half_sent_job(unit, request)
        # The background may have come to this page after the request, and be in the middle of it.
        if self._current and self._under_way(unit) is not None:
            self.counts.postponed += 1
            return None
        # Or what was sent since held it.
        request.first = self._cutter.take_first(unit)
        if request.first is None:
            self.counts.already_sent += 1
            return None
        self._begin_urgent(request, request.page, unit)
        return request

    def _copy_job(self, unit: Span, request: Job) -> Job:
        """Return the job for a target page that was found to lie behind much."""
        # Of a frame that was broken off before its first byte it was taken back.
        request.first = self._cutter.take_first(unit)
        if request.first is None:
            request.first = unit
            self._copied.add(unit)
            self.counts.copies += 1
            self.counts.resent_bytes += unit.length
            self._note(events.Overtake, request)
        else:
            request.is_copy = False
        self._begin_urgent(request, request.page, unit)
        return request

    def _half_sent_job(self, unit: Span, request: Job) -> Job | None:
        """Return the job for a request that the half-sent page meets, as the policy wants it."""
        job = self._half_sent.resume(request)
        if job is None:
            return None
        self._begin_urgent(job, request.page, unit)
        if job.boosted:
            self.counts.boosted += 1
            self._note(events.Boost, job)
        return job

    def _begin_urgent(self, job: Job, page: PageId, unit: Span) -> None:
        """Count a job that now is urgent, and tell prefetchers of it.

        Args:
            job: The job.
            page: The page that was requested.
            unit: What is urgent of it.
        """
        if job.channel is _PRECOPY:
            self.counts.on_precopy_channel += 1
        else:
            self.counts.on_postcopy_channel += 1
        self._prefetching.served(page, unit)

    def _is_partial(self, page: PageId) -> bool:
        """Tell whether anything of a page is still to be sent, or lies half-sent."""
        return self._half_sent.is_page(page) or self._remaining.holds_page(page)

    def _note(self, event: type[events.PageEvent], job: Job) -> None:
        cause = job.cause if event is events.PageStart else ""
        self._notices.append(
            Notice(event, job.page, job.channel, job.requested_ns is not None, job.boosted, cause)
        )
