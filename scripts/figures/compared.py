"""Outcomes of a comparison: one run or several of each row, and their figures."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from protocol.errors import MidstreamError
from scripts.qemu.against import Peer
from scripts.reports import COMPLETED

SCHEMA = "midstream-compare/1"

# Where a run leaves its events, in the comparison's folder.
EVENTS = "events.jsonl"

# The figures that have a spread, and their columns.
COLUMNS = {
    "count": "faults", "mean-us": "mean", "p50-us": "p50", "p90-us": "p90", "p99-us": "p99",
    "max-us": "max", "blocked-ms": "blocked", "sent-twice-bytes": "twice", "total-ms": "total",
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The figures of one run.

    Attributes:
        report: The migration's own.
        latencies_us: Every fault's latency.
    """

    report: dict[str, Any]
    latencies_us: tuple[float, ...]

    @property
    def figures(self) -> dict[str, float]:
        """The figures that are compared, by name with unit."""
        own = self.report["midstream"]
        return {
            **{key: own["faults"][key] for key in COLUMNS if key in own["faults"]},
            "blocked-ms": self.report["postcopy-blocktime"],
            # A QEMU does not tell.
            "sent-twice-bytes": own.get("bytes-sent-twice", 0),
            "total-ms": self.report["total-time"] - self.report["setup-time"],
        }


Runs = Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of a figure over all runs.

    Of two in the middle the lower is the median: it is one that was measured.
    """

    median: float
    lowest: float
    highest: float


def spreads(outcomes: Sequence[Outcome]) -> dict[str, Spread]:
    """Return each figure's spread over the runs of a row."""
    told = [outcome.figures for outcome in outcomes]
    columns = {key: [figures[key] for figures in told] for key in told[0]}
    return {
        key: Spread(statistics.median_low(values), min(values), max(values))
        for key, values in columns.items()
    }


def latencies_ms(runs: Runs) -> dict[str, list[float]]:
    """Return every fault's latency of all runs of each row, in milliseconds."""
    return {
        name: [us / 1000 for outcome in outcomes for us in outcome.latencies_us]
        for name, outcomes in runs.items()
    }


def plain_of(
    runs: Runs,
    size: str,
    page_size: str,
    link: str,
    wire_ms: Mapping[str, float],
    peer: Peer | None,
) -> dict[str, Any]:
    """Return the report; a row's own `report` is that of its first run."""
    return {
        "schema": SCHEMA,
        "status": COMPLETED,
        "size": size,
        "page-size": page_size,
        "link": link,
        "against": peer.title if peer is not None else None,
        "wire-ms": dict(wire_ms),
        "policies": {name: _row_of(outcomes) for name, outcomes in runs.items()},
    }


def _row_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    plain = [
        {"report": outcome.report, "fault-latencies-us": outcome.latencies_us}
        for outcome in outcomes
    ]
    if len(outcomes) == 1:
        return plain[0]
    spread = {
        key: [each.median, each.lowest, each.highest] for key, each in spreads(outcomes).items()
    }
    return {**plain[0], "runs": plain, "spread": spread}


def table(runs: Runs) -> Table:
    """Return the figures of all rows, of several runs the medians."""
    shown = Table(box=None, padding=(0, 1, 0, 0))
    shown.add_column("policy", no_wrap=True)
    for column in COLUMNS.values():
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_row("", "", *["ms"] * 6, "MiB", "ms", style="dim")
    for name, outcomes in runs.items():
        each = spreads(outcomes)
        shown.add_row(name, *(cell(key, each[key].median) for key in COLUMNS))
    return shown


# The figures whose range is told on a terminal; the report and the page have that of all.
_RANGED = ("count", "p50-us", "p99-us", "max-us", "blocked-ms", "total-ms")


def range_table(runs: Runs) -> Table:
    """Return the range of figures over the runs of each row, lowest and highest."""
    shown = Table(box=None, padding=(0, 1, 0, 0))
    shown.add_column("lowest to highest", no_wrap=True)
    for key in _RANGED:
        shown.add_column(COLUMNS[key], justify="right", no_wrap=True)
    for name, outcomes in runs.items():
        each = spreads(outcomes)
        shown.add_row(name, *(range_of(key, each[key]) for key in _RANGED))
    return shown


def cell(key: str, value: float) -> str:
    """Return a figure in its column's unit."""
    if key.endswith("-us"):
        return f"{value / 1000:.2f}"
    return f"{value / (1 << 20):.1f}" if key.endswith("-bytes") else f"{value:.0f}"


def range_of(key: str, spread: Spread) -> str:
    """Return the lowest and the highest of a figure, in three digits, for a narrow column."""
    scale = 1000 if key.endswith("-us") else 1 << 20 if key.endswith("-bytes") else 1
    lowest, highest = (_three_digits(each / scale) for each in (spread.lowest, spread.highest))
    return f"{lowest}-{highest}"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def run_keeper(keep: str | None, name: str, number: int) -> Callable[[Path], None]:
    """Return what copies a run's report and events out of the comparison's folder, if wanted.

    Args:
        keep: The folder where all are kept; None for none.
        name: The row.
        number: Which of its runs.
    """

    def copy(folder: Path) -> None:
        if keep is None:
            return
        # A policy of a file has its folders in its name.
        stem = f"{name.replace('/', '-')}-{number}"
        told = folder / ("report.json" if name not in {"qemu", "qemu-preempt"} else _QEMU_REPORT)
        try:
            Path(keep).mkdir(parents=True, exist_ok=True)
            shutil.copy(told, Path(keep, f"{stem}.json"))
            shutil.copy(folder / EVENTS, Path(keep, f"{stem}.jsonl"))
        except OSError as error:
            raise MidstreamError(f"cannot write {error.filename}: {error.strerror}") from error

    return copy


_QEMU_REPORT = "qemu-report.json"
