"""Figures of a run's waits: percentiles, and how many vCPUs waited when."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from guest.latency import summary_of
from scripts.views.records import Wait


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
