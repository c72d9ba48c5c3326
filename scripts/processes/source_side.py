"""`midstream source`: runs a source in this process, with a progress line on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable

import trio

from protocol import events
from protocol.addresses import parse_host_port
from protocol.errors import LocalProtocolError
from protocol.report import assemble_failed
from protocol.whereabouts import NOWHERE, Whereabouts
from scripts.options import SOURCE
from scripts.processes.sides import Outcome, run_side
from scripts.reports import Outputs, Report, settled_report
from scripts.run_config import Plain, SourceRun, from_plain
from scripts.runtime.parent import orders
from scripts.screen.output import tell
from scripts.screen.progress import show_progress, tell_progress
from scripts.screen.recorder import Recorder
from source.config import SourceConfig
from source.session import SourceSession


def run_started(run: Plain) -> None:
    """Run the source that this process was started for.

    Raises:
        MidstreamError: It failed, was cancelled, or found wrong memory.
    """
    given: SourceRun = from_plain(SourceRun, run)
    with settled_report(given.outputs.report):
        address = given.address
        if address is None:
            try:
                address = parse_host_port(sys.stdin.readline().strip(), port_min=1)
            except ValueError as error:
                raise LocalProtocolError("nobody has said where to connect") from error
        run_source(given.configure(*address), given.outputs)


def run_source(config: SourceConfig, outputs: Outputs) -> None:
    """Run a source to its end.

    Raises:
        MidstreamError: It failed, was cancelled, or found wrong memory.
    """
    sessions: list[SourceSession] = []

    def whereabouts() -> Whereabouts:
        return sessions[0].whereabouts if sessions else Whereabouts(NOWHERE)

    def report_failure(status: str, reason: str) -> Report:
        part = sessions[0].part_so_far() if sessions else None
        return assemble_failed(status, reason, source=part, guest_side=whereabouts().side)

    async def run(recorder: Recorder) -> Outcome:
        session = SourceSession(
            config, recorder, tell,
            on_pause=_unless(outputs.quiet), tell_more=_unless(not outputs.verbose),
        )  # fmt: skip
        sessions.append(session)
        if (link := orders().link) is not None:
            recorder(events.Link(kind=link.kind, bytes_per_second=link.bytes_per_second))
        async with trio.open_nursery() as nursery:
            # A progress line between log lines would only be in their way.
            if not (outputs.quiet or outputs.verbose or orders().spool):
                nursery.start_soon(show_progress, session.progress, None, session.filled)
            if recorder.is_heard:
                nursery.start_soon(tell_progress, session.progress, recorder, session.filled)
            result = await session.run()
            nursery.cancel_scope.cancel()
        return result.report, result.problem

    run_side(SOURCE, outputs, run, report_failure, whereabouts=whereabouts)


def _unless(unwanted: bool) -> Callable[[str], None]:
    """Return who tells the user something, or nobody."""
    return (lambda _: None) if unwanted else tell
