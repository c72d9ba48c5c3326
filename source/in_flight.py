"""The jobs that lanes are in the middle of, and beside them the half-sent page.  Pure.

A chunk is in flight from when it is given out until it is whole with a socket or taken back.  So
what of a page is not whole with a socket is here, or remains to be cut into chunks.
"""

from __future__ import annotations

from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.pageset import PageSet
from protocol.runs import Runs
from source.background import Background
from source.halfsent import HalfSentPage
from source.jobs import Chunk, Job, Lane


class InFlight:
    """What the scheduler has given out, and what of a page lies half-sent.

    Attributes:
        jobs: By the lanes that are in the middle of them, between two chunks of them, too; the
            scheduler's to change.
        remaining: What no chunk was made of yet.
        half_sent: The page that was broken off in the background.
    """

    def __init__(self, remaining: PageSet, half_sent: HalfSentPage, background: Background) -> None:
        """Begin with none.

        Args:
            remaining: What no chunk was made of yet; kept up to date by the scheduler.
            half_sent: The page that was broken off in the background, likewise.
            background: Says what goes together.
        """
        self.jobs: dict[Lane, Job] = {}
        self.remaining = remaining
        self.half_sent = half_sent
        self._geometry = remaining.geometry
        self._background = background

    @property
    def is_idle(self) -> bool:
        """Whether no lane is in the middle of anything, and nothing lies half-sent."""
        return not (self.jobs or self.half_sent.job or self.half_sent.tail)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of all chunks that are given out, or lie half-sent."""
        half_sent, jobs = self.half_sent, list(self.jobs.values())
        if half_sent.job is not None:
            jobs.append(half_sent.job)
        # A frame's tail that is being finished is a lane's job, too.
        if half_sent.tail is not None and half_sent.tail not in jobs:
            jobs.append(half_sent.tail)
        count = 0
        for job in jobs:
            if job.chunk is not None:
                count += job.chunk.span.length
        return count

    def job_with(self, unit: Span) -> Job | None:
        """Return the job that is sending a unit; the tail of a frame is not sending its page."""
        for job in self.jobs.values():
            if job is not self.half_sent.tail and job.carries(unit, self.remaining):
                return job
        return None

    def pages_ended(self, sent: Chunk) -> int:
        """Return how many pages have all of their bytes on the wire with a job's last chunk.

        The job is not in flight any more.
        """
        block = self._geometry.blocks[sent.page.block]
        if self._geometry.has_base_pages[sent.page.block]:
            return sent.span.length // TARGET_PAGE_BYTES
        if not self._background.across_pages:
            # What is left of a page may go by other jobs than the one that began it.
            return 0 if self._background.in_parts and self._is_partial(sent.page) else 1
        if isinstance(sent.span, Runs):
            count = sent.span.page_count(block.target_pages_per_page)
        else:
            count = len(self._geometry.pages_of(sent.span))
        last = self._geometry.page_of(sent.page.block, sent.span.end // TARGET_PAGE_BYTES - 1)
        return count - self.remaining.holds_page(last)

    def _is_partial(self, page: PageId) -> bool:
        """Tell whether anything of a page is still to be sent, or lies half-sent."""
        return self.half_sent.is_page(page) or self.remaining.holds_page(page)
