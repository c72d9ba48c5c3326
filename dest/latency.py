"""Latency figures of the destination: faults, their stages, and who waited.

Values go into HDR histograms (three significant digits), so a long migration costs no more memory
than a short one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from dest.faults import Wait
from dest.stages import stages_ns
from protocol.report import LATENCY_BIN_COUNT, STAGES, StageSummary, Summary

# A nanosecond to an hour; what takes longer counts as an hour.
_LOWEST_NS, _HIGHEST_NS, _DIGITS = 1, 3_600_000_000_000, 3

# Of a thousand values, how many a percentile is not exceeded by: the median, p90, p99 and p99.9.
_PER_MILLE = (500, 900, 990, 999)

# The vCPU runs again and may touch the next page, which is heard of when its last wait is recorded;
# into eight histograms one by one that takes as long as to ask for the page.
_GATHERED_WAITS = 1024


def new_histogram() -> HdrHistogram:
    """Return an empty histogram of nanoseconds."""
    return HdrHistogram(_LOWEST_NS, _HIGHEST_NS, _DIGITS)


def summary_of(values_ns: Iterable[int]) -> Summary:
    """Return the figures of some values in microseconds, as `summarize` does of all that waited."""
    histogram = new_histogram()
    values = np.fromiter(values_ns, np.int64)
    if len(values):
        _record(histogram, np.clip(values, 0, _HIGHEST_NS))
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


def _record(histogram: HdrHistogram, values_ns: NDArray[np.int64]) -> None:
    """Do as `record_value` for each value, in a hundredth of the time."""
    halves = histogram.sub_bucket_half_count_magnitude
    # How many bits a value has; up to the longest wait a float says it exactly.
    bits = np.frexp((values_ns | histogram.sub_bucket_mask).astype(np.float64))[1]
    buckets = bits - (halves + 1)
    indices = (buckets << halves) + (values_ns >> buckets)
    counts = np.frombuffer(histogram.counts, dtype=np.uint64)
    np.add.at(counts, indices, 1)
    histogram.total_count += len(values_ns)


class Latencies:
    """Collects complete waits."""

    def __init__(self, vcpu_count: int) -> None:
        """Start with none."""
        self._faults = new_histogram()
        self._stages = {stage: new_histogram() for stage in STAGES}
        # What is not in the histograms yet: of each wait its length, and those of its stages.
        self._gathered: list[tuple[int, ...]] = []
        self._bins = [0] * LATENCY_BIN_COUNT
        self._vcpu_ns = [0] * vcpu_count
        self._vcpu_waits = [0] * vcpu_count

    def record(self, wait: Wait) -> dict[str, int]:
        """Take a complete wait; return its `stages_ns`."""
        stages, vcpu, latency_ns = stages_ns(wait), wait.vcpu, wait.latency_ns
        self._gathered.append((latency_ns, *stages.values()))
        if len(self._gathered) == _GATHERED_WAITS:
            self._sort_in()
        bin_index = max(latency_ns // 1000, 1).bit_length() - 1
        self._bins[min(bin_index, LATENCY_BIN_COUNT - 1)] += 1
        self._vcpu_ns[vcpu] += latency_ns
        self._vcpu_waits[vcpu] += 1
        return stages

    def _sort_in(self) -> None:
        """Have all waits in the histograms."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            histograms = (self._faults, *self._stages.values())
            for histogram, values_ns in zip(histograms, np.array(gathered).T, strict=True):
                _record(histogram, np.minimum(values_ns, _HIGHEST_NS))

    @property
    def faults(self) -> Summary:
        """All waits, fault to wake-up."""
        self._sort_in()
        return summarize(self._faults)

    @property
    def stages(self) -> tuple[StageSummary, ...]:
        """Each stage of all waits, in the order in which they happen."""
        self._sort_in()
        return tuple(
            StageSummary(stage, summarize(histogram)) for stage, histogram in self._stages.items()
        )

    @property
    def bins(self) -> tuple[int, ...]:
        """Counts by power-of-two microseconds; below 2 us is the first, the rest the last."""
        return tuple(self._bins)

    @property
    def mean_ns(self) -> int:
        """Mean wait of all vCPUs."""
        return sum(self._vcpu_ns) // max(sum(self._vcpu_waits), 1)

    @property
    def vcpu_mean_ns(self) -> tuple[int, ...]:
        """Mean wait of each vCPU, 0 for one that never waited."""
        return tuple(
            total_ns // max(waits, 1)
            for total_ns, waits in zip(self._vcpu_ns, self._vcpu_waits, strict=True)
        )

    @property
    def blocktime_ms(self) -> float:
        """Sum over all vCPUs of the time they slept for pages."""
        return sum(self._vcpu_ns) / 1e6
