"""Waits: which vCPUs wait at a moment, as the events tell, and the figures of those that ended.

A vCPU is at one place at a time, so it waits for the page of which it was last told to wait.  Where
the kernel tells of faults and the vCPU itself of its wake-ups, that next wait is often told before
the wake-up from the one before.  So a wake-up ends the wait that it belongs to, and no later one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from guest.latency import summary_of
from scripts.views.records import Wait

Event = dict[str, Any]

# A wait whose wake-up nobody told is forgotten with the next one told; without any such word so
# many of a vCPU are kept.
_WAITS_MAX = 16


class OpenWaits:
    """The waits without an end so far; `begin` and `end` each as it is told."""

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._told: dict[int, deque[Event]] = {}

    def begin(self, event: Event) -> None:
        """Take a `vcpu-wait`."""
        self._told.setdefault(event["vcpu"], deque(maxlen=_WAITS_MAX)).append(event)

    def end(self, event: Event) -> Event | None:
        """Take a `vcpu-wake`; return the `vcpu-wait` that it ends, None if none was told.

        It is the first one for that page that was told after the vCPU's touch.  What was told
        before is over too: a vCPU that runs waits for nothing else.
        """
        told = self._told.get(event["vcpu"], ())
        touched_ns = event.get("fault-ns", 0)
        for number, wait in enumerate(told, 1):
            if wait["t-ns"] >= touched_ns and page_of(wait) == page_of(event):
                for _ in range(number):
                    self._told[event["vcpu"]].popleft()
                return wait
        return None

    @property
    def present(self) -> list[Event]:
        """The `vcpu-wait` of each vCPU that waits, by vCPU."""
        return [told[-1] for _, told in sorted(self._told.items()) if told]


def page_of(event: Event) -> tuple[int, int]:
    """Return block and page of an event that names them."""
    return event["block"], event["page"]


def fault_ns(wait: Event) -> int:
    """Return when the page was touched, as well as a `vcpu-wait` tells it."""
    time_ns: int = wait["fault-ns"] if "fault-ns" in wait else wait["t-ns"]
    return time_ns


def percentiles_us(waits: Iterable[Wait]) -> dict[str, float]:
    """Return the percentiles of the waits that ended, in microseconds; 0 where there are none.

    They are those of the run's own report, see `guest.latency.summarize`.
    """
    summary = summary_of(wait.wake_ns - wait.start_ns for wait in waits if wait.wake_ns is not None)
    return {
        "p50": summary.p50_us, "p90": summary.p90_us, "p99": summary.p99_us,
        "p99.9": summary.p999_us, "max": summary.max_us,
    }  # fmt: skip


def waiting_over_time(waits: Iterable[Wait], end_ns: int) -> list[tuple[int, int]]:
    """Return (time, number of vCPUs that wait from then on), ascending."""
    steps: dict[int, int] = {}
    for wait in waits:
        steps[wait.start_ns] = steps.get(wait.start_ns, 0) + 1
        end = end_ns if wait.wake_ns is None else wait.wake_ns
        steps[end] = steps.get(end, 0) - 1
    times = sorted(steps)
    return list(zip(times, accumulate(steps[time_ns] for time_ns in times), strict=True))


def waited_us(waits: Iterable[Wait]) -> float:
    """Return all vCPUs' waiting together, in microseconds."""
    return sum(wait.latency_us for wait in waits)
