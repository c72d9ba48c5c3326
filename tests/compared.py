"""Runs of comparisons in tests, without migrations."""

from typing import Any

from scripts.figures.compared import Outcome


def report(
    *,
    status: str = "completed",
    p99_us: float = 2000.0,
    blocked_ms: int = 0,
    waits: int = 0,
    requests: int = 0,
    pages: int = 4,
    mismatches: int = 0,
    postcopy_ms: float = 0.0,
    **more: Any,  # noqa: ANN401 - of the part that QEMU has no name for
) -> dict[str, Any]:
    """Return what a comparison looks at of a migration's report."""
    names = ("mean-us", "p50-us", "p90-us", "p99-us", "max-us")
    return {
        "status": status, "total-time": 30, "setup-time": 10, "postcopy-blocktime": blocked_ms,
        "midstream": {
            "schema": "midstream-report/1",
            "faults": {"count": waits, **dict.fromkeys(names, p99_us)},
            "requests": {"received": requests},
            "verified": {"pages": pages, "mismatches": mismatches, "digest-equal": not mismatches},
            "switch-over": {"reason": "passes"}, "postcopy-ms": postcopy_ms,
            **more,
        },
    }  # fmt: skip


def outcome(failure: str = "", status: int = 0, **figures: Any) -> Outcome:  # noqa: ANN401
    """Return a run with these figures, or one that failed."""
    told = report(**figures)
    latencies = () if failure else (told["midstream"]["faults"]["p99-us"],)
    return Outcome(told, latencies, failure, status)
