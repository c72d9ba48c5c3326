"""Figures of a run's waits: percentiles, and how many vCPUs waited when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from scripts.views.records import Wait

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share of the values does not exceed.

    Args:
        ordered: Ascending.
        share: Over 0 to 1.
    """
    if not ordered:
        return 0.0
    rank = -(-share * len(ordered) // 1)
    return ordered[max(int(rank), 1) - 1]


def percentiles_us(waits: Iterable[Wait]) -> dict[str, float]:
    """Return the percentiles of the waits that ended, in microseconds; 0 where there are none."""
    ordered = sorted(wait.latency_us for wait in waits if wait.wake_ns is not None)
    return {name: quantile(ordered, share) for name, share in PERCENTILES.items()}


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
