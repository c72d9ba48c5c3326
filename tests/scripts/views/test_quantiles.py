"""Percentiles and counts over time are those of the plain definition."""

from hypothesis import given
from hypothesis import strategies as st

from scripts.views.quantiles import percentiles_us, quantile, waited_us, waiting_over_time
from scripts.views.records import Wait


def wait(start_ns: int, wake_ns: int | None, vcpu: int = 0) -> Wait:
    """Return a wait for a page that does not matter."""
    return Wait(vcpu, 0, 0, start_ns, wake_ns, None)


@given(
    st.lists(st.floats(0, 1e9), min_size=1, max_size=50).map(sorted),
    st.sampled_from((0.5, 0.9, 0.99, 0.999, 1.0)),
)
def test_a_quantile_is_the_first_value_that_enough_do_not_exceed(
    values: list[float], share: float
) -> None:
    """Of all values, it is the smallest below or at which so large a share lies."""
    found = quantile(values, share)
    assert found in values
    enough = share * len(values)
    assert sum(value <= found for value in values) >= enough - 1e-9
    assert sum(value < found for value in values) < enough


def test_waits_that_go_on_are_in_no_percentile() -> None:
    """Only what ended has a length; nothing at all has zeros."""
    waits = [wait(0, 4000), wait(0, 2000), wait(0, None)]
    assert percentiles_us(waits) == {"p50": 2, "p90": 4, "p99": 4, "p99.9": 4, "max": 4}
    assert set(percentiles_us([]).values()) == {0.0}
    assert waited_us(waits) == 6


def test_the_number_of_waiting_vcpus_goes_up_and_down() -> None:
    """It rises with each touch, falls with each wake-up, and ends at nothing."""
    waits = [wait(10, 30), wait(20, None, 1), wait(30, 40)]
    assert waiting_over_time(waits, 50) == [(10, 1), (20, 2), (30, 2), (40, 1), (50, 0)]
