"""Figures of a trace: how much it touches, how often it comes back, in what order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guest.trace import Trace
from protocol.geometry import TARGET_PAGE_BYTES, Geometry


@dataclass(frozen=True)
class TraceFigures:
    """Figures of a trace that has an access.

    Attributes:
        accesses: How many there are.
        writes: How many of them write.
        vcpu_counts: How many each vCPU makes, of those that make any.
        span_ns: From the first to the last; None without times.
        target_pages: How many different ones are touched.
        pages: The same of the guest's pages.
        pages_all: How many pages the guest has.
        reuses: How many accesses are to a target page that was touched before.
        reuse_distance: Of those, the median of how many accesses ago; None if there are none.
        nexts: How many accesses go to the target page behind, or the same as, their vCPU's last.
    """

    accesses: int
    writes: int
    vcpu_counts: dict[int, int]
    span_ns: int | None
    target_pages: int
    pages: int
    pages_all: int
    reuses: int
    reuse_distance: float | None
    nexts: int

    @property
    def footprint_bytes(self) -> int:
        """How much memory is touched, by target pages."""
        return self.target_pages * TARGET_PAGE_BYTES


def figures_of(trace: Trace, geometry: Geometry) -> TraceFigures:
    """Return the figures of a trace with at least one access."""
    counts = np.bincount(trace.vcpus)
    pages = trace.flat_pages.astype(np.int64)
    order = np.argsort(pages, kind="stable")
    is_again = pages[order][1:] == pages[order][:-1]
    distances = np.diff(order)[is_again]
    return TraceFigures(
        accesses=trace.access_count,
        writes=int(np.count_nonzero(trace.is_write)),
        vcpu_counts={vcpu: int(counts[vcpu]) for vcpu in np.flatnonzero(counts).tolist()},
        span_ns=None if trace.times_ns is None else int(np.ptp(trace.times_ns)),
        target_pages=trace.access_count - len(distances),
        pages=_count_pages(np.unique(pages), geometry),
        pages_all=geometry.page_count,
        reuses=len(distances),
        reuse_distance=float(np.median(distances)) if len(distances) else None,
        nexts=_count_nexts(trace.vcpus, pages),
    )


def _count_pages(target_pages: NDArray[np.int64], geometry: Geometry) -> int:
    """Return how many of the guest's pages these different flat target pages are in."""
    count = 0
    for base, block in zip(geometry.target_page_bases, geometry.blocks, strict=True):
        end = base + block.target_page_count
        own = target_pages[(target_pages >= base) & (target_pages < end)] - base
        count += len(np.unique(own // block.target_pages_per_page))
    return count


def _count_nexts(vcpus: NDArray[np.uint8], pages: NDArray[np.int64]) -> int:
    order = np.argsort(vcpus, kind="stable")
    owners, steps = vcpus[order], np.diff(pages[order])
    return int(np.count_nonzero((owners[1:] == owners[:-1]) & (steps >= 0) & (steps <= 1)))


def density(
    trace: Trace, geometry: Geometry, rows: int, columns: int
) -> tuple[NDArray[np.float64], float]:
    """Return how many accesses fall into each cell of the footprint over time.

    Args:
        trace: With at least one access.
        geometry: Its guest: the rows are all of its memory.
        rows: How many, the lowest addresses first.
        columns: How many, over the trace's time, or without that over its accesses.

    Returns:
        The counts, shape (rows, columns), and what the columns end at: seconds, or accesses.
    """
    if trace.times_ns is None:
        when, end = np.arange(trace.access_count), float(trace.access_count)
    else:
        when, end = trace.times_ns, max(float(trace.times_ns.max()), 1.0)
    grid, _, _ = np.histogram2d(
        trace.flat_pages.astype(np.float64),
        when.astype(np.float64),
        bins=(rows, columns),
        range=((0, geometry.target_page_count), (0, end)),
    )
    return grid, end if trace.times_ns is None else end / 1e9
