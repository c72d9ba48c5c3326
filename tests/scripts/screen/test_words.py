"""Figures as people read them."""

import pytest

from scripts.screen.words import counted, percent, time_ms


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"), (0.001, "under 1 %"), (0.0099, "under 1 %"), (0.0149, "1 %"), (0.5, "50 %"),
        (0.9949, "99 %"), (0.995, "over 99 %"), (0.99999, "over 99 %"), (1.0, "100 %"),
    ],
)  # fmt: skip
def test_a_share_that_is_not_all_is_not_said_to_be(share: float, text: str) -> None:
    """100 % is all, 0 % is nothing, and what lies between is rounded."""
    assert percent(share) == text


def test_one_thing_and_several() -> None:
    """One has its singular, none and several their plural."""
    assert [counted(number, "vCPU", "vCPUs") for number in range(3)] == [
        "0 vCPUs", "1 vCPU", "2 vCPUs"
    ]  # fmt: skip


def test_milliseconds_have_the_unit_that_fits() -> None:
    """A time is told with three digits, whatever it was counted in."""
    assert [time_ms(each) for each in (0.0421, 2.857, 1304.0)] == ["42.1 us", "2.86 ms", "1.3 s"]
