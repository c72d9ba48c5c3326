"""Writes a run's report where the user wants it, also when the run has failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from protocol.errors import MidstreamError, MigrationCancelled
from protocol.states import State
from protocol.text import one_line
from scripts.options import Values
from scripts.screen.output import print_result

Report = dict[str, Any]


def report_error(
    error: MidstreamError, report_failure: Callable[[str, str], Report], values: Values
) -> None:
    """Write the report of a migration that failed, if one was wanted; why it failed comes first."""
    if values["report"] is None:
        return
    report = report_failure(_status_of(error), one_line(str(error)))
    tell_of_link(report, values)
    with suppress(MidstreamError):
        write_report(values["report"], report)


def put_reason(path: Path, error: MidstreamError) -> bool:
    """Put into the report that a file holds why the command failed; return whether it holds one.

    Who wrote it may have been called off because of that: then it was not cancelled by its user.
    """
    with suppress(OSError, ValueError, LookupError, TypeError):
        report = json.loads(path.read_text(encoding="utf-8"))
        report["midstream"]["reason"] = one_line(str(error))
        if report["status"] == State.CANCELLED.value:
            report["status"] = _status_of(error)
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        return True
    return False


def write_report(target: str, report: Report) -> None:
    """Write a report to a file, or to standard output for `-`.

    Raises:
        MidstreamError: It cannot be written.
    """
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    if target == "-":
        print_result(text)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise MidstreamError(f"cannot write {target}: {error.strerror}") from error


def tell_of_link(report: dict[str, Any], values: Values) -> None:
    """Add what whoever started this side has put between it and the other, if anything."""
    if values.get("on_link"):
        kind, _, rate = values["on_link"].partition(":")
        report["midstream"]["link"] = {"kind": kind, "bytes-per-second": int(rate)}


def _status_of(error: MidstreamError) -> str:
    state = State.CANCELLED if isinstance(error, MigrationCancelled) else State.FAILED
    return state.value
