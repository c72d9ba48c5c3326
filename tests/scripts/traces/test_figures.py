"""A trace's figures are what counting by hand gives."""

import numpy as np

from guest.trace import Trace
from protocol.units import parse_geometry
from scripts.traces.figures import density, figures_of

GUEST = parse_geometry("ram=4MiB@2MiB,rom=64KiB@4KiB", "2MiB")


def trace(
    pages: list[int], vcpus: list[int] | None = None, times_ns: list[int] | None = None
) -> Trace:
    """Return a trace of reads, and a write at its end."""
    is_write = np.zeros(len(pages), np.bool_)
    is_write[-1] = True
    return Trace(
        np.array(vcpus or [0] * len(pages), np.uint8),
        np.array(pages, np.uint64),
        is_write,
        None if times_ns is None else np.array(times_ns, np.int64),
    )


def test_figures_are_counted() -> None:
    """Reads and writes, target pages and pages of any size, what comes again and what goes on."""
    figures = figures_of(
        trace([0, 1, 511, 0, 1024, 1025, 0], times_ns=[5, 6, 7, 8, 9, 10, 25]), GUEST
    )
    assert (figures.accesses, figures.writes, figures.vcpu_counts) == (7, 1, {0: 7})
    assert figures.span_ns == 20
    assert (figures.target_pages, figures.footprint_bytes) == (5, 5 * 4096)
    assert (figures.pages, figures.pages_all) == (3, 18)
    # Page 0 comes again after three accesses each time.
    assert (figures.reuses, figures.reuse_distance) == (2, 3.0)
    assert figures.nexts == 2


def test_each_vcpu_goes_on_for_itself() -> None:
    """Two that go up in turns are sequential; nothing that is touched once is touched again."""
    figures = figures_of(trace([0, 600, 1, 601, 2, 602], [0, 2, 0, 2, 0, 2]), GUEST)
    assert figures.vcpu_counts == {0: 3, 2: 3}
    assert figures.nexts == 4
    assert (figures.reuses, figures.reuse_distance, figures.span_ns) == (0, None, None)
    assert figures_of(trace([9, 8, 7, 7, 9]), GUEST).nexts == 1


def test_a_footprint_is_counted_in_cells() -> None:
    """Over time where there is some, else over the accesses; every access is in one cell."""
    grid, end = density(trace([0, 0, 1039], times_ns=[0, 10**9, 4 * 10**9]), GUEST, 2, 4)
    assert grid.tolist() == [[1, 1, 0, 0], [0, 0, 0, 1]]
    assert end == 4.0
    grid, end = density(trace([0, 0, 1039]), GUEST, 2, 3)
    assert grid.tolist() == [[1, 1, 0], [0, 0, 1]]
    assert end == 3.0
    grid, _ = density(trace([7], times_ns=[0]), GUEST, 2, 4)
    assert grid.sum() == 1
