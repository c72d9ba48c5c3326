"""Writes what `--trace` and `--html` ask for, from the events of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from protocol.errors import MidstreamError
from scripts.screen.outlet import write_output
from scripts.views.embed import embed
from scripts.views.history import History
from scripts.views.page import run_page
from scripts.views.perfetto import TraceWriter
from scripts.views.saved import parse_spooled
from scripts.views.spool import Spool


def read_spool(spool: Spool) -> History:
    """Return the history of what a run has left in its spool."""
    return history_of(parse_spooled(spool.read_all()))


def history_of(events: Iterable[dict[str, Any]]) -> History:
    """Return the history that events tell."""
    history = History()
    for event in events:
        history.take(event)
    return history


def write_views(history: History, values: Mapping[str, Any]) -> None:
    """Write the views of a run that the options `trace` and `html` ask for.

    Raises:
        MidstreamError: A file cannot be written.
    """
    failures: list[MidstreamError] = []
    name = str(history.run.get("policy", "run"))
    for write, target in (
        (partial(write_trace, history), values["trace"]),
        (partial(write_page, [(name, history)]), values["html"]),
    ):
        try:
            if target is not None:
                write(Path(target))
        except MidstreamError as error:
            # The other may be on another disk.
            failures.append(error)
    if failures:
        raise failures[0]


def write_trace(history: History, path: Path) -> None:
    """Write a run as a trace.

    Raises:
        MidstreamError: The file cannot be written.
    """
    _write(path, orjson.dumps(TraceWriter(history).document()))


def write_page(runs: Sequence[tuple[str, History]], path: Path) -> None:
    """Write one page about runs, each with a name.

    Raises:
        MidstreamError: The file cannot be written.
    """
    plain = [embed(history, name) for name, history in runs]
    title = "midstream run" if len(runs) == 1 else f"{len(runs)} midstream runs"
    _write(path, run_page(plain, title).encode())


def _write(path: Path, data: bytes) -> None:
    try:
        write_output(path, data)
    except OSError as error:
        raise MidstreamError(f"cannot write {path}: {error.strerror}") from error
