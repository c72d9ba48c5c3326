"""`midstream report`: what reports say, and saved events as tables, a page and a trace.

A file that holds something else than events is told by its kind, so that its user sees the mistake.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from protocol.errors import LocalProtocolError
from scripts.files import check_writable, read_bounded
from scripts.named_files import Command, FileArgument, Use, file_option
from scripts.results.reading import NOT_AS_TOLD, Report, holds_events, read_report
from scripts.results.rows import check_parquet, rows_of, write_csv, write_parquet
from scripts.results.summary import lines_of
from scripts.screen.output import print_result, tell
from scripts.views.facts import verdict_of
from scripts.views.history import History
from scripts.views.outputs import history_of, write_page, write_trace
from scripts.views.run_tables import Run, stage_table, summary_table
from scripts.views.saved import read_saved

# A page has as many colours and dashes to tell runs apart by.
RUNS_MAX = 4

T = TypeVar("T")

# A report is some kilobytes, and all others begin as they begin.
_LOOKED_AT_BYTES_MAX = 1 << 20
# On a terminal that is narrower than this, lines wrap as it likes.
_WIDTH_MIN = 30


@click.command(
    cls=Command,
    epilog="Exit status: 0 done; 1 a result cannot be written; 2 a file holds neither a report nor "
    "events, or not what an option is about.",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", cls=FileArgument, use=Use.READ)
@file_option(
    "--csv", metavar="FILE", use=Use.WRITE,
    help="Write reports as a table, a row a migration or figure, a column a field.",
)  # fmt: skip
@file_option(
    "--parquet", metavar="FILE", use=Use.WRITE,
    help="The same as Parquet; it needs midstream[parquet].",
)  # fmt: skip
@file_option(
    "--html", metavar="FILE", use=Use.WRITE,
    help="Write a page about all runs, side by side, from their events.",
)  # fmt: skip
@file_option(
    "--perfetto", metavar="FILE", use=Use.WRITE,
    help="Write a trace for the Perfetto UI, from one run's events.",
)  # fmt: skip
@click.option("--quiet", is_flag=True, help="Print nothing.")
def report(
    files: tuple[str, ...],
    csv: str | None,
    parquet: str | None,
    html: str | None,
    perfetto: str | None,
    quiet: bool,
) -> None:
    """Say what reports are, and show runs again from their events; each file is one of its own.

    Of a report that --report wrote: what was run, how it went, the figures. Of events that --events
    wrote: tables, a page, a trace. If the two sides wrote a file of events each, on one machine,
    put one behind the other first. An unfinished last line, as a full disk leaves it, is left out,
    and that is said.
    """
    outputs = {"--csv": csv, "--parquet": parquet, "--html": html, "--perfetto": perfetto}
    told, reports = _sort(files)
    _check(told, reports, outputs)
    runs = [(name, _read(path)) for name, path in zip(_names(told), map(Path, told), strict=True)]
    rows = [row for path, held in reports for row in _of(path, held, rows_of)]
    if csv is not None:
        write_csv(rows, Path(csv))
    if parquet is not None:
        write_parquet(rows, Path(parquet))
    if html is not None:
        write_page(runs, Path(html))
    if perfetto is not None:
        write_trace(runs[0][1], Path(perfetto))
    if quiet:
        return
    for path, held in reports:
        print_result("".join(f"{line}\n" for line in _of(path, held, lines_of)))
    if runs:
        _print_tables(runs)


def _print_tables(runs: Sequence[Run]) -> None:
    console = Console()
    for name, history in runs:
        # A file's name is a text, and so is a reason: neither holds markup.
        title = f"{name}:\n" if len(runs) > 1 else ""
        verdict = verdict_of(history).in_lines(max(min(console.width, 80) - 1, _WIDTH_MIN))
        console.print(f"{title}{verdict}", markup=False, highlight=False)
    console.print(summary_table(runs))
    if any(history.waits for _, history in runs):
        console.print(stage_table(runs))


def _sort(files: Sequence[str]) -> tuple[list[str], list[tuple[str, Report]]]:
    """Return the files of events, and those of reports with what they hold.

    Raises:
        click.BadParameter: One cannot be read, or is neither.
    """
    told, reports = [], []
    for name in files:
        path = Path(name)
        try:
            if holds_events(path):
                told.append(name)
            else:
                reports.append((name, read_report(path)))
        except LocalProtocolError as error:
            kind = kind_of(path)
            # One that lacks what every report has is told as none.
            hint = f"; the file is {kind}" if kind and not kind.startswith("a report") else ""
            raise click.BadParameter(f"{error}{hint}", param_hint="FILE") from error
    return told, reports


def _check(
    told: Sequence[str],
    reports: Sequence[tuple[str, Report]],
    outputs: Mapping[str, str | None],
) -> None:
    """Refuse results that cannot be made of these files, or could not be written in the end.

    Raises:
        click.BadParameter: That is so.
        MidstreamError: What writes them is not installed.
    """
    if len(told) > RUNS_MAX:
        raise click.BadParameter(f"more than {RUNS_MAX} runs", param_hint="FILE")
    if outputs["--perfetto"] is not None and len(told) > 1:
        raise click.BadParameter("a trace is of one run", param_hint="--perfetto")
    of_events = f"{told[0]!r} holds events" if told else ""
    of_reports = f"{reports[0][0]!r} is a report" if reports else ""
    wrong = {
        "--csv": of_events, "--parquet": of_events,
        "--html": of_reports, "--perfetto": of_reports,
    }  # fmt: skip
    for option, path in outputs.items():
        if path is None:
            continue
        if wrong[option]:
            made_of = "reports" if option in {"--csv", "--parquet"} else "what --events writes"
            reason = f"{wrong[option]}, and it is made of {made_of}"
            raise click.BadParameter(reason, param_hint=option)
        check_writable(option, path)
    if outputs["--parquet"] is not None:
        check_parquet()


def _of(path: str, held: Report, make: Callable[[str, Report], list[T]]) -> list[T]:
    """Return what is made of a report.

    Raises:
        click.BadParameter: It is not as the schema says.
    """
    try:
        return make(path, held)
    except NOT_AS_TOLD as error:
        raise click.BadParameter(
            f"{path}: the report is not as its schema says ({type(error).__name__}: {error})",
            param_hint="FILE",
        ) from error


def _read(path: Path) -> History:
    try:
        return history_of(read_saved(path, lambda line: tell(f"midstream: {line}")))
    except LocalProtocolError as error:
        kind = kind_of(path)
        hint = f"; the file is {kind}, and events are what --events writes" if kind else ""
        raise click.BadParameter(f"{error}{hint}", param_hint="FILE") from error


def _names(paths: Sequence[str]) -> list[str]:
    """Return what runs are called: their files' names, or whole paths where those are the same."""
    stems = [Path(path).stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    if len(set(paths)) == len(paths):
        return list(paths)
    return [f"{number}: {path}" for number, path in enumerate(paths, 1)]


_JSON_KINDS: dict[str, Callable[[Any], bool]] = {
    "a report, as --report writes it": lambda held: "midstream" in held and "status" in held,
    "figures of midstream compare or bench": lambda held: str(held.get("schema")).startswith(
        "midstream-"
    ),
    "a trace for the Perfetto UI": lambda held: "traceEvents" in held,
    "a map of missing memory, as --save leaves it": lambda held: "missing" in held,
}


def kind_of(path: Path) -> str:
    """Return what a file is, in words; empty if it is nothing that is known here."""
    try:
        data = read_bounded(path, _LOOKED_AT_BYTES_MAX)
    except OSError:
        return ""
    begin = data[:4096].lstrip()
    if begin[:1] == b"{":
        return _json_kind(data)
    if begin[:9].lower() == b"<!doctype":
        return "a page, as --html writes it"
    if b"[migration]" in data or b"[[step]]" in data:
        return "a scenario, for midstream inject"
    return "no text" if b"\0" in begin else ""


def _json_kind(data: bytes) -> str:
    try:
        held = json.loads(data)
    except (ValueError, RecursionError):
        # A large trace was not read whole.
        return "a trace for the Perfetto UI" if b'"traceEvents"' in data[:4096] else ""
    if not isinstance(held, dict):
        return ""
    return next((kind for kind, is_it in _JSON_KINDS.items() if is_it(held)), "")
