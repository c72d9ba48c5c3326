"""The page that lies half-sent, and what a request for it leads to.  Pure.

A background page that was broken off for a request is half-sent until it goes on: when no request
is queued, or when one for itself is due.  What the latter leads to is the policy's, and each answer
is a class here with the same three verbs: `break_off`, `resume`, `end`.  A frame that was begun
ends on its channel whatever it says.
"""

from __future__ import annotations

from typing import ClassVar

from protocol.channels import Channel
from protocol.geometry import PageId, Span
from protocol.pageset import PageSet
from protocol.policy import HalfSent, Policy
from source.jobs import Job, SchedulerCounts


class HalfSentPage:
    """At most one page: while it lies, the background begins no other.

    This one is finished where it began: urgent, in the turn of its request (`HalfSent.FINISH`).

    Attributes:
        job: What the page goes on with, None if no page lies half-sent.
        tail: Of a page that goes again whole: the frame that was begun and must still end.
        puts_off: A request for a page that the background is in the middle of is put off.
        goes_twice: What went of a page may go again.
    """

    puts_off: ClassVar[bool] = False
    goes_twice: ClassVar[bool] = False

    def __init__(self, remaining: PageSet, counts: SchedulerCounts) -> None:
        """Start with no page.

        Args:
            remaining: What no chunk was made of yet; kept up to date by the scheduler.
            counts: Takes what is broken off, put off, and sent again.
        """
        self.job: Job | None = None
        self.tail: Job | None = None
        self._remaining = remaining
        self._counts = counts

    def break_off(self, job: Job) -> bool:
        """Break a background job off; return whether its page lies half-sent from now on.

        A page that was asked for and put off does, begun or not: it comes next when the queue is
        empty.  Of any other of which nothing went, nothing ties it to the precopy channel.
        """
        assert self.job is None
        if not (job.begun or job.postponed):
            return False
        self.job = job
        self._counts.preemptions += 1
        return True

    def resume(self, request: Job | None = None) -> Job | None:
        """Return the job that goes on, if there is any; its page does not lie half-sent any more.

        Args:
            request: The job that would serve a request that the page meets, were it untouched; None
                where it goes on in the background. What is put off goes on with neither.
        """
        job = self.job
        if job is None or request is None:
            self.job = None
            return job
        if self.puts_off:
            self._counts.postponed += 1
            return None
        self.job = None
        job = self._serve(job)
        job.requested_ns = request.requested_ns
        return job

    def end(self, job: Job) -> bool:
        """Say that a chunk of a job went whole; return whether it was no more than a frame's tail.

        Then its page went whole by other frames, and was told.
        """
        if job is not self.tail:
            return False
        self.tail = None
        return True

    def forget(self) -> None:
        """Have neither a page nor a frame that must end."""
        self.job = self.tail = None

    def holds(self, unit: Span) -> bool:
        """Tell whether a unit is one of the page's."""
        return self.job is not None and self.job.carries(unit, self._remaining)

    def is_page(self, page: PageId) -> bool:
        """Tell whether this is the page."""
        return self.job is not None and self.job.page == page

    def _serve(self, job: Job) -> Job:
        """Return the job that serves a request for the page."""
        job.boosted = True
        return job


class Postponed(HalfSentPage):
    """Forgets a request for the page, which comes when no request is queued.

    So it is also where requests and background each have a lane, and leave each other's pages be.
    """

    puts_off = True


class SentAgain(HalfSentPage):
    """Sends the whole page again, over the postcopy channel; what went of it is wasted."""

    goes_twice = True

    def break_off(self, job: Job) -> bool:  # type: ignore[explicit-override]
        """See `HalfSentPage`; a frame's tail stays what it is."""
        return job is not self.tail and super().break_off(job)

    def resume(self, request: Job | None = None) -> Job | None:  # type: ignore[explicit-override]
        """See `HalfSentPage`; the frame's tail goes first, and stays one until its `end`."""
        return self.tail if request is None and self.tail is not None else super().resume(request)

    def _serve(self, job: Job) -> Job:  # type: ignore[explicit-override]
        if self._remaining.geometry.has_base_pages[job.page.block]:
            return super()._serve(job)
        for stretch in job.given:
            self._remaining.add(stretch)
            self._counts.resent_bytes += stretch.length
        if job.chunk is not None:
            self.tail = job
        return Job(job.span, job.page, Channel.POSTCOPY)


class Split(HalfSentPage):
    """Sends what no frame was begun of over the postcopy channel."""

    def _serve(self, job: Job) -> Job:  # type: ignore[explicit-override]
        if not self._remaining.holds_any(job.span):
            return super()._serve(job)
        # A frame that was begun ends where it began: the job's chunk has its own channel.
        job.channel = Channel.POSTCOPY
        return job


_TREATMENTS = {
    HalfSent.FINISH: HalfSentPage,
    HalfSent.POSTPONE: Postponed,
    HalfSent.RESEND: SentAgain,
    HalfSent.SPLIT: Split,
}


def treatment(policy: Policy) -> type[HalfSentPage]:
    """Return how a policy treats a page that lies half-sent, or that is in the background's way."""
    return Postponed if policy.concurrent else _TREATMENTS[policy.half_sent]
