"""Tests of protocol/units.py."""

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry, RamBlock
from protocol.units import (
    format_bytes,
    parse_bytes,
    parse_duration_ms,
    parse_geometry,
    parse_rate,
)

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

any_text = st.text(max_size=30) | st.text("0123456789.eE+-_ kKMGTiBbits/@=,", max_size=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("4KiB", 4 * KIB),
        ("256MiB", 256 * MIB),
        ("256 MiB", 256 * MIB),
        (" 1GiB\n", GIB),
        ("64TiB", 64 * TIB),
        ("1.5GiB", 3 * GIB // 2),
        ("0.5KiB", 512),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1MB", 10**6),
        ("1GB", 10**9),
        ("1TB", 10**12),
        ("0007", 7),
    ],
)
def test_parse_bytes(text: str, expected: int) -> None:
    """A size is its number times its unit, exactly."""
    actual = parse_bytes(text)
    assert expected == actual


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "MiB", "256mib", "256Mi", "256MiB/s", "1Gbit/s", "-1", "+1", "1e3", "0x10",
        "1,5MiB", "1.MiB", ".5MiB", "1..5MiB", "1 2", "1_000", "nan", "inf", "256MiB!", "٣MiB",
    ],
)  # fmt: skip
def test_a_wrong_size_is_named(text: str) -> None:
    """What is no size is refused in one line with that text and what it should look like."""
    with pytest.raises(LocalProtocolError) as caught:
        parse_bytes(text)
    assert f"{text!r} is not a size such as 256MiB" == str(caught.value)


def test_half_a_byte_is_refused() -> None:
    """A size that is no whole number of bytes is refused by its own words."""
    with pytest.raises(LocalProtocolError, match=r"'0\.3KiB' is not a whole number of bytes"):
        parse_bytes("0.3KiB")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        (" 0 ", 0),
        ("8bit/s", 1),
        ("12bit/s", 1),
        ("1kbit/s", 125),
        ("1Kbit/s", 125),
        ("400Mbit/s", 50_000_000),
        ("1Gbit/s", 125_000_000),
        ("2.5 Gbit/s", 312_500_000),
        ("125MB/s", 125_000_000),
        ("1MiB/s", MIB),
        ("1B/s", 1),
    ],
)
def test_parse_rate(text: str, expected: int) -> None:
    """A rate comes in bits or bytes a second and is whole bytes a second; 0 stands alone."""
    actual = parse_rate(text)
    assert expected == actual


@pytest.mark.parametrize(
    "text", ["", "1", "125MB", "1Gbit", "1 Gbit / s", "1/s", "-1Gbit/s", "1gbit/s", "00", "fast"]
)
def test_a_wrong_rate_is_named(text: str) -> None:
    """What is no rate is refused in one line with that text and what it should look like."""
    with pytest.raises(LocalProtocolError) as caught:
        parse_rate(text)
    assert f"{text!r} is not a rate such as 1Gbit/s or 125MB/s, or 0" == str(caught.value)


@pytest.mark.parametrize("text", ["7bit/s", "0Gbit/s", "0.0B/s"])
def test_a_rate_below_one_byte_is_named(text: str) -> None:
    """A rate that would round to nothing is refused: nothing means no limit."""
    with pytest.raises(LocalProtocolError, match=f"'{re.escape(text)}' is less than one byte"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("300ms", 300.0),
        ("0ms", 0.0),
        ("1.5 s", 1500.0),
        ("250us", 0.25),
        ("2min", 120_000.0),
        ("0.1ms", 0.1),
    ],
)
def test_parse_duration(text: str, expected: float) -> None:
    """A duration becomes milliseconds."""
    actual = parse_duration_ms(text)
    assert expected == actual


@pytest.mark.parametrize("text", ["", "300", "300 m", "ms", "-1ms", "1h", "1ms/s", "infs"])
def test_a_wrong_duration_is_named(text: str) -> None:
    """What is no duration is refused in one line with that text and what it should look like."""
    with pytest.raises(LocalProtocolError) as caught:
        parse_duration_ms(text)
    assert f"{text!r} is not a duration such as 300ms" == str(caught.value)


def test_a_guest_of_one_size() -> None:
    """One size is one block named ram, with the page size that goes with it."""
    actual = parse_geometry("256MiB", "2MiB")
    assert Geometry((RamBlock("ram", 256 * MIB, 2 * MIB),)) == actual


def test_a_guest_of_named_blocks() -> None:
    """Blocks are numbered as they are listed, and take the general page size without their own."""
    actual = parse_geometry("ram=192MiB@2MiB, rom=64MiB@4KiB,vga=1MiB", "4KiB")
    expected = Geometry(
        (
            RamBlock("ram", 192 * MIB, 2 * MIB),
            RamBlock("rom", 64 * MIB, 4 * KIB),
            RamBlock("vga", MIB, 4 * KIB),
        )
    )
    assert expected == actual


@pytest.mark.parametrize(
    ("size", "page_size", "message"),
    [
        ("much", "2MiB", "'much' is not a size such as 256MiB"),
        ("256MiB", "big", "'big' is not a size such as 256MiB"),
        ("256MiB@4KiB", "2MiB", "'256MiB@4KiB' is not a size such as 256MiB"),
        ("ram=,rom=4KiB", "4KiB", "'ram=' is not NAME=SIZE@PAGE-SIZE"),
        ("=4KiB", "4KiB", "'=4KiB' is not NAME=SIZE@PAGE-SIZE"),
        ("ram=4KiB,", "4KiB", "'' is not NAME=SIZE@PAGE-SIZE"),
        ("ram=4KiB,rom", "4KiB", "'rom' is not NAME=SIZE@PAGE-SIZE"),
        ("ram=@4KiB", "4KiB", "'ram=@4KiB' is not NAME=SIZE@PAGE-SIZE"),
        ("ram=4KiB@x", "4KiB", "'x' is not a size such as 256MiB"),
        ("ram=4KiB@4KiB@4KiB", "4KiB", "'4KiB@4KiB' is not a size such as 256MiB"),
        ("ram=8KiB=2", "4KiB", "'8KiB=2' is not a size such as 256MiB"),
        (
            "ram=1MiB",
            "2MiB",
            "RAMBlock 'ram': 1048576 bytes are not one or more pages of 2097152 bytes",
        ),
        ("0", "4KiB", "RAMBlock 'ram': 0 bytes are not one or more pages of 4096 bytes"),
        ("a=4KiB,a=4KiB", "4KiB", "two RAMBlocks are named 'a'"),
    ],
)
def test_a_wrong_guest_is_named(size: str, page_size: str, message: str) -> None:
    """What is no guest is refused in one line that names the very part that is wrong."""
    with pytest.raises(LocalProtocolError) as caught:
        parse_geometry(size, page_size)
    assert message == str(caught.value)


@pytest.mark.parametrize("parse", [parse_bytes, parse_rate, parse_duration_ms])
@given(text=any_text)
@example(text="9" * 5000)
def test_any_text_is_read_or_refused(parse: Callable[[str], float], text: str) -> None:
    """Whatever a person types gives a number of at least zero, or this side's error."""
    try:
        actual = parse(text)
    except LocalProtocolError:
        return
    assert actual >= 0


@pytest.mark.parametrize("parse", [parse_bytes, parse_rate, parse_duration_ms])
@pytest.mark.parametrize("unit", ["MiB", "MiB/s", "s", ""])
@pytest.mark.parametrize("number", ["9" * 1_000_000, "0." + "9" * 1_000_000, "9" * 25])
def test_endless_numbers_are_refused(parse: Callable[[str], float], number: str, unit: str) -> None:
    """A number of a million digits is refused at once, and not repeated in full."""
    with pytest.raises(LocalProtocolError) as caught:
        parse(number + unit)
    assert len(str(caught.value)) < 120


def test_a_number_of_many_digits_is_read() -> None:
    """A number that is larger than any guest is still a number."""
    actual = parse_bytes("9" * 24)
    assert actual == 10**24 - 1


@given(st.integers(0, 1 << 50))
def test_what_is_formatted_is_nearly_what_it_was(count: int) -> None:
    """A size that is written for people is within its four digits when it is read again."""
    number, unit = format_bytes(count).split()
    actual = float(number) * {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}[unit]
    assert abs(count - actual) <= count * 0.0005


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (262144, "256 KiB"),
        (1.5 * MIB, "1.5 MiB"),
        (3 * GIB, "3 GiB"),
        (64 * TIB, "64 TiB"),
        (2000 * TIB, "2000 TiB"),
    ],
)
def test_format_bytes(count: float, expected: str) -> None:
    """A size for people has the unit in which it is short."""
    actual = format_bytes(count)
    assert expected == actual
