"""The clock both sides go by: the machine's monotonic one, or trio's own where time is virtual.

In virtual time (trio's `MockClock`) a whole migration of both sides runs in one process: nobody
sleeps, time moves when everybody waits, and a seed repeats it exactly.  Then a thread's work would
take none of that time and nobody may stay awake to save a wake-up, which is asked of `is_virtual`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio

_is_virtual = False


def now_ns() -> int:
    """Return the time in nanoseconds since some moment; it never goes back."""
    return int(trio.current_time() * 1e9) if _is_virtual else time.monotonic_ns()


def is_virtual() -> bool:
    """Whether time moves only when everybody waits."""
    return _is_virtual


@contextmanager
def virtual() -> Iterator[None]:
    """Go by trio's clock until the block is left, in all of this process."""
    global _is_virtual  # noqa: PLW0603 - a process has one clock
    _is_virtual = True
    try:
        yield
    finally:
        _is_virtual = False
