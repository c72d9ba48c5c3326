"""All that a source has to send: what remains, what is in flight, and who waits for what.  Pure.

A precopy pass, the switch-over, a break and a frame that came changed put it in and take it out
here.  In which order it goes is `source.scheduler`'s, which decides over it and does nothing else.
"""

from __future__ import annotations

from protocol import events
from protocol.errors import LocalProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.pageset import PageSet
from protocol.policy import Policy
from protocol.runs import Stretch
from source.background import Background
from source.halfsent import treatment
from source.in_flight import InFlight
from source.jobs import Cutter, Job, Notice, SchedulerCounts, unit_of
from source.prefetched import Prefetched
from source.prefetching import Prefetching
from source.request_queue import RequestQueue
from source.scheme import Scheme


class Work:
    """What one guest's source has to send.

    Attributes:
        counts: What happened so far.
        policy: The switches that tell the presets apart.
    """

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
        self.policy = policy
        self._geometry = geometry
        self._remaining = PageSet(geometry)
        self._cutter = Cutter(self._remaining, chunk_bytes)
        self._prefetching = Prefetching(policy, self._remaining)
        self._background = Background(
            self._remaining, self._prefetching, chunk_bytes, in_parts=policy.critical
        )
        self._queue = RequestQueue(policy)
        self._half_sent = treatment(policy)(self._remaining, self.counts)
        self._in_flight = InFlight(self._remaining, self._half_sent, self._background)
        self._current = self._in_flight.jobs
        self._notices: list[Notice] = []
        self._is_failure_told = not isinstance(policy, Scheme)

    @property
    def remaining(self) -> PageSet:
        """What no chunk was made of yet; not to be changed."""
        return self._remaining

    @property
    def remaining_bytes(self) -> int:
        """Bytes that no chunk was made of yet."""
        return self._remaining.length_bytes

    @property
    def unsent_bytes(self) -> int:
        """Bytes that are not whole with a socket: those without a chunk, and all chunks in flight.

        What `HalfSent.RESEND` sends again is in it twice until its first frame is out.
        """
        return self._remaining.length_bytes + self._in_flight.chunk_bytes

    @property
    def queued_requests(self) -> int:
        """Requests that wait for their turn."""
        return len(self._queue)

    @property
    def preempted_page(self) -> PageId | None:
        """The page that lies half-sent, if there is one."""
        job = self._half_sent.job
        return job.page if job is not None else None

    @property
    def prefetched(self) -> Prefetched | None:
        """What a user's prefetcher picked; None without one."""
        return self._prefetching.prefetched

    @property
    def policy_failure(self) -> str:
        """Why a user's part of the policy is not asked any more, in a line; empty if it is."""
        return self._prefetching.failure or self._queue.failure

    def take_failure(self) -> str:
        """Return that once, for whoever tells of it."""
        failure = "" if self._is_failure_told else self.policy_failure
        self._is_failure_told = bool(failure) or self._is_failure_told
        return failure

    def take_notices(self) -> list[Notice]:
        """Return what was done since the last call, oldest first."""
        notices, self._notices = self._notices, []
        return notices

    def unit_of(self, page: PageId, target_page: int) -> Span:
        """Return what a request makes urgent.

        Raises:
            RemoteProtocolError: The guest has no such page.
        """
        return unit_of(self._geometry, page, target_page, self.policy.critical)

    def lacks(self, unit: Span) -> bool:
        """Tell whether bytes of a unit remain to be sent, or lie half-sent."""
        return self._remaining.holds_any(unit) or self._half_sent.holds(unit)

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
        if not self._in_flight.is_idle:
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
        if self._in_flight.chunk_bytes:
            raise LocalProtocolError("pages cannot be taken back while one is being sent")
        self._current.clear()
        withdrawn = PageSet(self._geometry)
        withdrawn.update(self._remaining)
        self._remaining.replace(PageSet(self._geometry))
        return withdrawn

    def begin_again(self, missing: PageSet) -> None:
        """Forget what was under way and asked for: after a break, exactly this is to be sent.

        Requests come again, and no frame of before will be finished.
        """
        self._queue.forget()
        self._current.clear()
        self._half_sent.forget()
        self._notices.clear()
        self._remaining.replace(missing)
        self._background.restart(postcopy=True, across_pages=False)

    def send_again(self, stretch: Stretch) -> None:
        """Take for not sent what came changed; who waits for it asks for it anew."""
        self._remaining.add(stretch)

    @property
    def runs_are_short(self) -> bool:
        """Whether more would go together if runs were longer."""
        return self._background.runs_are_short

    def keep_runs(self, run_bytes: int) -> None:
        """Have what goes in runs go in runs of at most so many bytes, from now on."""
        self._background.keep_runs(run_bytes)

    def _note(self, event: type[events.PageEvent], job: Job) -> None:
        """Note what is done with a job, for whoever watches."""
        cause = job.cause if event is events.PageStart else ""
        self._notices.append(
            Notice(event, job.page, job.channel, job.requested_ns is not None, job.boosted, cause)
        )
