"""Numbers of other tools are read to the last digit, or refused."""

import pytest

from guest.access_line import WrongLineError
from scripts.traces.found import ADDRESS_MAX, CLOCK_NS_MAX, parse_address, parse_clock, quoted


@pytest.mark.parametrize(
    ("text", "unit_ns", "ns"),
    [
        ("0", 1, 0),
        (" 1.5 ", 10**9, 1_500_000_000),
        ("1796059275.029362001", 10**9, 1796059275029362001),
        ("0.0000000019", 10**9, 1),
        (str(CLOCK_NS_MAX), 1, CLOCK_NS_MAX),
    ],
)
def test_a_clock_is_read(text: str, unit_ns: int, ns: int) -> None:
    """What is less than a nanosecond is dropped."""
    assert parse_clock(text, unit_ns) == ns


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "inf", "nan", "1e40", str(CLOCK_NS_MAX + 1), "0." + "0" * 99]
)
def test_what_no_clock_says_is_refused(text: str) -> None:
    """Also what is written longer than any time is."""
    with pytest.raises(WrongLineError, match="is not a time"):
        parse_clock(text, 1)


def test_an_address_has_64_bits() -> None:
    """Hexadecimal behind 0x, else decimal."""
    assert parse_address("0x10") == parse_address(" 16 ") == 16
    assert parse_address(str(ADDRESS_MAX)) == parse_address("0xffffffffffffffff") == ADDRESS_MAX
    for wrong in ("", "x", "ff", "-1", "1.0", "0x", str(ADDRESS_MAX + 1), "0x1" + "0" * 16):
        with pytest.raises(WrongLineError, match="is not an address"):
            parse_address(wrong)


def test_what_is_quoted_is_short() -> None:
    """A line of the file may be of any length."""
    assert quoted(" a\n") == "'a'"
    assert len(quoted("x" * 1000)) < 70
