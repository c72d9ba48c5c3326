"""`midstream migrate`: a destination and a source as two processes of their own on this machine.

Ctrl-C reaches this process alone: it cancels the source, the source tells the destination, and both
are gone before this process is.  A second Ctrl-C kills both.  Should this process be killed, the
kernel ends both.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import trio

from protocol.errors import MidstreamError, MigrationError, root_cause
from scripts.links.link import LOOPBACK, Link
from scripts.options import DEST, SOURCE
from scripts.processes.child import Child
from scripts.processes.ends import ENDED_WELL, judge
from scripts.processes.losses import Losses, losses_here
from scripts.reports import Outputs, amend_report, is_report_file, write_report
from scripts.runtime.interrupts import SIGNALS, insists, release_signals
from scripts.runtime.spawn import Spawned
from scripts.screen.output import print_result, tell
from scripts.views.spool import Spool
from scripts.views.watch import Watcher, watching

# A destination that has not begun to listen by then never will.
LISTEN_SECONDS_MAX = 60.0
# What a side is given to end by itself when the other has failed, or the user has cancelled.
END_SECONDS_MAX = 10.0
# What the last words of a side that has ended are given to arrive.
LAST_WORDS_SECONDS_MAX = 1.0

LISTENING = "listening on "

# The exit statuses with which a source has written its report.
_REPORTED = frozenset({0, 1, 3, 4, 5, 130})

# Of the process that shows a run, once both sides have started.
_NICE = 10


class Launcher:
    """Both sides of one migration; `run` once."""

    def __init__(
        self,
        outputs: Outputs,
        sides: Sequence[Spawned] = (),
        link: Link = LOOPBACK,
        spool: Spool | None = None,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        """Wrap sides that have been started.

        Args:
            outputs: What of the run is wanted.
            sides: The destination and the source.
            link: What lies between the two sides.
            spool: Where both sides leave their events for who watches; None if nobody does.
            watchers: Who is shown the run while it goes on; they need a spool.
        """
        self._spool = spool
        self._watchers = watchers
        # What sides say while they are being watched: printed at once, it would be drawn over.
        self._said: list[str] = []
        self._link = link
        self._outputs = outputs
        self._sides = [Child(side) for side in sides]
        # The name of the signal by which the user cancelled.
        self._cancelled_by = ""
        # The destination has heard of a source, and learns from it, or from its end, when to end.
        self._met = False

    async def run(self) -> None:
        """Migrate.

        Raises:
            SideFailed: A side failed.
            MigrationCancelled: The user cancelled.
        """
        try:
            await self._run()
        except BaseException as error:
            cause = root_cause(error)
            if isinstance(cause, MidstreamError):
                self._leave_report(cause)
            with contextlib.suppress(MidstreamError):
                self._report_losses()
            raise
        self._report_losses()

    async def _run(self) -> None:
        with trio.open_signal_receiver(*SIGNALS) as signals:
            release_signals()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed, signals, nursery)
                async with (
                    watching(self._spool, self._watchers),
                    trio.open_nursery() as readers,
                ):
                    try:
                        await self._run_sides(readers, nursery)
                    finally:
                        await self._end_sides()
                        readers.cancel_scope.deadline = trio.current_time() + LAST_WORDS_SECONDS_MAX
                nursery.cancel_scope.cancel()
        judge(self._sides, self._cancelled_by, met=self._met)

    def pass_on_kept(self) -> None:
        """Print what the sides have said that was captured; call it after `run`.

        Raises:
            MidstreamError: It cannot be written.
        """
        for line in self._said:
            tell(line)
        target = self._outputs.report
        for side in self._sides:
            if side.side != SOURCE or not side.output:
                continue
            if target is None or is_report_file(target):
                print_result(side.output)
            else:
                # One that was killed may have left no more than a part.
                with contextlib.suppress(ValueError):
                    write_report(target, self._losses().put_into(json.loads(side.output)))

    def check_outputs(self) -> None:
        """Fail if a side could not write something that was asked for; the migration was good.

        Raises:
            MidstreamError: That is so.
        """
        self._losses().check()

    def _report_losses(self) -> None:
        target = self._outputs.report
        if target is not None and is_report_file(target):
            amend_report(target, self._losses().put_into)

    def _losses(self) -> Losses:
        """Return what was lost by both sides and by this process."""
        left = [Losses(**json.loads(side.left)) for side in self._sides if side.left]
        return sum(left, losses_here([*self._watchers]))

    async def _run_sides(self, readers: trio.Nursery, nursery: trio.Nursery) -> None:
        dest, source = self._sides
        readers.start_soon(dest.collect_errors, partial(self._pass_on, dest))
        if source.is_captured:
            readers.start_soon(source.collect_errors, self._say)
        with trio.move_on_after(LISTEN_SECONDS_MAX) as patience:
            try:
                address = await dest.read_line(LISTENING)
                source.write_line(await self._link.lead_to(address, nursery))
                self._yield_processor()
            except MigrationError:
                await dest.wait()
                source.kill()
        if patience.cancelled_caught:
            source.kill()
            dest.interrupt()
            raise MigrationError(f"the destination did not listen in {LISTEN_SECONDS_MAX:g} s")
        async with trio.open_nursery() as waiting:
            waiting.start_soon(self._call_off_alone, source, dest)
            await source.wait()
            waiting.cancel_scope.cancel()

    async def _call_off_alone(self, source: Child, dest: Child) -> None:
        """End a source that tries to come back to a destination that is gone."""
        if await dest.wait():
            await trio.sleep(LAST_WORDS_SECONDS_MAX)
            source.call_off()

    def _yield_processor(self) -> None:
        """Let who shows the run take what processor time nobody else wants.

        Both sides, and the threads of a link, have started by now: they would inherit it.
        """
        if self._watchers:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, _NICE)

    async def _end_sides(self) -> None:
        """Leave no side behind; the source first, its end is what the destination waits for."""
        source_done = False
        for side in reversed(self._sides):
            # One that never met a source, or whose source has ended well, has to be told.
            if not self._met or (self._cancelled_by and source_done):
                side.interrupt()
            if side.side == DEST and not source_done and await self._outlives(side):
                # It would wait for a source that is gone to come back.
                side.call_off()
            # What follows a transfer that came to its end, saving a large guest, takes its time.
            patient = source_done and not self._cancelled_by
            await side.end(math.inf if patient else END_SECONDS_MAX)
            source_done = side.side == SOURCE and side.status in ENDED_WELL

    async def _outlives(self, side: Child) -> bool:
        """Return whether a side goes on when it has had the time to hear that the other is gone."""
        with trio.CancelScope(shield=True), trio.move_on_after(LAST_WORDS_SECONDS_MAX):
            await side.wait()
        return side.status is None

    def _pass_on(self, dest: Child, line: str) -> None:
        """Hear, and perhaps show, what the destination logs; where it crashed is always shown."""
        is_state = line.startswith(f"{DEST}: ")
        self._met = self._met or is_state
        if self._outputs.verbose:
            tell(line)
        elif dest.has_crashed and not is_state:
            self._say(line)

    def _say(self, line: str) -> None:
        """Print what a side says, or keep it while a picture of the run would be drawn over it."""
        if self._watchers:
            self._said.append(line)
        else:
            tell(line)

    async def _heed(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        """Cancel at the first signal, kill at the second or when nothing comes of the first."""
        async for number in signals:
            if self._cancelled_by:
                if insists(number):
                    self._kill()
                continue
            self._cancelled_by = signal.Signals(number).name
            running = [side for side in self._sides if side.status is None]
            if running:
                running[-1].interrupt()
            nursery.start_soon(self._lose_patience)

    async def _lose_patience(self) -> None:
        await trio.sleep(END_SECONDS_MAX)
        self._kill()

    def _kill(self) -> None:
        for side in self._sides:
            side.kill()

    def _leave_report(self, error: MidstreamError) -> None:
        """See to it that a report that was wanted is there, and says what this process says.

        The source writes one however it ends, unless it is killed.  It may not know the cause.
        """
        # Imported late: only who fails waits for what it takes.
        from protocol.report import assemble_failed  # noqa: PLC0415
        from scripts.reports import is_of_cancelled, put_reason, report_error  # noqa: PLC0415

        target = self._outputs.report
        source = next((side for side in self._sides if side.side == SOURCE), None)
        if target is not None and Path(target).is_file():
            # One that was called off was cancelled by this process, and not by a user.
            by_user = source is not None and not source.put_down
            error.cancelled = error.cancelled or (by_user and is_of_cancelled(Path(target)))
            has_report = put_reason(Path(target), error)
        else:
            has_report = source is not None and source.status in _REPORTED
        if not has_report:
            report_error(error, assemble_failed, target)
