"""`midstream report`: saved events made into tables, a page and a trace; runs side by side.

A file that holds something else than events is told by its kind, so that its user sees the mistake.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from guest.latency import summary_of
from protocol import events
from protocol.errors import LocalProtocolError
from protocol.report import STAGES
from protocol.units import format_bytes
from scripts.files import check_writable, read_bounded
from scripts.named_files import Command, FileArgument, Use, file_option
from scripts.screen.output import tell
from scripts.screen.words import time_us
from scripts.views.causes import lost_bytes, percentiles_us, reason_of, status_of
from scripts.views.facts import verdict_of
from scripts.views.history import VCPU, History
from scripts.views.outputs import history_of, write_page, write_trace
from scripts.views.saved import read_saved

# A page has as many colours and dashes to tell runs apart by.
RUNS_MAX = 4

Run = tuple[str, History]

# A report is some kilobytes, and all others begin as they begin.
_LOOKED_AT_BYTES_MAX = 1 << 20


@click.command(
    cls=Command,
    epilog="Exit status: 0 done; 1 a result cannot be written; 2 a file holds no events.",
)
@click.argument(
    "files", nargs=-1, required=True, metavar="EVENTS...", cls=FileArgument, use=Use.READ
)
@file_option(
    "--html", metavar="FILE", use=Use.WRITE, help="Write a page about all runs, side by side."
)
@file_option(
    "--perfetto",
    metavar="FILE",
    use=Use.WRITE,
    help="Write a trace for the Perfetto UI, of one run.",
)
@click.option("--quiet", is_flag=True, help="Print no tables.")
def report(files: tuple[str, ...], html: str | None, perfetto: str | None, quiet: bool) -> None:
    """Show runs again from files that --events wrote; each file is a run of its own.

    If the two sides wrote a file each, on one machine, put one behind the other first. An
    unfinished last line, as a full disk leaves it, is left out, and that is said.
    """
    if len(files) > RUNS_MAX:
        raise click.BadParameter(f"more than {RUNS_MAX} runs", param_hint="EVENTS")
    if perfetto is not None and len(files) > 1:
        raise click.BadParameter("a trace is of one run", param_hint="--perfetto")
    for option, path in (("--html", html), ("--perfetto", perfetto)):
        if path is not None:
            check_writable(option, path)
    runs = [(name, _read(path)) for name, path in zip(_names(files), map(Path, files), strict=True)]
    if html is not None:
        write_page(runs, Path(html))
    if perfetto is not None:
        write_trace(runs[0][1], Path(perfetto))
    if not quiet:
        console = Console()
        for name, history in runs:
            # A file's name is a text, and so is a reason: neither holds markup.
            title = f"{name}: " if len(runs) > 1 else ""
            console.print(f"{title}{verdict_of(history).text}", markup=False, highlight=False)
        console.print(summary_table(runs))
        if any(history.waits for _, history in runs):
            console.print(stage_table(runs))


def _read(path: Path) -> History:
    try:
        return history_of(read_saved(path, lambda line: tell(f"midstream: {line}")))
    except LocalProtocolError as error:
        kind = kind_of(path)
        hint = f"; the file is {kind}, and events are what --events writes" if kind else ""
        raise click.BadParameter(f"{error}{hint}", param_hint="EVENTS") from error


def _names(paths: Sequence[str]) -> list[str]:
    """Return what runs are called: their files' names, or whole paths where those are the same."""
    stems = [Path(path).stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    if len(set(paths)) == len(paths):
        return list(paths)
    return [f"{number}: {path}" for number, path in enumerate(paths, 1)]


def summary_table(runs: Sequence[Run]) -> Table:
    """Return what runs came to, a column a run."""
    table = _table("", [name for name, _ in runs])
    for title, words in _ROWS:
        cells = [words(history) for _, history in runs]
        # Most runs have no reason to tell.
        if any(cells):
            table.add_row(title, *cells)
    for name in percentiles_us(()):
        figures = [percentiles_us(history.waits)[name] for _, history in runs]
        table.add_row(
            f"wait {name}",
            *(
                time_us(figure) if history.waits else "none"
                for figure, (_, history) in zip(figures, runs, strict=True)
            ),
        )
    return table


def stage_table(runs: Sequence[Run]) -> Table:
    """Return mean and 99th percentile of each stage of the waits, two columns a run."""
    heads = [f"{name}: {figure}" for name, _ in runs for figure in ("mean", "p99")]
    table = _table("stage of a wait", heads)
    for number, stage in enumerate(STAGES):
        cells = []
        for _, history in runs:
            summary = summary_of(
                round(wait.stages_us[number] * 1000) for wait in history.waits if wait.stages_us
            )
            figures = (summary.mean_us, summary.p99_us)
            cells += [time_us(figure) if summary.count else "none" for figure in figures]
        table.add_row(stage, *cells)
    return table


def _table(first: str, heads: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for head in heads:
        # A file's name is a text, and may hold what rich takes for markup.
        table.add_column(_plain(head), justify="right")
    return table


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _guest(history: History) -> str:
    length = sum(block.length_bytes for block in history.blocks.values())
    count = history.vcpu_count
    vcpus = "1 vCPU" if count == 1 else f"{count} vCPUs"
    if history.waiter != VCPU:
        vcpus = "seen between the two"
    return f"{format_bytes(length)}, {vcpus}" if length else _UNKNOWN


def _memory(history: History) -> str:
    if lost := lost_bytes(history):
        return f"{format_bytes(lost)} lost"
    if "equal" not in history.verdict:
        return "not compared"
    good = history.verdict["equal"] and not history.verdict.get("mismatches")
    return "verified" if good else "WRONG"


def _downtime(history: History) -> str:
    downtime_us = history.downtime_us
    return _UNKNOWN if downtime_us is None else time_us(downtime_us)


def _by_guests_clock(history: History) -> str:
    told = history.guest_clock
    if not told:
        return "the guest has none"
    return f"{time_us(told['blackout-us'])}, longest stall {time_us(told['stall-us'])}"


def _count(history: History, event: str) -> str:
    count = history.source_count(event)
    return _UNKNOWN if count is None else str(count)


_UNKNOWN = "not recorded"


_ROWS: tuple[tuple[str, Callable[[History], str]], ...] = (
    ("status", status_of),
    ("reason", lambda history: _plain(reason_of(history))),
    ("memory", _memory),
    ("policy", lambda history: _plain(str(history.run.get("policy", _UNKNOWN)))),
    ("guest", _guest),
    ("events span", lambda history: time_us((history.last_ns - history.first_ns) / 1000)),
    ("downtime", _downtime),
    ("by the guest's clock", _by_guests_clock),
    ("page requests", lambda history: str(len(history.requests))),
    ("preempted", lambda history: _count(history, events.Preempt.event)),
    ("finished early on request", lambda history: _count(history, events.Boost.event)),
    ("waits", lambda history: str(len(history.all_waits))),
)


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
