"""Simulated runs, for tests: what `midstream simulate` would be told, without a command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import to_builtins

from protocol import events
from scripts.simulate.agenda import Agenda
from scripts.simulate.command import point_of
from scripts.simulate.model import BUILT_IN
from scripts.simulate.model_files import Chosen
from scripts.simulate.run import Point, Report, Told, simulate

# A guest of a few pages that is handed over at once, whose vCPUs fault without pause.
AT_ONCE = {
    "size": "32MiB",
    "link": "1Gbit/s",
    "postcopy_after": "0",
    "access_rate": "0",
    "write_ratio": "0",
    "start_paused": True,
}


def point(model: str = "reference", changes: tuple[str, ...] = (), **values: object) -> Point:
    """Return a run of `AT_ONCE`, with other values."""
    return point_of({**AT_ONCE, **values}, Chosen(BUILT_IN[model], model), changes)


def simulated(model: str = "reference", changes: tuple[str, ...] = (), **values: object) -> Report:
    """Return the report of one."""
    return simulate(point(model, changes, **values))


def recorded(which: Point) -> tuple[Report, list[dict[str, Any]]]:
    """Return the report of a run, and all events of both sides as a file has them."""
    told: list[dict[str, Any]] = []

    def emits(agenda: Agenda) -> Told:
        def of(side: str) -> Callable[[events.Event], None]:
            def emit(event: events.Event) -> None:
                plain = {"t-ns": agenda.clock_ns(), "side": side, **to_builtins(event)}
                told.append(plain)

            return emit

        return Told(source=of("source"), dest=of("dest"))

    report = simulate(which, emits)
    return report, told
