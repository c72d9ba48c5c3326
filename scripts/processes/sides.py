"""A side that runs in this process: its signals, events, report and table."""

from __future__ import annotations

import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import trio

from protocol import events
from protocol.errors import MemoryLost, MidstreamError, MigrationCancelled, root_cause
from protocol.report import assemble_failed
from protocol.whereabouts import Whereabouts
from scripts.processes.losses import losses_here
from scripts.reports import (
    Outputs,
    Report,
    begin_report,
    report_error,
    tell_of_link,
    write_report,
)
from scripts.runtime.interrupts import SIGNALS, end_at_once, insists, place_before_exit
from scripts.runtime.parent import has_heir, leave_to_parent, orders
from scripts.screen.earlier import Earlier, tell_left
from scripts.screen.output import output_columns, print_result, tell
from scripts.screen.recorder import Recorder
from scripts.screen.table import table
from scripts.screen.verdict import put_verdict
from scripts.views.spool import Spool, servers_of, stay_after, viewed
from scripts.views.watch import watching

# What both sides' sessions return, as far as this module cares.
Outcome = tuple[Report, MidstreamError | None]


def run_side(
    side: str,
    outputs: Outputs,
    run: Callable[[Recorder], Awaitable[Outcome]],
    report_failure: Callable[[str, str], Report] = assemble_failed,
    to_text: Callable[[Report], str] | None = None,
    whereabouts: Callable[[], Whereabouts] | None = None,
) -> None:
    """Run a side to its end; print and write what came of it.

    Its report, if it is a file, is there from the beginning; its events go where they are wanted.

    Args:
        side: "source", "dest", or who else tells of it.
        outputs: What of it is wanted.
        run: Runs the side; takes who takes its events.
        report_failure: Makes the report of a run that failed, of its status and the reason.
        to_text: Makes what is printed of the report; None for the table.
        whereabouts: Tells where the guest is, to be said of what was cancelled; None for who has
            none.

    Raises:
        MidstreamError: It failed, was cancelled, or found wrong memory, or something cannot be
            written.
    """

    def placed(reason: str) -> str:
        return whereabouts().added_to(reason) if whereabouts is not None else reason

    place_before_exit(placed)
    report, problem = _record(side, outputs, run, report_failure, placed)
    if not (outputs.quiet or outputs.has_standard_output):
        # A terminal that another process prints on is known to that one.
        columns = orders().columns or output_columns()
        printed = to_text(report) if to_text else table(report, columns or 80)
        print_result(printed)
    # What is wrong in spite of that is said last.
    if problem is not None:
        raise problem


def _record(
    side: str,
    outputs: Outputs,
    run: Callable[[Recorder], Awaitable[Outcome]],
    report_failure: Callable[[str, str], Report],
    placed: Callable[[str], str],
) -> Outcome:
    """Run a side to its end and write what came of it.

    Args:
        side: As of `run_side`.
        outputs: Likewise.
        run: Likewise.
        report_failure: Likewise.
        placed: Returns why it was cancelled together with where the guest is.

    Returns:
        The report, and what is wrong though the migration has ended well: the guest's memory, or
        else events that a disk did not take.

    Raises:
        MidstreamError: It failed, or was cancelled, or something cannot be written.
    """
    begin_report(outputs.report)
    on_state = tell if outputs.verbose else None
    watchers = servers_of(outputs)
    with viewed(outputs, live=bool(watchers)) as spool:
        recorder = Recorder(
            side, outputs.events_file,
            spool=_spool_path(spool), earlier=earlier_for(side),
            at_once=orders().tells_at_once, on_state=on_state,
        )  # fmt: skip

        def report_losses(status: str, reason: str) -> Report:
            losses = losses_here(watchers, recorder)
            leave_to_parent(json.dumps(losses.to_plain()))
            return losses.put_into(report_failure(status, reason))

        async def run_recorded() -> Outcome:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(recorder.keep_flushing)
                async with watching(spool, watchers):
                    outcome = await run(recorder)
                    recorder.flush()
                nursery.cancel_scope.cancel()
            return outcome

        def leave(by_whom: str) -> NoReturn:
            reason = placed(by_whom)
            report_error(MigrationCancelled(reason), report_losses, outputs.report)
            end_at_once(reason)

        try:
            # When it is left, all that anybody reads of the events has been read.
            with recorder:
                report, problem = trio.run(until_signalled, run_recorded, leave)
        except MidstreamError as error:
            told: MidstreamError = error
            if isinstance(error, MigrationCancelled):
                told = MigrationCancelled(placed(str(error)))
            # A destination that was started says it to nobody.
            if recorder.is_held and not (orders().shares_events and side == events.DEST):
                tell_left(str(outputs.events))
            report_error(told, report_losses, outputs.report)
            if told is error:
                raise
            raise told from None
        losses = losses_here(watchers, recorder)
        tell_of_link(losses.put_into(report))
        put_verdict(report)
        # Before the views, which may fail.
        if outputs.report is not None:
            write_report(outputs.report, report)
        stay_after(watchers, spool)
    if has_heir():
        leave_to_parent(json.dumps(losses.to_plain()))
    elif problem is None:
        problem = recorder.failure
    return report, problem


def earlier_for(side: str) -> Earlier:
    """Return what becomes of the events that an earlier run has left.

    Of two sides that share a file the destination removes them: it begins first.
    """
    if not orders().shares_events:
        return Earlier.REPLACED
    if not orders().holds_events:
        return Earlier.KEPT
    return Earlier.REPLACED if side == events.DEST else Earlier.AWAITED


async def until_signalled(
    run: Callable[[], Awaitable[Outcome]], leave: Callable[[str], NoReturn] = end_at_once
) -> Outcome:
    """Run until the end or the first signal that ends a command, which cancels.

    Args:
        run: What is run; it may go on for a while when it is cancelled, to save a guest.
        leave: Called with the reason at a second signal: ends this process at once.

    Raises:
        MidstreamError: The one error that says best what went wrong.
        MigrationCancelled: A signal came first.
    """
    outcome: Outcome | None = None
    received = ""

    async def listen(scope: trio.CancelScope) -> None:
        nonlocal received
        async for number in signals:
            if received and insists(number):
                leave(f"cancelled by {received}")
            received = received or signal.Signals(number).name
            scope.cancel(f"cancelled by {received}")

    with trio.open_signal_receiver(*SIGNALS) as signals:
        try:
            async with trio.open_nursery() as nursery:
                # Who listens goes on when what runs is cancelled: it may take its time.
                scope = trio.CancelScope()
                nursery.start_soon(listen, scope)
                with scope:
                    outcome = await run()
                nursery.cancel_scope.cancel()
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            if received and isinstance(cause, MigrationCancelled):
                raise MigrationCancelled(f"cancelled by {received}; {cause}") from None
            # What fails while a side is being cancelled fails because of that; lost memory is lost.
            follows = isinstance(cause, MidstreamError) and not isinstance(cause, MemoryLost)
            if not (received and follows):
                raise cause from None
    if outcome is None:
        raise MigrationCancelled(f"cancelled by {received}")
    return outcome


def _spool_path(spool: Spool | None) -> Path | None:
    """Return where events go for who watches: the process that started this one, or this one."""
    if orders().spool is not None:
        return Path(str(orders().spool))
    return spool.path if spool is not None else None
