"""Long columns of numbers as a page's script takes them: typed arrays in base64.  Pure.

Times are ticks from the first event: whole numbers of 32 bits, of a microsecond or, in long runs,
of several.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

_TICKS_END = 1 << 32
# Stands for a moment that never came, and for what nobody knows the number of.
NEVER = _TICKS_END - 1


class Ticks:
    """The clock of one run's columns.

    Attributes:
        tick_us: How long a tick is.
    """

    def __init__(self, first_ns: int, last_ns: int) -> None:
        """Choose the shortest tick with which all moments between these two have a number."""
        self._zero_ns = first_ns
        self._tick_ns = 1000 * (1 + max(last_ns - first_ns, 0) // 1000 // (_TICKS_END - 2))
        self.tick_us = self._tick_ns / 1000

    def at(self, time_ns: int) -> int:
        """Return a moment's tick; what lies outside the run is its first or its last one."""
        return int(min(max((time_ns - self._zero_ns) // self._tick_ns, 0), NEVER - 1))

    def column(self, times_ns: Sequence[int | None]) -> str:
        """Return moments as a column, None as NEVER."""
        return column([NEVER if each is None else self.at(each) for each in times_ns], "u4")


def column(values: Sequence[float] | np.ndarray[Any, Any], kind: str) -> str:
    """Return numbers as base64 of little-endian items of a NumPy kind."""
    return base64.b64encode(np.asarray(values).astype(f"<{kind}").tobytes()).decode()
