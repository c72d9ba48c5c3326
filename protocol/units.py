"""Sizes, rates and durations as people write them: `256MiB`, `1Gbit/s`, `125MB/s`, `300ms`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry, RamBlock
from protocol.text import quoted

# 24 digits are more than any size, rate or time has; Python refuses to read thousands of them.
_NUMBER = re.compile(r"(?P<number>[0-9]{1,24}(?:\.[0-9]{1,24})?)\s*(?P<unit>[A-Za-z/]*)")

_BYTES = {
    "": 1, "B": 1,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}  # fmt: skip
_BITS_A_SECOND = {"bit/s": 1, "kbit/s": 10**3, "Kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9}
_SECONDS = {
    "us": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "min": Fraction(60),
}


def parse_bytes(text: str) -> int:
    """Return a size in bytes; a bare number is bytes already.

    Raises:
        LocalProtocolError: Not a size, or not a whole number of bytes.
    """
    value = _scaled(text, _BYTES, "a size such as 256MiB")
    if value.denominator != 1:
        raise LocalProtocolError(f"{quoted(text)} is not a whole number of bytes")
    return int(value)


def parse_rate(text: str) -> int:
    """Return a rate in bytes a second; 0 stands for no limit.

    Raises:
        LocalProtocolError: Not a rate, or below one byte a second.
    """
    if text.strip() == "0":
        return 0
    units = {unit: Fraction(bits, 8) for unit, bits in _BITS_A_SECOND.items()}
    units |= {f"{unit}/s": Fraction(count) for unit, count in _BYTES.items() if unit}
    value = _scaled(text, units, "a rate such as 1Gbit/s or 125MB/s, or 0")
    if value < 1:
        raise LocalProtocolError(f"{quoted(text)} is less than one byte a second")
    return int(value)


def parse_duration_ms(text: str) -> float:
    """Return a duration in milliseconds.

    Raises:
        LocalProtocolError: Not a duration.
    """
    return float(_scaled(text, _SECONDS, "a duration such as 300ms") * 1000)


def parse_geometry(size: str, page_size: str) -> Geometry:
    """Return the guest's blocks from `256MiB` or `ram=192MiB@2MiB,rom=64MiB@4KiB`.

    Args:
        size: One size, for a single block named `ram`, or a list of NAME=SIZE[@PAGE-SIZE].
        page_size: For blocks that name none.

    Raises:
        LocalProtocolError: Not a size, or not one that the page size divides.
    """
    if "=" not in size:
        return Geometry((RamBlock("ram", parse_bytes(size), parse_bytes(page_size)),))
    blocks = []
    for part in size.split(","):
        name, equals, rest = part.strip().partition("=")
        length, _, page = rest.partition("@")
        if not (name and equals and length):
            raise LocalProtocolError(f"{quoted(part)} is not NAME=SIZE@PAGE-SIZE")
        blocks.append(RamBlock(name, parse_bytes(length), parse_bytes(page or page_size)))
    return Geometry(tuple(blocks))


def format_bytes(count: float) -> str:
    """Return a size for people: 262144 is `256 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def format_rate(bytes_per_second: float) -> str:
    """Return a rate for people, as rates may be typed: 125000000.0 is `125 MB/s`."""
    for unit in ("B/s", "kB/s", "MB/s"):
        # A little below the next unit, or rounding would make 1e+03 of it.
        if bytes_per_second < 999.5:
            return f"{bytes_per_second:.3g} {unit}"
        bytes_per_second /= 1000
    return f"{bytes_per_second:.4g} GB/s"


def _scaled(text: str, units: Mapping[str, int | Fraction], expected: str) -> Fraction:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match["unit"] not in units:
        raise LocalProtocolError(f"{quoted(text)} is not {expected}")
    return Fraction(match["number"]) * units[match["unit"]]
