"""Runs a command of midstream as a process of its own, and reads the report that it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from midstream.results import RunFailed, load_events
from scripts.runtime.parent import PARENT_VARIABLE
from scripts.runtime.spawn import package_environment

# The statuses with which a command has done what it was told, however that came out.
_DONE = frozenset({0, 1, 3, 4, 5})

_NONE: Mapping[str, Sequence[str]] = MappingProxyType({})

# What a command that is told to end may take before it is killed: it cancels its migration first.
_END_SECONDS_MAX = 15.0


@dataclass(frozen=True)
class Done:
    """A command that has ended.

    Attributes:
        report: What it reports.
        events: The events of the run, as a table; None if they were not asked for.
    """

    report: dict[str, Any]
    events: Mapping[str, Any] | None = None


def run_command(
    command: str,
    arguments: Sequence[str | os.PathLike[str]],
    options: Mapping[str, Any],
    *,
    check: bool,
    repeated: Mapping[str, Sequence[str]] = _NONE,
) -> Done:
    """Run a command to its end; it never outlives the call.

    Args:
        command: Its name.
        arguments: Files that it takes.
        options: By their names with underscores; None and False for what is not given.
        check: Raise if its exit status is not 0.
        repeated: Options that are given once for each of their values.

    Raises:
        RunFailed: That is so, or it has left no report.
    """
    with tempfile.TemporaryDirectory(prefix="midstream-library-") as folder:
        report, events = Path(folder, "report.json"), options.get("events")
        told = Path(folder, "events.jsonl") if events is True else Path(str(events))
        typed = dict(options)
        if command == "migrate":
            typed["quiet"] = True
            typed["events"] = told if events else None
        again = [f"--{name}={value}" for name, values in repeated.items() for value in values]
        files = [os.fspath(each) for each in arguments]
        status, said = _run([command, f"--report={report}", *again, *_typed(typed), "--", *files])
        left = json.loads(report.read_text(encoding="utf-8")) if report.exists() else None
        if left is None or status not in _DONE or (check and status):
            raise RunFailed(_reason(said, status), status, left)
        return Done(left, load_events(told) if events and told.exists() else None)


def _typed(options: Mapping[str, Any]) -> list[str]:
    """Return options as they are typed."""
    typed = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is None or value is False:
            continue
        if value is True:
            typed.append(flag)
        elif isinstance(value, (list, tuple)):
            typed.append(f"{flag}={','.join(map(str, value))}")
        else:
            typed.append(f"{flag}={value}")
    return typed


def _run(arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command; return its exit status and what it said on standard error."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "scripts", *arguments],
            env={**package_environment(), PARENT_VARIABLE: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            status = process.wait()
        finally:
            # Whoever interrupts a cell of a notebook interrupts this process, and not that one.
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_END_SECONDS_MAX)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        errors.seek(0)
        return status, errors.read().decode(errors="replace")


def _reason(said: str, status: int) -> str:
    """Return the last line that a command said, which is why it failed."""
    lines = said.strip().splitlines()
    return lines[-1].removeprefix("midstream: ") if lines else f"exit status {status}"
