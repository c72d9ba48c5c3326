"""How long midstream takes to begin."""

from __future__ import annotations

import subprocess
import sys
import time

from scripts.bench.figure import Figure, Target
from scripts.bench.plan import Plan
from scripts.bench.single_run import migrate_with_events
from scripts.processes.spawn import package_environment

SECTION = "start"

_RUN_SECONDS_MAX = 60
_HELP = Target(0.3, of_ratio=False)
_FIRST_PAGE = Target(1.0, of_ratio=False)


def measure_startup(plan: Plan) -> list[Figure]:
    """Measure the help, and a migration with all defaults up to its first page.

    Raises:
        MigrationError: A run failed.
    """
    helps, firsts = [], []
    for number in range(1, plan.runs + 1):
        plan.say(f"{SECTION}: run {number} of {plan.runs}")
        helps.append(_help_seconds())
        firsts.append(_first_page_seconds())
    return [
        Figure(SECTION, "midstream --help", "s", tuple(helps), target=_HELP),
        Figure(
            SECTION, "midstream migrate, to its first page", "s", tuple(firsts), target=_FIRST_PAGE
        ),
    ]


def _help_seconds() -> float:
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-P", "-m", "scripts", "--help"],
        env=package_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=_RUN_SECONDS_MAX,
        check=True,
    )
    return time.monotonic() - started


def _first_page_seconds() -> float:
    started_ns = time.monotonic_ns()
    _, events = migrate_with_events({})
    first_ns: int = next(event["t-ns"] for event in events if event["event"] == "page-start")
    return (first_ns - started_ns) / 1e9
