"""Figures as people read them: times, shares, numbers of things."""

from __future__ import annotations


def time_us(microseconds: float) -> str:
    """Return a time with three digits and the unit that fits."""
    # A little below the next unit, or rounding would make 1e+03 of it.
    scales = ((999.5, "us", 1.0), (999.5e3, "ms", 1e3), (59.95e6, "s", 1e6), (3597e6, "min", 60e6))
    for limit, unit, scale in scales:
        if microseconds < limit:
            return f"{microseconds / scale:.3g} {unit}"
    return f"{microseconds / 3600e6:.4g} h"


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
    """Return so many of something, such as `1 page` or `2 pages`."""
    return f"{number} {one if number == 1 else many}"
