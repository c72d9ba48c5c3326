"""Predicted beside measured: the figures of a simulated run, and of real runs of the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

from scripts.reports import COMPLETED
from scripts.screen.words import time_us
from scripts.simulate.run import Point, Report

# No report is longer.
_REPORT_BYTES_MAX = 4 << 20


@dataclass(frozen=True)
class Figure:
    """A figure that both kinds of report have.

    Attributes:
        name: For people.
        of: Returns it of a report; None where a model was too noisy to predict it.
        shown: Returns it as a text.
    """

    name: str
    of: Callable[[Report], float | None]
    shown: Callable[[float], str]


def _fault(name: str) -> Callable[[Report], float | None]:
    def of(report: Report) -> float | None:
        value: float | None = report["midstream"]["faults"][name]
        return value

    return of


def _total_us(report: Report) -> float:
    # How long it takes to start two processes is no matter of a model.
    return float(report["total-time"] - report["setup-time"]) * 1000


def _downtime_us(report: Report) -> float:
    return float(report["midstream"]["downtime-ms"]) * 1000


def _count(value: float) -> str:
    return f"{value:.0f}"


FIGURES = (
    Figure("faults", _fault("count"), _count),
    Figure("fault p50", _fault("p50-us"), time_us),
    Figure("fault p90", _fault("p90-us"), time_us),
    Figure("fault p99", _fault("p99-us"), time_us),
    Figure("fault mean", _fault("mean-us"), time_us),
    Figure("time after setup", _total_us, time_us),
    Figure("downtime", _downtime_us, time_us),
)


def read_reports(paths: Sequence[str]) -> list[Report]:
    """Return the reports of real runs.

    Raises:
        click.BadParameter: A file holds none of a run that was completed.
    """
    return [_read(Path(path)) for path in paths]


def _read(path: Path) -> Report:
    try:
        with path.open("rb") as file:
            report: Report = json.loads(file.read(_REPORT_BYTES_MAX))
        for figure in FIGURES:
            figure.of(report)
        if report["midstream"].get("simulated") is not None:
            raise _wrong(f"{path} is of a simulated run, too")
        if report["status"] != COMPLETED:
            raise _wrong(f"{path} is of a run that was not completed: {report['status']}")
    except OSError as error:
        raise _wrong(f"{path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _wrong(f"{path} is no report of a migration") from error
    return report


def check_same(measured: Sequence[Report], point: Point) -> None:
    """Refuse runs of another guest, policy or link than what is simulated.

    Raises:
        click.BadParameter: Says what differs.
    """
    config, link = point.config, point.link
    for report in measured:
        own = report["midstream"]
        theirs: dict[str, Any] = own.get("link", {})
        pairs = {
            "policy": (own.get("policy"), config.policy.name),
            "bytes of memory": (report["ram"]["total"], config.geometry.length_bytes),
            "vCPUs": (len(report["postcopy-vcpu-latency"]), config.spec.vcpu_count),
            "bytes a second of the link": (
                theirs.get("bytes-per-second", 0),
                link.bytes_per_second,
            ),
            "round trip in ms": (theirs.get("rtt-ms", 0), link.rtt_us / 1000),
        }
        for name, (one, other) in pairs.items():
            if one != other:
                raise _wrong(f"the real run's {name}: {one}, the simulated one's: {other}")


def compared(predicted: Report, measured: Sequence[Report]) -> str:
    """Return a table: each figure as predicted and as measured, and how far off that is."""
    rows: list[tuple[str, ...]] = [("", "predicted", "measured", "from", "to", "off by")]
    for figure in FIGURES:
        values = [value for value in map(figure.of, measured) if value is not None]
        if not values:
            # Nobody waited in any of them.
            rows.append((figure.name, _told(figure, predicted), "none", "", "", ""))
            continue
        real = median(values)
        row = [figure.shown(each) for each in (real, min(values), max(values))]
        value = figure.of(predicted)
        off = "" if value is None or not real else f"{value / real - 1:+.0%}"
        rows.append((figure.name, _told(figure, predicted), *row, off))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        places = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *places]).rstrip())
    model = predicted["midstream"]["simulated"]["model"]
    runs = "1 real run" if len(measured) == 1 else f"{len(measured)} real runs"
    return "\n".join([f"{predicted['midstream']['policy']}, model {model}, {runs}", *lines]) + "\n"


def _told(figure: Figure, predicted: Report) -> str:
    value = figure.of(predicted)
    return "not predicted" if value is None else figure.shown(value)


def _wrong(reason: str) -> click.BadParameter:
    return click.BadParameter(reason, param_hint="--against")
