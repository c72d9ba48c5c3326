"""Latencies in a report: the stages of a wait, and the figures of a distribution."""

from __future__ import annotations

from dataclasses import dataclass

# QEMU's postcopy-latency-dist has 24 bins: bin i counts latencies from 2^i to 2^(i+1) microseconds.
LATENCY_BIN_COUNT = 24

# What a wait is made of, see `dest.trips`.
STAGES = (
    "detect",
    "request",
    "postponed",
    "queue",
    "send",
    "receive",
    "place",
    "wake",
    "broken",
)
# What each is, for people; every view says it so.
STAGE_WORDS = {
    "detect": "until the destination notices",
    "request": "travelling to the source",
    "postponed": "put off by the policy",
    "queue": "waiting for its turn",
    "send": "being handed to the socket",
    "receive": "remaining transfer",
    "place": "mapping the page",
    "wake": "until the vCPU runs",
    "broken": "no connection",
}
assert tuple(STAGE_WORDS) == STAGES


@dataclass(frozen=True)
class Summary:
    """Figures of a latency distribution, in microseconds; all 0 where there is nothing."""

    count: int = 0
    p50_us: float = 0.0
    p90_us: float = 0.0
    p99_us: float = 0.0
    p999_us: float = 0.0
    max_us: float = 0.0
    mean_us: float = 0.0


@dataclass(frozen=True)
class StageSummary:
    """One stage of the faults."""

    stage: str
    summary: Summary
