"""A part of a trace is what lies between two places, of some vCPUs, with times of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.access_line import Access, parse_access
from protocol.errors import LocalProtocolError
from scripts.traces.cutting import Cut, Mark, parse_mark, parse_vcpus

S = 10**9
TIMED = [Access(time_ns=n * S, vcpu=n % 3, page=n) for n in range(9)]
UNTIMED = [access._replace(time_ns=None) for access in TIMED]


def lines(cut: Cut, accesses: list[Access]) -> list[str]:
    """Return a part's lines without their ends."""
    return [line.rstrip() for line in cut.lines(lambda: accesses)]


def test_a_time_is_where_times_begin_anew() -> None:
    """From is kept and to is not; what was due a second after the cut still is."""
    assert lines(Cut(parse_mark("2.5s"), parse_mark("5s")), TIMED) == [
        "@0.500000000 0 3 r", "@1.500000000 1 4 r",
    ]  # fmt: skip
    assert lines(Cut(stop=parse_mark("1s")), TIMED) == ["@0.000000000 0 0 r"]


def test_an_access_is_named_by_its_number() -> None:
    """With its time as the beginning, where there is one; a place stays as it was written."""
    part = Cut(Mark(7), Mark(9))
    assert lines(part, TIMED) == ["@0.000000000 1 7 r", "@1.000000000 2 8 r"]
    assert lines(part, UNTIMED) == ["1 7 r", "2 8 r"]
    accesses = [Access(block="rom", page=1, target_page=5, is_write=True), Access(address=31)]
    assert lines(Cut(), accesses) == ["0 rom 1+5 w", "0 0x1f r"]


def test_vcpus_are_numbered_anew() -> None:
    """In the order of their numbers; times are those of the whole."""
    assert lines(Cut(stop=Mark(4), vcpus=parse_vcpus("2,1")), TIMED) == [
        "@1.000000000 0 1 r", "@2.000000000 1 2 r",
    ]  # fmt: skip
    assert lines(Cut(vcpus=(9,)), TIMED) == []


@given(at=st.integers(0, 10), is_time=st.booleans())
def test_the_parts_on_both_sides_of_a_place_are_the_whole(at: int, *, is_time: bool) -> None:
    """No access is lost or in both."""
    mark = Mark(None, at * S) if is_time else Mark(at)
    parts = [*Cut(stop=mark).kept(TIMED), *Cut(start=mark).kept(TIMED)]
    assert parts == TIMED
    assert all(parse_access(line) for line in Cut(start=mark).lines(lambda: TIMED))


def test_places_are_read() -> None:
    """A number is an access, what has a unit a time; only a time needs times."""
    assert parse_mark("12") == Mark(12)
    assert parse_mark("1.5ms") == Mark(None, 1_500_000)
    assert not Cut(Mark(1), Mark(2)).needs_times
    assert Cut(Mark(1), parse_mark("2s")).needs_times
    for wrong in ("", "s", "-1", "2 fortnights", "1" * 30):
        with pytest.raises(LocalProtocolError):
            parse_mark(wrong)


def test_vcpus_are_read() -> None:
    """A list of numbers and of stretches."""
    assert parse_vcpus("0, 5-7,6") == (0, 5, 6, 7)
    for wrong in ("", "64", "3-1", "1-64", "a", "1,,2", "\u0661"):
        with pytest.raises(LocalProtocolError, match="is not a vCPU"):
            parse_vcpus(wrong)
