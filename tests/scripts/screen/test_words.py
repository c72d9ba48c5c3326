"""Figures as people read them."""

import pytest

from scripts.screen.words import counted, percent, spaced, time_ms, time_us, wrapped


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


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "0 us"), (0.0004, "0 us"), (-0.0004, "0 us"), (0.0421, "0.042 us"), (0.06, "0.06 us"),
        (9.96, "9.96 us"), (99.96, "100 us"), (999.4, "999 us"), (999.6, "1 ms"),
        (43_200, "43.2 ms"), (99_960, "100 ms"), (999_400, "999 ms"), (999_600, "1 s"),
        (17_892_000, "17.9 s"), (59.94e6, "59.9 s"), (60e6, "1 min"), (3.6e9, "1 h"),
        (6e10, "16.7 h"), (3.6e13, "10000 h"), (-68_300, "-68.3 ms"), (-5e6, "-5 s"),
    ],
)  # fmt: skip
def test_times_have_the_unit_that_fits(us: float, text: str) -> None:
    """Nobody counts zeros: three digits, in the next unit where rounding leads there."""
    assert time_us(us) == text


def test_milliseconds_are_said_as_microseconds_are() -> None:
    """A time is told the same way, whatever it was counted in."""
    assert [time_ms(each) for each in (0.0421, 2.857, 1304.0)] == ["42.1 us", "2.86 ms", "1.3 s"]


def test_many_things_are_grouped_by_thousands() -> None:
    """Nobody counts digits."""
    assert counted(2520, "wait", "waits") == "2,520 waits"


def test_a_number_stays_with_its_unit() -> None:
    """No line ends between the two, none within a word's hyphen, and none is too long."""
    text = "page 5 is half-sent: 73 % of 104 MiB in 1.2 s at 91 MB/s, 3 pages"
    for width in range(12, len(text) + 3):
        lines = wrapped(text, width, "  ")
        assert " ".join(line.strip() for line in lines) == text
        assert max(map(len, lines)) <= width
        for kept in ("half-sent:", "73 %", "104 MiB", "1.2 s", "91 MB/s"):
            assert any(kept in line for line in lines), (width, kept)


def test_typed_sizes_are_spaced() -> None:
    """One or several, with names and page sizes."""
    assert spaced("256MiB") == "256 MiB"
    assert spaced("ram=192MiB@2MiB,rom=64MiB@4KiB") == "ram=192 MiB@2 MiB,rom=64 MiB@4 KiB"
    assert spaced("4096") == "4096"
