"""What a page request leads to: an answer when it comes, and a job when its turn has come.  Pure.

Rules 2, 5, 6, 8 and 9 of `source.scheduler`.  Between the two moments the page may be broken off,
or sent by what goes beside the requests, and so the answer to a request is no promise of a job.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol import events
from protocol.channels import Channel
from protocol.geometry import PageId, Span
from protocol.policy import Policy
from source.in_flight import InFlight
from source.jobs import Answer, Cutter, Job, Lies, SchedulerCounts
from source.prefetching import Prefetching
from source.request_queue import RequestQueue

# See `source.scheduler`: a look at an enumeration's member is not free.
_PRECOPY = Channel.PRECOPY
_QUEUED = Answer.QUEUED


class Answering:
    """Puts requests into the queue, or finds that they need not wait there."""

    def __init__(
        self,
        policy: Policy,
        queue: RequestQueue,
        in_flight: InFlight,
        cutter: Cutter,
        prefetching: Prefetching,
        counts: SchedulerCounts,
        note: Callable[[type[events.PageEvent], Job], None],
    ) -> None:
        """Work over the state of one scheduler.

        Args:
            policy: The switches that tell the presets apart.
            queue: The requests that wait for their turn.
            in_flight: What is being sent, or lies half-sent.
            cutter: Cuts what a request is served with out of what remains.
            prefetching: Hears of each request that is served.
            counts: Takes how requests were answered.
            note: Takes what is done with a job.
        """
        self._preempts = policy.preempts
        self._channel = Channel.POSTCOPY if policy.own_channel else Channel.PRECOPY
        self._queue = queue
        self._in_flight = in_flight
        self._current = in_flight.jobs
        self._half_sent = in_flight.half_sent
        self._remaining = in_flight.remaining
        self._cutter = cutter
        self._prefetching = prefetching
        self._counts = counts
        self._note = note

    def answer(self, page: PageId, unit: Span, now_ns: int, lies: Lies | None) -> Answer:
        """Take a request: it is queued, or what is being sent becomes urgent, or it needs nothing.

        Args:
            page: The page that a vCPU waits for.
            unit: What is urgent of it.
            now_ns: The time.
            lies: As of `Scheduler.request`.
        """
        self._counts.received += 1
        under_way = self._in_flight.job_with(unit) if self._current else None
        if under_way is not None and (lies is None or under_way.urgent):
            answer = self._answer_under_way(under_way, page, unit, now_ns)
            if answer is not None:
                return answer
        if unit in self._queue:
            self._counts.duplicate += 1
            return Answer.DUPLICATE
        goes_again = lies is not None and lies is not Lies.NEAR
        if goes_again and unit not in self._queue.copied:
            self._queue[unit] = job = Job(unit, page, self._channel, now_ns)
            job.is_copy = True
            return Answer.SENT_AGAIN
        half_sent = self._half_sent
        lies_here = under_way is not None or (half_sent.job is not None and half_sent.holds(unit))
        if lies is not None or not (lies_here or self._remaining.holds_any(unit)):
            self._counts.already_sent += 1
            return Answer.ALREADY_SENT
        self._queue[unit] = Job(unit, page, self._channel, now_ns)
        # It has its turn, and in it nothing is sent for it.
        puts_off = half_sent.puts_off and half_sent.holds(unit)
        return Answer.POSTPONED if puts_off else _QUEUED

    def _answer_under_way(self, job: Job, page: PageId, unit: Span, now_ns: int) -> Answer | None:
        """Return the answer to a request that a job under way meets, None if it has to queue."""
        if job.urgent:
            self._counts.duplicate += 1
            return Answer.DUPLICATE
        if self._half_sent.puts_off:
            job.postponed = True
            self._counts.postponed += 1
            return Answer.POSTPONED
        if self._preempts and self._queue:
            # An older request is about to break it off.
            return None
        job.requested_ns = now_ns
        self._begin_urgent(job, page, unit)
        return Answer.URGENT_IN_PLACE

    def job_for(self, unit: Span, request: Job) -> Job | None:
        """Return the job that serves a request, or None if nothing is to be sent for it now.

        Args:
            unit: What was requested.
            request: The job that serves it if its page is untouched.
        """
        if request.is_copy:
            return self._copy_job(unit, request)
        half_sent = self._half_sent
        if half_sent.job is not None and half_sent.holds(unit):
            return self._half_sent_job(unit, request)
        # The background may have come to this page after the request, and be in the middle of it.
        if self._current and self._in_flight.job_with(unit) is not None:
            self._counts.postponed += 1
            return None
        # Or what was sent since held it.
        request.first = self._cutter.take_first(unit)
        if request.first is None:
            self._counts.already_sent += 1
            return None
        self._begin_urgent(request, request.page, unit)
        return request

    def _copy_job(self, unit: Span, request: Job) -> Job:
        """Return the job for a target page that was found to lie behind much."""
        # Of a frame that was broken off before its first byte it was taken back.
        request.first = self._cutter.take_first(unit)
        if request.first is None:
            request.first = unit
            self._queue.copied.add(unit)
            self._counts.copies += 1
            self._counts.resent_bytes += unit.length
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
            self._counts.boosted += 1
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
            self._counts.on_precopy_channel += 1
        else:
            self._counts.on_postcopy_channel += 1
        self._prefetching.served(page, unit)
