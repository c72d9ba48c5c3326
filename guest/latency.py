"""Latencies as counts in bins that shared memory can hold and HdrHistogram can read.

A bin's width is at most a thousandth of its values.  The bins are HdrHistogram's own, so nothing is
lost in the conversion; its `record_value` alone would cost a third of an access.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

# An hour; what takes longer counts as an hour.
LATENCY_NS_MAX = 3600 * 10**9
_SIGNIFICANT_FIGURES = 3

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


def add_latencies(bins: NDArray[np.int64], latencies_ns: list[int]) -> None:
    """Count latencies in `bins`, shape (BIN_COUNT,)."""
    values = np.clip(np.array(latencies_ns, dtype=np.int64), 0, LATENCY_NS_MAX)
    # frexp's exponent of a whole number is its bit length, exact below 2**53.
    shifts = np.maximum(np.frexp(values.astype(np.float64))[1] - _FINE_BITS, 0)
    np.add.at(bins, shifts * _HALF + (values >> shifts), 1)


def histogram_of(bins: NDArray[np.int64]) -> HdrHistogram:
    """Return the histogram that such bins make."""
    histogram = new_histogram()
    for index in np.flatnonzero(bins).tolist():
        histogram.record_value(histogram.get_value_from_index(index), int(bins[index]))
    return histogram
