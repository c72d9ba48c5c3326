"""One `midstream migrate`, and what it looks like from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scripts.figures.runs import run_migration
from scripts.processes.folders import temporary_folder
from scripts.views.saved import read_all

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
