"""How long midstream takes to begin.

A first run after an installation compiles modules, and on a virtual machine a guest's memory takes
milliseconds a huge page where it has gone back to the host.  Neither is midstream's doing, and each
would be in some runs and not in others: so modules are compiled, and memory is warm.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from protocol.units import parse_bytes
from scripts.bench.figure import Figure, Plan, Target
from scripts.bench.noise import warm_memory
from scripts.figures.runs import migrate_with_events
from scripts.options import OPTIONS
from scripts.runtime.spawn import package_environment

SECTION = "start"

_RUN_SECONDS_MAX = 60
_HELP = Target(0.3, of_ratio=False)
_FIRST_PAGE = Target(1.0, of_ratio=False)

_SIZE = next(option.default or "" for option in OPTIONS if option.flag == "--size")
_SIZE_BYTES = parse_bytes(_SIZE)
# Whose interpreters compile all modules anew each time.
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"


def measure_startup(plan: Plan) -> list[Figure]:
    """Measure the help, and a migration with all defaults up to its first page.

    Raises:
        GuestFailed: This machine has not the memory.
        MigrationError: A run failed.
    """
    helps, firsts = [], []
    with _bytecode():
        plan.say(f"{SECTION}: warm-up")
        migrate_with_events({})
        for number in range(1, plan.runs + 1):
            plan.say(f"{SECTION}: run {number} of {plan.runs}")
            helps.append(_help_seconds())
            warm_memory(_SIZE_BYTES)
            firsts.append(_first_page_seconds())
    return [
        Figure(SECTION, "midstream --help", "s", tuple(helps), target=_HELP),
        Figure(
            SECTION, "midstream migrate, to its first page", "s", tuple(firsts), target=_FIRST_PAGE
        ),
    ]


@contextmanager
def _bytecode() -> Iterator[None]:
    """Let this process's children keep what they compile."""
    before = os.environ.pop(_NO_BYTECODE, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[_NO_BYTECODE] = before


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
