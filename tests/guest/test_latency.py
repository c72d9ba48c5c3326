"""The bins are HdrHistogram's own."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.latency import BIN_COUNT, LATENCY_NS_MAX, add_latencies, histogram_of, new_histogram


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
