"""Latency histograms: counts in bins that shared memory can hold and HdrHistogram can read.

A bin's width is at most a thousandth of its values (three significant digits), so a long migration
costs no more memory than a short one.  The bins are HdrHistogram's own, so nothing is lost in the
conversion; its `record_value` alone would cost a third of an access.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocol.report import Summary

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

# An hour; what takes longer counts as an hour.
LATENCY_NS_MAX = 3600 * 10**9
_SIGNIFICANT_FIGURES = 3

# Of a thousand values, how many a percentile is not exceeded by: the median, p90, p99 and p99.9.
_PER_MILLE = (500, 900, 990, 999)

# Two thousand bins, a power of two of them, tell all smaller values apart; from there on every
# doubling of the value has half as many bins of twice the width.
_FINE_BITS = 11
_HALF = 1 << (_FINE_BITS - 1)
BIN_COUNT = (LATENCY_NS_MAX.bit_length() - _FINE_BITS + 2) * _HALF


def new_histogram() -> HdrHistogram:
    """Return an empty histogram of latencies in nanoseconds."""
    # Imported late: vCPUs only count, and a guest process is waited for while it loads.
    from hdrh.histogram import HdrHistogram  # noqa: PLC0415

    return HdrHistogram(1, LATENCY_NS_MAX, _SIGNIFICANT_FIGURES)


def add_latencies(bins: NDArray[np.integer], latencies_ns: ArrayLike) -> None:
    """Count latencies in `bins`, shape (BIN_COUNT,)."""
    values = np.clip(np.asarray(latencies_ns, dtype=np.int64), 0, LATENCY_NS_MAX)
    # frexp's exponent of a whole number is its bit length, exact below 2**53.
    shifts = np.maximum(np.frexp(values.astype(np.float64))[1] - _FINE_BITS, 0)
    np.add.at(bins, shifts * _HALF + (values >> shifts), 1)


def histogram_of(bins: NDArray[np.int64]) -> HdrHistogram:
    """Return the histogram that such bins make."""
    histogram = new_histogram()
    for index in np.flatnonzero(bins).tolist():
        histogram.record_value(histogram.get_value_from_index(index), int(bins[index]))
    return histogram


def record_latencies(histogram: HdrHistogram, latencies_ns: NDArray[np.int64]) -> None:
    """Do as `record_value` for each latency, in a hundredth of the time."""
    add_latencies(np.frombuffer(histogram.counts, dtype=np.uint64), latencies_ns)
    histogram.total_count += len(latencies_ns)


def summary_of(values_ns: Iterable[int]) -> Summary:
    """Return the figures of some values in microseconds, as `summarize` does of all that waited."""
    histogram = new_histogram()
    values = np.fromiter(values_ns, np.int64)
    record_latencies(histogram, values)
    return summarize(histogram)


def summarize(histogram: HdrHistogram) -> Summary:
    """Return a histogram of nanoseconds as figures in microseconds.

    A percentile is the smallest value that so large a share of all values does not exceed (nearest
    rank, rounded up).  It is said here and nowhere else: reports, tables, pages and live views call
    this, so that one run has one p90.
    """
    count = histogram.get_total_count()
    if not count:
        return Summary()
    # The histogram's own methods look at every bin there could be, in Python: a fifth of a second.
    counts = np.frombuffer(histogram.counts, dtype=np.uint64).astype(np.int64)
    used = np.flatnonzero(counts)
    counts = counts[used]
    lowest_ns = [histogram.get_value_from_index(index) for index in used.tolist()]
    highest_ns = np.array([histogram.get_highest_equivalent_value(value) for value in lowest_ns])
    ranks = [-(-count * share // 1000) for share in _PER_MILLE]
    values_us = highest_ns[np.searchsorted(np.cumsum(counts), ranks)] / 1000
    mean_ns = float(counts @ ((highest_ns + lowest_ns) / 2)) / count
    p50_us, p90_us, p99_us, p999_us = values_us.tolist()
    return Summary(
        count=count,
        p50_us=p50_us,
        p90_us=p90_us,
        p99_us=p99_us,
        p999_us=p999_us,
        max_us=int(highest_ns[-1]) / 1000,
        mean_us=round(mean_ns / 1000, 3),
    )
