"""What running either side in this process takes: signals, events, report, table."""

from __future__ import annotations

import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from protocol.errors import MemoryLost, MidstreamError, MigrationCancelled, WrongMemory, root_cause
from scripts.options import Values
from scripts.processes.interrupts import SIGNALS
from scripts.screen.output import print_result, tell
from scripts.screen.recorder import Recorder
from scripts.screen.table import table

# What both sides' sessions return, as far as this module cares.
Outcome = tuple[dict[str, Any], WrongMemory | None]


def run_side(side: str, values: Values, run: Callable[[Recorder], Awaitable[Outcome]]) -> None:
    """Run a side to its end; print and write what came of it.

    Args:
        side: "source" or "dest".
        values: The command line's.
        run: Runs the side; takes who takes its events.

    Raises:
        MidstreamError: It failed, was cancelled, or found wrong memory.
    """
    path = Path(values["events"]) if values["events"] is not None else None
    on_state = tell if values["verbose"] else None
    with Recorder(
        side, path,
        append=values["events_append"], at_once=values["events_now"], on_state=on_state,
    ) as recorder:  # fmt: skip

        async def run_recorded() -> Outcome:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(recorder.keep_flushing)
                outcome = await run(recorder)
                nursery.cancel_scope.cancel()
            return outcome

        outcome = trio.run(until_signalled, run_recorded)
    _finish(outcome, values)


async def until_signalled(run: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """Run until the end or the first SIGINT or SIGTERM, which cancels.

    Raises:
        MidstreamError: The one error that says best what went wrong.
        MigrationCancelled: A signal came first.
    """
    outcome: Outcome | None = None
    received = ""

    async def listen(scope: trio.CancelScope) -> None:
        nonlocal received
        async for number in signals:
            received = received or signal.Signals(number).name
            scope.cancel()

    with trio.open_signal_receiver(*SIGNALS) as signals:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, nursery.cancel_scope)
                outcome = await run()
                nursery.cancel_scope.cancel()
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            # What fails while a side is being cancelled fails because of that; lost memory is lost.
            follows = isinstance(cause, MidstreamError) and not isinstance(cause, MemoryLost)
            if not (received and follows):
                raise cause from None
    if outcome is None:
        raise MigrationCancelled(f"cancelled by {received}")
    return outcome


def _finish(outcome: Outcome, values: Values) -> None:
    """Write the report and print the table; the memory's problem, if there is one, comes last."""
    report, problem = outcome
    _tell_of_link(report, values)
    target = values["report"]
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    if target == "-":
        print_result(text)
    elif target is not None:
        _write_report(Path(target), text)
    if not values["quiet"] and target != "-":
        print_result(table(report))
    if problem is not None:
        raise problem


def _tell_of_link(report: dict[str, Any], values: Values) -> None:
    """Add what whoever started this side has put between it and the other, if anything."""
    if values.get("on_link"):
        kind, _, rate = values["on_link"].partition(":")
        report["midstream"]["link"] = {"kind": kind, "bytes-per-second": int(rate)}


def _write_report(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MidstreamError(f"cannot write {path}: {error.strerror}") from error
