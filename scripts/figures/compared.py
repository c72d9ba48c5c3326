"""Outcomes of a comparison: one run or several of each row, and their figures.

A run that did not end well has none: what it measured was another guest, or another policy.  It is
counted and told all the same, here and by whoever shows a comparison.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from guest.whole_file import copy_whole
from protocol.errors import MidstreamError
from scripts.qemu.against import REPORT as QEMU_REPORT
from scripts.qemu.against import ROWS, Peer
from scripts.reports import COMPLETED, FAILED
from scripts.screen.facts import facts_of

SCHEMA = "midstream-compare/1"

# Where a run leaves its events, in the comparison's folder, and where its report.
EVENTS, REPORT = "events.jsonl", "report.json"

# The figures that have a spread, and their columns.
COLUMNS = {
    "count": "faults", "mean-us": "mean", "p50-us": "p50", "p90-us": "p90", "p99-us": "p99",
    "max-us": "max", "blocked-ms": "blocked", "sent-twice-bytes": "twice", "total-ms": "total",
}  # fmt: skip

# A cell of a row without a run that ended well.
_NOTHING = "-"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run.

    Attributes:
        report: The migration's own; of one that left none, no more than that it failed.
        latencies_us: Every fault's latency; none of a run that did not end well.
        failure: Why it did not; empty if it did.
        exit_status: The one that goes with that.
    """

    report: dict[str, Any]
    latencies_us: tuple[float, ...]
    failure: str = ""
    exit_status: int = 0

    @property
    def verified(self) -> bool | None:
        """Whether its memory was compared and is right; None if nobody compared it."""
        return facts_of(self.report).verified

    @property
    def figures(self) -> dict[str, float]:
        """The figures that are compared, by name with unit; only of a run that ended well."""
        own = self.report["midstream"]
        return {
            **{key: own["faults"][key] for key in COLUMNS if key in own["faults"]},
            "blocked-ms": self.report["postcopy-blocktime"],
            # A QEMU does not tell.
            "sent-twice-bytes": own.get("bytes-sent-twice", 0),
            "total-ms": self.report["total-time"] - self.report["setup-time"],
        }

    def to_plain(self) -> dict[str, Any]:
        """Return it for a report."""
        plain: dict[str, Any] = {
            "report": self.report, "fault-latencies-us": self.latencies_us,
        }  # fmt: skip
        if self.failure:
            plain |= {"failure": self.failure, "exit-status": self.exit_status}
        return plain


Runs = Mapping[str, Sequence[Outcome]]


class Failed(NamedTuple):
    """A run that did not end well: of which row, which of its runs, from 1, and its outcome."""

    row: str
    number: int
    outcome: Outcome


def good(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the runs of a row that ended well."""
    return [outcome for outcome in outcomes if not outcome.failure]


def failed(runs: Runs) -> Iterator[Failed]:
    """Yield all runs that did not end well."""
    for name, outcomes in runs.items():
        for number, outcome in enumerate(outcomes, 1):
            if outcome.failure:
                yield Failed(name, number, outcome)


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of a figure over all runs.

    Of two in the middle the lower is the median: it is one that was measured.
    """

    median: float
    lowest: float
    highest: float


def spreads(outcomes: Sequence[Outcome]) -> dict[str, Spread]:
    """Return each figure's spread over the runs of a row; none if no run ended well."""
    told = [outcome.figures for outcome in good(outcomes)]
    columns = {key: [figures[key] for figures in told] for key in told[0]} if told else {}
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
    """Return the report; a row's own `report` is that of the first run that ended well."""
    failures = [
        {
            "row": each.row, "number": each.number, "reason": each.outcome.failure,
            "exit-status": each.outcome.exit_status,
        }
        for each in failed(runs)
    ]  # fmt: skip
    outcomes = [outcome for each in runs.values() for outcome in each]
    return {
        "schema": SCHEMA,
        "status": FAILED if failures else COMPLETED,
        "size": size,
        "page-size": page_size,
        "link": link,
        "against": peer.title if peer is not None else None,
        "wire-ms": dict(wire_ms),
        "run-count": len(outcomes),
        "verified-count": sum(each.verified is True and not each.failure for each in outcomes),
        "failures": failures,
        "policies": {name: _row_of(each) for name, each in runs.items()},
    }


def _row_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    shown = next(iter(good(outcomes)), outcomes[0]).to_plain()
    if len(outcomes) == 1:
        return shown
    spread = {
        key: [each.median, each.lowest, each.highest] for key, each in spreads(outcomes).items()
    }
    told = {"spread": spread} if spread else {}
    return {**shown, "runs": [outcome.to_plain() for outcome in outcomes], **told}


def table(runs: Runs) -> Table:
    """Return the figures of all rows, of several runs the medians."""
    shown = Table(box=None, padding=(0, 1, 0, 0))
    shown.add_column("policy", no_wrap=True)
    for column in COLUMNS.values():
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_row("", "", *["ms"] * 6, "MiB", "ms", style="dim")
    for name, outcomes in runs.items():
        each = spreads(outcomes)
        cells = (cell(key, each[key].median) if each else _NOTHING for key in COLUMNS)
        shown.add_row(name, *cells)
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
        cells = (range_of(key, each[key]) if each else _NOTHING for key in _RANGED)
        shown.add_row(name, *cells)
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

    Of a run that failed there may be less, and that is copied.

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
        report = QEMU_REPORT if name in ROWS else REPORT
        try:
            Path(keep).mkdir(parents=True, exist_ok=True)
            for told, end in ((report, ".json"), (EVENTS, ".jsonl")):
                if (folder / told).exists():
                    copy_whole(folder / told, Path(keep, f"{stem}{end}"))
        except OSError as error:
            raise MidstreamError(f"cannot write {error.filename}: {error.strerror}") from error

    return copy
