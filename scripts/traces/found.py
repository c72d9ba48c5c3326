"""Importers of other tools' texts: what one is given and what it finds; pure text in, accesses out.

An importer takes the lines of a text and yields what they say of memory, line by line.  What it
does not understand but must is a `WrongLineError`, which whoever reads the file adds the place to;
what is none of its business it passes over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from guest.access_line import WrongLineError

# As long as the longest line of midstream's own events, which has a bitmap in it.
LINE_CHARS_MAX = 16 * 1024

# What a 64-bit count of nanoseconds can say; a wall clock's will until the year 2262.
CLOCK_NS_MAX = (1 << 63) - 1
ADDRESS_MAX = (1 << 64) - 1

_QUOTED_CHARS_MAX = 60


class Found(NamedTuple):
    """An access as another tool tells of it.

    Attributes:
        address: A byte address, in that tool's address space or in `block`.
        time_ns: By whatever clock; None if it is not told.
        owner: A vCPU's number, or the name of a thread, which becomes a vCPU in the order in which
            threads appear.
        block: The RAMBlock that the address counts in; empty for none.
        is_write: Whether it is known to write.
    """

    address: int
    time_ns: int | None = None
    owner: int | str = 0
    block: str = ""
    is_write: bool = False


class Wishes(NamedTuple):
    """Wishes of the user, about what a text does not say itself.

    Attributes:
        columns: Of a CSV file: the header of each column that has another than its meaning.
        page_bytes: What a page index counts in.
        step_bytes: One access stands for so many bytes of a region that was accessed.
        event: Which of midstream's events.
    """

    columns: tuple[tuple[str, str], ...] = ()
    page_bytes: int = 4096
    step_bytes: int = 2 << 20
    event: str = "vcpu-wait"


Importer = Callable[[Iterator[str], Wishes], Iterator[Found]]


def quoted(text: str) -> str:
    """Return a part of a line as it goes into a message: in quotes, and short enough to read."""
    text = text.strip()
    return repr(text) if len(text) <= _QUOTED_CHARS_MAX else f"{text[:_QUOTED_CHARS_MAX]!r}..."


def parse_clock(text: str, ns_per_unit: int = 10**9) -> int:
    """Return nanoseconds of a decimal number, to the nanosecond and without rounding up.

    Raises:
        WrongLineError: It is none, is negative, or more than a clock can say.
    """
    try:
        value = Decimal(text.strip()) if len(text) <= _QUOTED_CHARS_MAX else None
    except InvalidOperation:
        value = None
    # What has a huge exponent is compared, and never written out.
    if value is None or not value.is_finite() or not 0 <= value <= CLOCK_NS_MAX // ns_per_unit:
        raise WrongLineError(f"{quoted(text)} is not a time")
    return int(value * ns_per_unit)


_ADDRESS = re.compile(r"0[xX]([0-9a-fA-F]{1,16})|([0-9]{1,20})")


def parse_address(text: str) -> int:
    """Return an address: hexadecimal behind 0x, else decimal.

    Raises:
        WrongLineError: It is none of 64 bits.
    """
    match = _ADDRESS.fullmatch(text.strip())
    value = int(match[1], 16) if match and match[1] else int(match[2]) if match else ADDRESS_MAX + 1
    if value > ADDRESS_MAX:
        raise WrongLineError(f"{quoted(text)} is not an address")
    return value
