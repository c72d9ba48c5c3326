"""Runs of `midstream migrate` by other commands: their reports and events."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import trio

from guest.exits import wait_exit
from protocol.errors import MigrationError
from scripts.links.link import PROXY
from scripts.runtime.folders import temporary_folder
from scripts.runtime.looping import run_until_signalled
from scripts.runtime.parent import PARENT_VARIABLE
from scripts.runtime.spawn import package_environment
from scripts.screen.output import tell
from scripts.screen.table import link_title
from scripts.views.saved import read_all

_RUN_SECONDS_MAX = 1800.0
# How long a run may take to end when it is told to.
_END_SECONDS_MAX = 5.0


class RunFailed(MigrationError):
    """A run did not end with exit status 0.

    Attributes:
        reason: Why, in its own words.
        exit_status: Its own; 1 where it has none, as of what a signal ended.
        report: What it has reported by then; None for nothing.
    """

    def __init__(self, reason: str, status: int, report: dict[str, Any] | None) -> None:
        """Say why, and with which status it ended; negative for a signal."""
        reason = reason or (f"signal {-status} ended it" if status < 0 else f"status {status}")
        super().__init__(f"a run failed: {reason}")
        self.reason = reason
        self.exit_status = max(status, MigrationError.exit_status)
        self.report = report


def run_migration(
    options: Mapping[str, str], folder: Path, command: str = "migrate"
) -> dict[str, Any]:
    """Migrate a guest and return the report.

    Args:
        options: As `midstream migrate` has them, without dashes; a switch has an empty value.
        folder: Where the report may be written.
        command: Another that takes these options: `simulate` has no processes and no link.

    Raises:
        RunFailed: It did not end with exit status 0.
        MigrationError: It has not ended at all, or its user ended it.
    """
    report = folder / "report.json"
    # What another run has left is not this one's.
    report.unlink(missing_ok=True)
    words = [sys.executable, "-P", "-m", "scripts", command, "--quiet", f"--report={report}"]
    words += [f"--{name}={value}" if value else f"--{name}" for name, value in options.items()]
    done = run_until_signalled(partial(_run, words))
    if done is None:
        raise MigrationError(f"a run has not ended in {_RUN_SECONDS_MAX:g} s")
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().removeprefix("midstream: ")
        raise RunFailed(reason, done.returncode, _report_in(report))
    result: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    link = result["midstream"].get("link")
    if link is not None and link["kind"] == PROXY:
        _tell_once(f"midstream: each run has a {link_title(link)}, not network namespaces")
    return result


def _report_in(path: Path) -> dict[str, Any] | None:
    """Return the report that a run that failed has left, if it came so far."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and "midstream" in report else None


async def _run(command: list[str]) -> subprocess.CompletedProcess[bytes] | None:
    """Run a command to its end, which it is told if this is cancelled; None if that takes too long.

    It ends with this process, even if that is killed.  So it is not started by trio, which does so
    in a thread that ends ten seconds later: for the kernel that thread is its parent.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: ASYNC220 - see above
            command,
            env={**package_environment(), PARENT_VARIABLE: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            with trio.move_on_after(_RUN_SECONDS_MAX):
                status = await wait_exit(process)
                errors.seek(0)
                return subprocess.CompletedProcess(command, status, stderr=errors.read())
        finally:
            with trio.move_on_after(_END_SECONDS_MAX, shield=True):
                process.terminate()
                await wait_exit(process)
            process.kill()
            process.wait()
    return None


@cache
def _tell_once(line: str) -> None:
    """Print a line on standard error once; all runs of a comparison would say the same."""
    tell(line)


Record = dict[str, Any]


def migrate(options: Mapping[str, str]) -> Record:
    """Migrate a guest and return the report.

    Args:
        options: As `midstream migrate` has them, without dashes; a switch has an empty value.

    Raises:
        MigrationError: It did not end with exit status 0.
    """
    with temporary_folder("bench") as folder:
        return run_migration(options, folder)


def migrate_with_events(options: Mapping[str, str]) -> tuple[Record, list[Record]]:
    """Migrate a guest; return the report and all events, in the order of their time.

    Raises:
        MigrationError: It did not end with exit status 0.
    """
    with temporary_folder("bench") as folder:
        path = folder / "events.jsonl"
        report = run_migration({**options, "events": str(path)}, folder)
        events = sorted(read_all(path), key=lambda event: int(event["t-ns"]))
    return report, events
