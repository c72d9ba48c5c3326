"""Use that a thread makes of processors: how long it ran, and how long it wanted to and could not.

Of a thread that is slow it is asked whether the processor is to blame.  How long it ran does not
tell on a machine that is busy with other things: there it waits for its turn, which the kernel
counts, too (`/proc/thread-self/schedstat`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from guest import clock

_SCHEDSTAT = Path("/proc/thread-self/schedstat")


class Reading(NamedTuple):
    """Clocks of a thread, in nanoseconds.

    Attributes:
        at_ns: The time.
        ran_ns: How long it has run.
        waited_ns: How long it was ready to and waited for a processor; 0 where nobody counts that.
    """

    at_ns: int
    ran_ns: int
    waited_ns: int


class Share(NamedTuple):
    """Shares of a time, each from 0 to 1.

    Attributes:
        running: The thread ran.
        waiting: It waited for a processor.
    """

    running: float = 0.0
    waiting: float = 0.0


def read_thread() -> Reading:
    """Return the clocks of the thread that asks."""
    try:
        ran_ns, waited_ns, _ = map(int, _SCHEDSTAT.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        ran_ns = waited_ns = 0
    # A kernel that does not count leaves zeros.
    return Reading(time.monotonic_ns(), ran_ns or time.thread_time_ns(), waited_ns)


class ProcessorUse:
    """Use of processors by this thread, from now until `finish`, or until it is asked for."""

    def __init__(self, read: Callable[[], Reading] = read_thread) -> None:
        """Begin.

        Args:
            read: Returns the thread's clocks.
        """
        self._read = read
        self._begin = read()
        self._end: Reading | None = None

    def finish(self) -> None:
        """Count no further; only the first time says anything."""
        self._end = self._end or self._read()

    def share(self, polled_ns: int = 0, yielded_ns: int = 0) -> Share:
        """Return how much of the time it ran or waited; nothing where time is not the machine's.

        Args:
            polled_ns: How long it ran for nothing, which does not count.
            yielded_ns: How long it let others run, which does not count as waiting.
        """
        end = self._end or self._read()
        length_ns = end.at_ns - self._begin.at_ns
        if length_ns <= 0 or clock.is_virtual():
            return Share()
        ran_ns = end.ran_ns - self._begin.ran_ns - polled_ns
        waited_ns = end.waited_ns - self._begin.waited_ns - yielded_ns
        running = min(max(ran_ns / length_ns, 0.0), 1.0)
        return Share(running, min(max(waited_ns / length_ns, 0.0), 1.0 - running))
