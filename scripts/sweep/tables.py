"""The tables of a sweep: a row a point, in the order of its axes, as CSV and as Parquet.

Columns are those of `midstream report --csv`, behind `axis.*`: the point as its file has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.options import OPTIONS
from scripts.resolved import resolved
from scripts.results.rows import NoParquet, Row, flat, write_csv, write_parquet
from scripts.sweep.asked import Sweep
from scripts.sweep.kinds import Job
from scripts.sweep.lines import Lines
from scripts.sweep.running import Line

CSV_NAME, PARQUET_NAME = "runs.csv", "runs.parquet"


def rows_of(sweep: Sweep, lines: Lines) -> list[Row]:
    """Return a row for each point that has a line; what others have run stays in the file alone."""
    return [_row(sweep, job, line) for job in sweep.jobs if (line := lines.get(job.key))]


def _row(sweep: Sweep, job: Job, line: Line) -> Row:
    point = line["point"]
    row: Row = {f"axis.{name}": _text(point[name]) for name in sweep.axes}
    row |= {name: line[name] for name in ("key", "command", "status", "reason")}
    row |= flat({"took": line["took"]})
    report = line["report"]
    if report is not None and "run" not in report["midstream"]:
        row |= flat({"run": {"options": {"resolved": _resolved(sweep, job.values)}}})
    return row | {
        # What the report calls its status is said already, and so is where it was from.
        name: value
        for name, value in flat(report or {}).items()
        if name != "status"
    }


def _resolved(sweep: Sweep, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options as a report of a real run has them."""
    names = {option.name for option in sweep.kind.options.values()}
    defaults = {option.name: option.default for option in OPTIONS if option.name in names}
    kinds = {option.name: option.metavar or "" for option in OPTIONS}
    return resolved({**defaults, **values}, kinds)


def _text(value: object) -> object:
    return ",".join(value) if isinstance(value, list) else value


def write_tables(rows: Sequence[Row], folder: Path) -> str:
    """Write both tables; return why one was left out, empty if none was.

    Raises:
        MidstreamError: One cannot be written.
    """
    write_csv(rows, folder / CSV_NAME)
    try:
        write_parquet(rows, folder / PARQUET_NAME)
    except NoParquet:
        return (
            f"{PARQUET_NAME} is left out: pyarrow is not installed: "
            "pip install 'midstream[parquet]'"
        )
    return ""
