"""Percentiles and counts over time are those of the plain definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dest.faults
from dest.latency import Latencies
from protocol.geometry import PageId
from scripts.views.quantiles import percentiles_us, waited_us, waiting_over_time
from scripts.views.records import Wait


def wait(start_ns: int, wake_ns: int | None, vcpu: int = 0) -> Wait:
    """Return a wait for a page that does not matter."""
    return Wait(vcpu, 0, 0, start_ns, wake_ns, None)


@given(st.lists(st.integers(0, 10**12), max_size=60))
def test_the_percentiles_are_those_of_the_report(lengths_ns: list[int]) -> None:
    """The figures that views make of events are those that the destination makes of the waits."""
    latencies = Latencies(1)
    for length_ns in lengths_ns:
        latencies.record(
            dest.faults.Wait(
                0, PageId(0, 0), 5, 5, last_byte_ns=5, placed_ns=5, wake_ns=5 + length_ns
            )
        )
    reported = latencies.faults
    assert percentiles_us(wait(5, 5 + length_ns) for length_ns in lengths_ns) == {
        "p50": reported.p50_us,
        "p90": reported.p90_us,
        "p99": reported.p99_us,
        "p99.9": reported.p999_us,
        "max": reported.max_us,
    }


def test_waits_that_go_on_are_in_no_percentile() -> None:
    """Only what ended has a length; nothing at all has zeros."""
    waits = [wait(0, 4000), wait(0, 2000), wait(0, None)]
    expected = {"p50": 2, "p90": 4, "p99": 4, "p99.9": 4, "max": 4}
    assert percentiles_us(waits) == pytest.approx(expected, rel=1e-3)
    assert set(percentiles_us([]).values()) == {0.0}
    assert waited_us(waits) == 6


def test_the_number_of_waiting_vcpus_goes_up_and_down() -> None:
    """It rises with each touch, falls with each wake-up, and ends at nothing."""
    waits = [wait(10, 30), wait(20, None, 1), wait(30, 40)]
    assert waiting_over_time(waits, 50) == [(10, 1), (20, 2), (30, 2), (40, 1), (50, 0)]
