"""Replays the faults of an earlier run, in their order, from the beginning on.  Pure.

After D. Ustiugov, P. Petrov, M. Kogias, E. Bugnion and B. Grot, "Benchmarking, analysis, and
optimization of serverless function snapshots", ASPLOS 2021 (REAP: record and prefetch): what a
guest touches after it was restored is much the same each time, so the pages that it faulted on once
are fetched before it asks.  Record a run in which no page comes unasked: what comes in time is no
fault, and is missing in the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from protocol.geometry import Geometry, PageId
from source.scheme import Pick, Prefetcher, Remaining


class Recorded(Prefetcher):
    """Picks the pages of a recording that remain, one after the other."""

    def __init__(self, pages_of: Callable[[Geometry], Iterable[PageId]]) -> None:
        """Take what finds a recording's pages in a guest; it raises where that is another guest."""
        self._pages_of = pages_of

    def restart(self, geometry: Geometry, remaining: Remaining) -> None:
        """Begin with the recording's first page: what a break has lost is fetched again."""
        self._pages = iter(dict.fromkeys(self._pages_of(geometry)))

    def next(self, remaining: Remaining) -> Pick | None:
        """Return the next page of the recording."""
        page = next((page for page in self._pages if remaining.holds(page)), None)
        return Pick(page, "recorded") if page is not None else None
