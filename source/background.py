"""What goes when nobody waits: what prefetchers pick, then a scan through all blocks.  Pure."""

from __future__ import annotations

import numpy as np

from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES, Span, new_page_id
from protocol.limits import RUN_COUNT_MAX, RUNS_EXTENT_BYTES_MAX
from protocol.pageset import PageSet
from protocol.runs import Runs, Stretch
from source.jobs import Job, covers
from source.prefetching import Prefetching
from source.scheme import Pick

# Where requests may come, small pages go in short runs, and so do parts of huge pages: a vCPU that
# touches what lies in the frame under way waits for its turn in it.  At least they are as long as
# this; with each frame go a decision, a head and a turn of two event loops.
POSTCOPY_RUN_BYTES_MIN = 64 * 1024

# See `source.scheduler`: a look at an enumeration's member is not free.
_PRECOPY = Channel.PRECOPY


class Background:
    """Picks what to send when nobody waits.

    It takes out of what remains to be sent what it gives out.

    Attributes:
        across_pages: Whether several huge pages, or scattered parts of them, go together.
        in_parts: Whether huge pages go a run at a time.
        runs_are_short: Whether more would go together if runs were longer.
    """

    def __init__(
        self, remaining: PageSet, prefetching: Prefetching, chunk_bytes: int, *, in_parts: bool
    ) -> None:
        """Start at the first block's first page.

        Args:
            remaining: What no chunk was made of yet; kept up to date by the scheduler.
            prefetching: Comes before the scan.
            chunk_bytes: The most that one chunk carries.
            in_parts: Give huge pages out a run at a time, so that after each the newest page to be
                demoted can come first.
        """
        self._prefetching = prefetching
        self._remaining = remaining
        self._geometry = remaining.geometry
        self._chunk_pages = chunk_bytes // TARGET_PAGE_BYTES
        self._run_pages = self._chunk_pages
        self.in_parts = in_parts
        self.across_pages = False
        # Base pages go as many together as a chunk holds: one frame for one page of 4 KiB would
        # spend more time on its header than on its bytes.
        self._goes_in_runs = self._geometry.has_base_pages
        self._longest_run_pages = self._longest_run()
        self.runs_are_short = False
        self._block_stops = [block.target_page_count for block in self._geometry.blocks]
        # Where the scan goes on: block, target page.
        self._cursor = (0, 0)

    def restart(self, *, postcopy: bool, across_pages: bool) -> None:
        """Scan from the first block's first page.

        Args:
            postcopy: Keep runs short, because requests may come.
            across_pages: Put several huge pages, or scattered parts of them, into one job: nobody
                waits for a page, and nobody counts how much of one has come.
        """
        self.across_pages = across_pages
        self._cursor = (0, 0)
        self.keep_runs(
            POSTCOPY_RUN_BYTES_MIN if postcopy else self._chunk_pages * TARGET_PAGE_BYTES
        )
        if not across_pages:
            self._prefetching.restart()

    def keep_runs(self, run_bytes: int) -> None:
        """Have small pages, and parts of huge ones, go in runs of at most so many bytes."""
        longest_bytes = max(run_bytes, POSTCOPY_RUN_BYTES_MIN)
        self._run_pages = min(self._chunk_pages, longest_bytes // TARGET_PAGE_BYTES)
        self.runs_are_short = self._run_pages < self._longest_run_pages

    def take_back(self, job: Job) -> None:
        """Take back a job of which nothing went; the scan goes on with what it gave out."""
        if job.cause:
            self._prefetching.put_back(job.picks)
        elif not job.picks:
            self._cursor = job.span.block, job.span.offset // TARGET_PAGE_BYTES

    def next_job(self, avoid: Stretch | None = None) -> Job | None:
        """Return the next background job, None when nothing remains.

        Args:
            avoid: A page that is being sent elsewhere, and what remains of it, too.
        """
        if not (self.across_pages or self._prefetching.is_silent):
            pick, is_users = self._prefetching.next(avoid)
            if pick is not None and not pick.go_on:
                return self._picked_job(pick, is_users=is_users)
            if pick is not None:
                self._cursor = self._place_of(pick)
        block_index, target_page = self._cursor
        if avoid is None and (self.across_pages or self._goes_in_runs[block_index]):
            job = self._run_job(block_index, target_page, self._block_stops[block_index])
            if job is not None:
                return job
        place = self._remaining.first_from(*self._cursor)
        if avoid is not None and _lies_in(place, avoid):
            place = self._remaining.first_from(avoid.block, avoid.end // TARGET_PAGE_BYTES)
            if _lies_in(place, avoid):
                return None
        return self._scan_job(*place) if place is not None else None

    def ahead(self, count_max: int) -> list[Span]:
        """Return the huge pages that the next jobs are about, each whole, in rows of one block.

        Nothing where another job comes first, or only a look at each can tell.

        Args:
            count_max: The most pages that are wanted, 1 or more.
        """
        rows: list[Span] = []
        if self.across_pages or not self._prefetching.is_silent:
            return rows
        place = self._remaining.first_from(*self._cursor)
        if place is None or self._goes_in_runs[place[0]]:
            return rows
        block, first = place
        page_pages = self._geometry.blocks[block].target_pages_per_page
        job_pages = min(self._run_pages, self._chunk_pages) if self.in_parts else self._chunk_pages
        if page_pages > job_pages:
            return rows
        left = count_max
        # Of a page that lacks something the rest goes otherwise.
        while left and first % page_pages == 0:
            stop = min(first + left * page_pages, self._block_stops[block])
            count = self._remaining.row_from(block, first, stop) // page_pages
            if not count:
                break
            row = Span(block, first * TARGET_PAGE_BYTES, count * page_pages * TARGET_PAGE_BYTES)
            rows.append(row)
            left -= count
            place = self._remaining.first_from(block, row.target_pages.stop)
            if place is None or place[0] != block or place[1] < row.target_pages.stop:
                break
            first = place[1]
        return rows

    def run_on(self, row: Span) -> Job:
        """Give out the first row `ahead`: all its pages but the last are done; return its job."""
        block, last = row.block, self._geometry.pages_of(row)[-1]
        self._remaining.remove(row)
        self._cursor = block, row.end // TARGET_PAGE_BYTES
        page = new_page_id((block, last))
        span = self._geometry.page_span(page)
        return Job(span, page, _PRECOPY, first=span)

    def _longest_run(self) -> int:
        """Return how many target pages go together at most, 0 where all pages go whole."""
        if any(self._goes_in_runs):
            return self._chunk_pages
        huge = max(block.target_pages_per_page for block in self._geometry.blocks)
        return min(self._chunk_pages, huge) if self.in_parts else 0

    def _place_of(self, pick: Pick) -> tuple[int, int]:
        block, index = pick.page
        return block, index * self._geometry.blocks[block].target_pages_per_page + pick.target_page

    def _picked_job(self, pick: Pick, *, is_users: bool) -> Job:
        """Return the job for a page of which something remains."""
        if self._goes_in_runs[pick.page.block]:
            job = self._gathered_job(pick)
        elif self.in_parts:
            job = self._part_job(pick)
            if is_users and self._remaining.holds_page(pick.page):
                self._prefetching.put_back((pick,))
        else:
            job = Job(self._geometry.page_span(pick.page), pick.page, _PRECOPY)
            job.picks = (pick,)
        if is_users:
            job.cause = pick.why
        return job

    def _part_job(self, pick: Pick) -> Job:
        """Return the job for a part of a huge page, from where its pick says or from its start."""
        page, _, target_page, _ = pick
        block, index = page
        count = self._geometry.blocks[block].target_pages_per_page
        start = index * count
        runs = self._remaining.take_first(
            block, start + target_page, start + count, self._run_pages
        ) or self._remaining.take_first(block, start, start + count, self._run_pages)
        assert runs is not None, "something of the page remains"
        job = Job(runs, page, _PRECOPY, first=runs)
        job.picks = (pick,)
        return job

    def _gathered_job(self, pick: Pick) -> Job:
        """Return the job for base pages that were picked one after the other, in one frame."""
        block, first = pick.page
        self._remaining.discard(block, first)
        picks, low, high = [pick], first, first
        for more in self._prefetching.more(block, min(self._run_pages, RUN_COUNT_MAX) - 1):
            index = more.page.index
            low, high = min(low, index), max(high, index)
            if (high - low + 1) * TARGET_PAGE_BYTES > RUNS_EXTENT_BYTES_MAX:
                self._prefetching.put_back((more,))
                break
            self._remaining.discard(block, index)
            picks.append(more)
        runs = Runs.of_target_pages(block, np.array(sorted(p.page.index for p in picks)))
        stretch = runs if runs.hull.length > runs.length else runs.hull
        job = Job(stretch, new_page_id((block, low)), _PRECOPY, first=stretch)
        job.picks = tuple(picks)
        return job

    def _scan_job(self, block_index: int, target_page: int) -> Job:
        """Return the job for what the scan has come to."""
        stop = self._block_stops[block_index]
        if not (self.across_pages or self._goes_in_runs[block_index]):
            page = self._geometry.page_of(block_index, target_page)
            whole = self._geometry.page_span(page)
            stop = whole.target_pages.stop
            if not self.in_parts:
                self._cursor = block_index, stop
                return Job(whole, page, _PRECOPY)
        job = self._run_job(block_index, target_page, stop)
        assert job is not None, "the scan has found a member there"
        return job

    def _run_job(self, block_index: int, target_page: int, stop: int) -> Job | None:
        """Return the job for what goes together from a place on, None if nothing remains there."""
        runs = self._remaining.take_first(block_index, target_page, stop, self._run_pages)
        if runs is None:
            return None
        self._cursor = block_index, runs.end // TARGET_PAGE_BYTES
        page_bytes = self._geometry.blocks[block_index].page_bytes
        page = new_page_id((block_index, runs.offset // page_bytes))
        return Job(runs, page, _PRECOPY, first=runs)


def _lies_in(place: tuple[int, int] | None, stretch: Stretch) -> bool:
    if place is None:
        return False
    block, target_page = place
    return covers(stretch, Span(block, target_page * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
