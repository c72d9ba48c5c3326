"""Figures as people read them: times, shares, numbers of things, and lines that hold them."""

from __future__ import annotations

import re
from textwrap import wrap

# Units of time, each up to a little below the next one: rounding would lead there.
_UNITS_US = (
    *((999.5, "us", 1.0), (999.5e3, "ms", 1e3), (59.95e6, "s", 1e6), (3597e6, "min", 60e6)),
    (float("inf"), "h", 3600e6),
)


def time_us(microseconds: float) -> str:
    """Return a time for people: `17.9 s`, `43 ms`, `280 us`.

    In the unit that fits, with three digits, or all that stand before the point, and no zeros at
    the end; to the nanosecond at most.  The pages say it the same way (`sayTime` in
    `views/web/decode.js`), and so do pictures.
    """
    size = abs(microseconds)
    unit, scale = next((unit, scale) for limit, unit, scale in _UNITS_US if size < limit)
    value = microseconds / scale
    if abs(value) >= 99.95:
        return f"{value:.0f} {unit}"
    # What rounds to nothing has no sign.
    return f"{value if size >= 1 else round(value, 3) + 0.0:.3g} {unit}"


def time_ms(milliseconds: float) -> str:
    """Return a time as `time_us` does."""
    return time_us(milliseconds * 1000)


def percent(share: float) -> str:
    """Return a share in percent; of what is not all or nothing neither is said."""
    if 0 < share < 0.01:
        return "under 1 %"
    if 0.995 <= share < 1:
        return "over 99 %"
    return f"{share * 100:.0f} %"


def counted(number: int, one: str, many: str) -> str:
    """Return so many of something, such as `1 page` or `2,520 pages`."""
    return f"{number:,} {one if number == 1 else many}"


def spaced(text: str) -> str:
    """Return sizes as they are typed, `256MiB`, as they are read: `256 MiB`."""
    return re.sub(r"(?<=\d)(?=[KMGT]iB\b)", " ", text)


# Between a number and its unit.
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:us|ms|s|min|h|B|[KMGT]iB|[kMG]?B/s|[kMG]?bit/s)\b|%)")


def wrapped(text: str, width: int, indent: str = "", *, break_long_words: bool = True) -> list[str]:
    """Return a text in lines of at most so many characters, each number with its unit."""
    lines = wrap(
        _BEFORE_UNIT.sub("\u00a0", text), width, initial_indent=indent, subsequent_indent=indent,
        break_on_hyphens=False, break_long_words=break_long_words,
    )  # fmt: skip
    return [line.replace("\u00a0", " ") for line in lines]
