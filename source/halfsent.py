"""The page that lies half-sent, and what a request for it leads to.  Pure.

A background page that was broken off for a request is half-sent until it goes on: when no request
is queued, or when one for itself is due.  What the latter leads to is the policy's (`HalfSent`); a
frame that was begun ends on its channel whatever it says.
"""

from __future__ import annotations

from protocol.channels import Channel
from protocol.geometry import PageId, Span
from protocol.pageset import PageSet
from protocol.policy import HalfSent, Policy
from source.answers import SchedulerCounts
from source.jobs import Job


class HalfSentPage:
    """At most one page: while it lies, the background begins no other.

    Attributes:
        job: What the page goes on with, None if no page lies half-sent.
        leftover: Of a page that goes again whole: the frame that was begun and must still end.
    """

    def __init__(self, remaining: PageSet, policy: Policy, counts: SchedulerCounts) -> None:
        """Start with no page.

        Args:
            remaining: What no chunk was made of yet; kept up to date by the scheduler.
            policy: Says what a request for the page leads to.
            counts: Takes what is put off and what goes again.
        """
        self.job: Job | None = None
        self.leftover: Job | None = None
        self._remaining = remaining
        self._policy = policy
        self._counts = counts

    def forget(self) -> None:
        """Have neither a page nor a frame that must end."""
        self.job = self.leftover = None

    def take(self) -> Job | None:
        """Return the page's job, if there is a page; it does not lie half-sent any more."""
        job, self.job = self.job, None
        return job

    def holds(self, unit: Span) -> bool:
        """Tell whether a unit is one of the page's."""
        return self.job is not None and self.job.carries(unit, self._remaining)

    def is_page(self, page: PageId) -> bool:
        """Tell whether this is the page."""
        return self.job is not None and self.job.page == page

    def answer(self, request: Job) -> Job | None:
        """Return the job for a request that the page meets, or None if it is put off.

        Args:
            request: The job that would serve the request, were the page untouched.
        """
        half_sent = self._policy.half_sent
        if half_sent is HalfSent.POSTPONE:
            self._counts.postponed += 1
            return None
        job = self.take()
        assert job is not None
        is_base = self._remaining.geometry.has_base_pages[job.page.block]
        if half_sent is HalfSent.RESEND and not is_base:
            job = self._again(job)
        elif half_sent is HalfSent.SPLIT and self._remaining.holds_any(job.span):
            # A frame that was begun ends where it began: the job's chunk has its own channel.
            job.channel = Channel.POSTCOPY
        else:
            job.boosted = True
        job.requested_ns = request.requested_ns
        return job

    def _again(self, job: Job) -> Job:
        """Forget what went of the page; a frame that was begun must end all the same."""
        for stretch in job.given:
            self._remaining.add(stretch)
            self._counts.resent_bytes += stretch.length
        if job.chunk is not None:
            self.leftover = job
        return Job(job.span, job.page, Channel.POSTCOPY)
