"""Reads reports from files, and says where a file holds none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from protocol.errors import LocalProtocolError
from scripts.files import read_bounded

Report = dict[str, Any]

# A comparison of many repeated runs has every fault's latency in it.
_BYTES_MAX = 256 << 20
# The longest line that `--events` writes is shorter.
_FIRST_LINE_BYTES_MAX = 64 << 10

# What a reader of another version's fields, or of a file that somebody has edited, may come upon.
NOT_AS_TOLD = (LookupError, TypeError, ValueError, AttributeError)


def holds_events(path: Path) -> bool:
    """Return whether a file begins as one of `--events` does: with a line that is an event.

    Raises:
        LocalProtocolError: The file cannot be read.
    """
    try:
        begin = read_bounded(path, _FIRST_LINE_BYTES_MAX).lstrip()
    except OSError as error:
        raise LocalProtocolError(f"{path}: {error.strerror}") from error
    line, end, _ = begin.partition(b"\n")
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        # An object over several lines is none; what is no JSON at all is for who reads events.
        return not begin.startswith(b"{") or (bool(end) and b'"event"' in line)
    return not isinstance(first, dict) or schema_of(first) == ""


def read_report(path: Path) -> Report:
    """Return the report that a file holds.

    Raises:
        LocalProtocolError: It cannot be read, or holds none: which file, and why.
    """
    try:
        data = read_bounded(path, _BYTES_MAX)
    except OSError as error:
        raise LocalProtocolError(f"{path}: {error.strerror}") from error
    if len(data) > _BYTES_MAX:
        raise LocalProtocolError(f"{path}: more than {_BYTES_MAX >> 20} MiB, this is no report")
    try:
        held = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LocalProtocolError(f"{path}: no JSON: {error}") from error
    if not isinstance(held, dict) or not schema_of(held):
        raise LocalProtocolError(f"{path}: no report of midstream")
    return held


def schema_of(report: Report) -> str:
    """Return which kind of report an object is, empty if it is none: `midstream-compare/1`."""
    own = report.get("midstream", report)
    schema = own.get("schema") if isinstance(own, dict) else None
    is_ours = isinstance(schema, str) and schema.startswith("midstream-")
    # Of before a status was in every kind, a report is one all the same.
    return str(schema) if is_ours and isinstance(report.get("status", ""), str) else ""


def run_of(report: Report) -> Report:
    """Return what a report says was run; empty for one of before reports said it."""
    run = report.get("midstream", report).get("run", {})
    return run if isinstance(run, dict) else {}
