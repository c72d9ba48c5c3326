"""Latency figures: stages that add up, bins, and summaries as exact as three digits are."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dest.faults import Wait
from dest.latency import Latencies, new_histogram, summarize, summary_of
from protocol.geometry import PageId
from protocol.report import LATENCY_BIN_COUNT, STAGES, Summary

PAGE = PageId(0, 5)
HOUR_NS = 3600 * 10**9

# Three significant digits: a value and its figure differ by a thousandth at most, and by the
# rounding to whole nanoseconds.
PRECISION = 1e-3


def wait_of(latency_ns: int, vcpu: int = 0) -> Wait:
    """Return a complete wait of a length, all of it spent on its way."""
    return Wait(
        vcpu, PAGE, 1000, 1000,
        last_byte_ns=1000 + latency_ns, placed_ns=1000 + latency_ns, wake_ns=1000 + latency_ns,
    )  # fmt: skip


# Stages.


def test_the_recorded_stages_are_those_of_the_waits() -> None:
    """The stages' summaries stand in their order, and count each wait, a time of 0 as 0."""
    latencies = Latencies(1)
    for latency_ns in (1_000, 3_000):
        latencies.record(wait_of(latency_ns))
    stages = {stage.stage: stage.summary for stage in latencies.stages}
    assert tuple(stages) == STAGES
    assert {summary.count for summary in stages.values()} == {2}
    assert stages["receive"].max_us == pytest.approx(3.0, rel=PRECISION)
    assert (stages["queue"].p50_us, stages["queue"].max_us, stages["queue"].mean_us) == (0, 0, 0)


# Bins.


@pytest.mark.parametrize(
    ("latency_ns", "expected_bin"),
    [
        (0, 0),
        (1, 0),
        (999, 0),
        (1_999, 0),
        (2_000, 1),
        (3_999, 1),
        (4_000, 2),
        (1_023_999, 9),
        (1_024_000, 10),
        ((1 << 23) * 1000 - 1, 22),
        ((1 << 23) * 1000, 23),
        ((1 << 24) * 1000, 23),
        (HOUR_NS, 23),
        (5 * HOUR_NS, 23),
    ],
)
def test_a_bin_counts_from_one_power_of_two_to_the_next(latency_ns: int, expected_bin: int) -> None:
    """Bin i counts from 2^i to 2^(i+1) microseconds, the first also less, the last also more."""
    latencies = Latencies(1)
    latencies.record(wait_of(latency_ns))
    assert len(latencies.bins) == LATENCY_BIN_COUNT
    assert [index for index, count in enumerate(latencies.bins) if count] == [expected_bin]


@given(st.lists(st.integers(0, 2 * HOUR_NS), max_size=30))
def test_every_wait_is_in_every_figure(lengths_ns: list[int]) -> None:
    """Bins, summary and stages count the same waits, those of more than an hour too."""
    latencies = Latencies(2)
    for number, latency_ns in enumerate(lengths_ns):
        latencies.record(wait_of(latency_ns, vcpu=number % 2))
    counts = [sum(latencies.bins), latencies.faults.count]
    counts += [stage.summary.count for stage in latencies.stages]
    assert set(counts) == {len(lengths_ns)}


# Means by vCPU.


def test_means_and_sums_are_by_vcpu() -> None:
    """Each vCPU has the mean of its own waits; the blocktime is the sum of all."""
    latencies = Latencies(4)
    for vcpu, latency_ns in ((0, 1_000_000), (0, 2_000_001), (2, 6_000_000)):
        latencies.record(wait_of(latency_ns, vcpu))
    assert latencies.vcpu_mean_ns == (1_500_000, 0, 6_000_000, 0)
    assert latencies.mean_ns == 3_000_000
    assert latencies.blocktime_ms == pytest.approx(9.000001)


def test_without_waits_all_is_nothing() -> None:
    """Where nobody waited the figures are 0, not missing."""
    latencies = Latencies(2)
    assert latencies.faults == Summary()
    assert {stage.summary for stage in latencies.stages} == {Summary()}
    assert latencies.bins == (0,) * LATENCY_BIN_COUNT
    assert (latencies.mean_ns, latencies.vcpu_mean_ns) == (0, (0, 0))
    assert latencies.blocktime_ms == 0


# Summaries.

LENGTHS = st.lists(
    st.integers(0, 10**4) | st.integers(0, 10**9) | st.integers(0, HOUR_NS),
    min_size=1,
    max_size=200,
)


@given(LENGTHS)
def test_a_summary_is_what_the_values_are(lengths_ns: list[int]) -> None:
    """Percentiles, maximum and mean are those of the values themselves, to three digits."""
    latencies = Latencies(1)
    for latency_ns in lengths_ns:
        latencies.record(wait_of(latency_ns))
    summary = latencies.faults
    assert summary.count == len(lengths_ns)
    figures = {
        50: summary.p50_us, 90: summary.p90_us, 99: summary.p99_us, 99.9: summary.p999_us,
    }  # fmt: skip
    values_us = np.array(lengths_ns) / 1000
    for percentile, figure_us in figures.items():
        # Nearest rank, rounded up: the first value that enough of them do not exceed.
        expected_us = np.percentile(values_us, percentile, method="inverted_cdf")
        assert figure_us == pytest.approx(expected_us, rel=PRECISION, abs=0.001)
    assert summary.max_us == pytest.approx(values_us.max(), rel=PRECISION, abs=0.001)
    assert summary.mean_us == pytest.approx(values_us.mean(), rel=PRECISION, abs=0.001)
    ordered = [*figures.values(), summary.max_us]
    assert all(one <= other for one, other in pairwise(ordered))


@settings(max_examples=20)
@given(st.integers(0, 2_500), st.integers(0, 1 << 32))
def test_waits_are_sorted_in_as_one_by_one(count: int, seed: int) -> None:
    """Many waits at once come to where the histogram's own method puts each of them."""
    lengths_ns = np.exp2(np.random.default_rng(seed).uniform(0, 42, count)).astype(np.int64)
    latencies, histogram = Latencies(1), new_histogram()
    for latency_ns in np.minimum(lengths_ns, HOUR_NS).tolist():
        latencies.record(wait_of(latency_ns))
        histogram.record_value(latency_ns)
    assert latencies.faults == summarize(histogram)


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
