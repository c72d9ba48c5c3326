"""The bins are HdrHistogram's own, and figures as exact as three digits are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.latency import (
    BIN_COUNT,
    LATENCY_NS_MAX,
    add_latencies,
    histogram_of,
    new_histogram,
    summarize,
    summary_of,
)

# A figure differs from its value by a thousandth at most.
PRECISION = 1e-3


def test_a_histogram_has_as_many_bins() -> None:
    """The shared bins and a histogram's counters are equally many."""
    assert new_histogram().counts_len == BIN_COUNT


@settings(max_examples=30)
@given(st.lists(st.one_of(st.integers(0, 5000), st.integers(0, LATENCY_NS_MAX)), max_size=50))
def test_bins_are_those_that_record_value_fills(latencies_ns: list[int]) -> None:
    """Counting in bins and recording one by one make the same histogram."""
    bins = np.zeros(BIN_COUNT, dtype=np.int64)
    recorded = new_histogram()
    for value in latencies_ns:
        recorded.record_value(value)
    add_latencies(bins, latencies_ns)
    assert bytes(histogram_of(bins).counts) == bytes(recorded.counts)
    assert histogram_of(bins).get_total_count() == len(latencies_ns)


def test_values_out_of_range_count_at_the_ends() -> None:
    """More than an hour counts as an hour, and a clock that went back as nothing."""
    bins = np.zeros(BIN_COUNT, dtype=np.int64)
    add_latencies(bins, [LATENCY_NS_MAX + 1, -1])
    assert histogram_of(bins).get_max_value() >= LATENCY_NS_MAX
    assert bins[0] == 1


@pytest.mark.parametrize(("count", "p90_ms"), [(1, 1), (4, 4), (5, 5), (9, 9), (10, 9), (11, 10)])
def test_a_percentile_is_rounded_up_to_the_next_value(count: int, p90_ms: int) -> None:
    """Of few values p90 is the first that nine tenths of them do not exceed, and not less."""
    summary = summary_of(value * 10**6 for value in range(1, count + 1))
    assert summary.p90_us == pytest.approx(1000 * p90_ms, rel=PRECISION)


def test_percentiles_of_many_values_are_theirs() -> None:
    """Over many values each percentile is within three digits of the sorted values' own."""
    values_ns = [*range(1_000, 100_000_000, 1_000), 10**10]
    histogram = new_histogram()
    for value_ns in values_ns:
        histogram.record_value(value_ns)
    summary = summarize(histogram)
    assert summary.count == 100_000
    assert summary.p50_us == pytest.approx(50_000, rel=PRECISION)
    assert summary.p90_us == pytest.approx(90_000, rel=PRECISION)
    assert summary.p99_us == pytest.approx(99_000, rel=PRECISION)
    assert summary.p999_us == pytest.approx(99_900, rel=PRECISION)
    assert summary.max_us == pytest.approx(10**7, rel=PRECISION)
    assert summary.mean_us == pytest.approx(sum(values_ns) / 1e8, rel=PRECISION)
