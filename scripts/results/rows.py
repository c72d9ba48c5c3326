"""Tables of many reports: a row a migration or figure, a column a field, as CSV or Parquet.

A column is called by the path of its field (`midstream.faults.p50-us` without the `midstream.`),
but for what was run: options are `option.*`, versions `version.*`, the machine `machine.*`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from protocol.errors import MidstreamError
from scripts.results.reading import Report, run_of, schema_of
from scripts.screen.outlet import write_output

Row = dict[str, Any]

# What is said of these once more than in the row, or is no figure.
_LEFT_OUT = ("run.options.given", "run.outputs", "verdict.sentences", "fault-latencies-us")
_RENAMED = {
    "midstream.": "",
    "run.options.resolved.": "option.",
    "run.versions.": "version.",
    "run.machine.": "machine.",
}


class NoParquet(MidstreamError):
    """The library that writes Parquet is not installed."""


def rows_of(name: str, report: Report) -> list[Row]:
    """Return a report's rows, one a run that it tells of.

    Args:
        name: The file's, which is in each row.
        report: What it holds.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: It is not as the schema says.
    """
    schema = schema_of(report)
    rows = list(_ROWS.get(schema.partition("/")[0], _whole)(report))
    run = flat({"run": {"command": run_of(report).get("command")}})
    return [{"file": name, "schema": schema, **run, **row} for row in rows]


def flat(held: Mapping[str, Any]) -> Row:
    """Return what objects in each other hold as one row, a list as a text of JSON."""
    return dict(_flat(held, ""))


def _flat(held: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in held.items():
        whole = f"{path}{key}"
        for old, new in _RENAMED.items():
            if whole.startswith(old):
                whole = new + whole.removeprefix(old)
        if whole in _LEFT_OUT or whole == "schema":
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{whole}.")
        else:
            yield whole, json.dumps(value) if isinstance(value, list) else value


def _whole(report: Report) -> Iterator[Row]:
    yield flat(report)


def _comparison(report: Report) -> Iterator[Row]:
    if "policies" not in report:
        yield flat(report)
    for name, outcome in report.get("policies", {}).items():
        for number, each in enumerate(outcome.get("runs", [outcome]), 1):
            ended = {key: each[key] for key in ("failure", "exit-status") if key in each}
            yield {"row": name, "number": number, **ended, **flat(each["report"])}


def _benchmark(report: Report) -> Iterator[Row]:
    about = {key: value for key, value in report.items() if key not in {"figures", "machine"}}
    figures: Sequence[Mapping[str, Any]] = report.get("figures", [])
    if not figures:
        yield flat(about)
    for figure in figures:
        yield {"row": f"{figure['section']}: {figure['name']}", **flat(figure), **flat(about)}


def _injection(report: Report) -> Iterator[Row]:
    scenarios = report.get("scenarios", [])
    if not scenarios:
        yield flat(report)
    for scenario in scenarios:
        for run in scenario["runs"]:
            told = {key: run[key] for key in ("number", "met")}
            yield {"row": scenario["name"], **told, **flat(run["report"] or {})}


def _demonstration(report: Report) -> Iterator[Row]:
    about = {key: value for key, value in report.items() if key != "policies"}
    if "policies" not in report:
        yield flat(report)
    for name, case in report.get("policies", {}).items():
        yield {"row": name, **flat(case), **flat(about)}


_ROWS: Mapping[str, Callable[[Report], Iterator[Row]]] = {
    "midstream-compare": _comparison,
    "midstream-bench": _benchmark,
    "midstream-inject": _injection,
    "midstream-demo": _demonstration,
}


def columns_of(rows: Iterable[Row]) -> list[str]:
    """Return the names of all columns, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write a table with a line of names first; what a row has not is empty.

    Raises:
        MidstreamError: The file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns_of(rows), restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    _write(path, text.getvalue().encode())


def _cell(value: Any) -> Any:  # noqa: ANN401 - what JSON has
    """Return a cell as readers of CSV take it: `true`, and nothing for nothing."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else value


def check_parquet() -> None:
    """Refuse what could not be written in the end.

    Raises:
        NoParquet: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: F401, PLC0415 - few have it, and it is slow to load
    except ImportError as error:
        raise NoParquet(
            "--parquet needs pyarrow, which is not installed: pip install 'midstream[parquet]'"
        ) from error


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """Write a table whose columns are numbers, truths or texts; what a row has not is null.

    Raises:
        NoParquet: pyarrow is not installed.
        MidstreamError: The file cannot be written.
    """
    check_parquet()
    import pyarrow as pa  # noqa: PLC0415 - as above
    from pyarrow import parquet  # noqa: PLC0415

    columns = {name: _column([row.get(name) for row in rows]) for name in columns_of(rows)}
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer)
    _write(path, buffer.getvalue())


def _column(values: list[Any]) -> list[Any]:
    """Return a column of one type: texts where there are several."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) > 1:
        return [None if value is None else float(value) for value in values]
    if len(kinds) > 1:
        return [None if value is None else str(_cell(value)) for value in values]
    return values


def _write(path: Path, data: bytes) -> None:
    try:
        write_output(path, data)
    except OSError as error:
        raise MidstreamError(f"cannot write {path}: {error.strerror}") from error
