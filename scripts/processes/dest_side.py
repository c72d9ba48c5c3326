"""`midstream dest`: runs a destination in this process."""

from __future__ import annotations

from collections.abc import Callable

from dest.config import DestConfig
from dest.midstream import MidstreamPeer
from dest.session import DestSession
from protocol.events import Emit
from protocol.report import assemble_failed
from protocol.whereabouts import DEST as AT_DEST
from protocol.whereabouts import NOWHERE, Whereabouts
from scripts.options import DEST
from scripts.processes.sides import Outcome, run_side
from scripts.reports import CANCELLED, Outputs, Report, settled_report
from scripts.run_config import DestRun, Plain, from_plain
from scripts.screen.output import announce, tell
from scripts.screen.recorder import Recorder


def run_started(run: Plain) -> None:
    """Run the destination that this process was started for.

    Raises:
        MidstreamError: It failed, was cancelled, or found wrong memory.
    """
    given: DestRun = from_plain(DestRun, run)
    with settled_report(given.outputs.report):
        run_dest(given.configure(), given.outputs)


def run_dest(config: DestConfig, outputs: Outputs) -> None:
    """Run a destination to its end.

    Raises:
        MidstreamError: It failed, was cancelled, or found wrong memory.
    """
    run_session(
        outputs,
        lambda emit: DestSession(config, MidstreamPeer(config), emit, say_listening(outputs), tell),
    )


def run_session(outputs: Outputs, open_session: Callable[[Emit], DestSession]) -> None:
    """Run a destination's session to its end.

    Args:
        outputs: What of it is wanted.
        open_session: Makes it, of who takes its events.

    Raises:
        MidstreamError: It failed, was cancelled, or found wrong memory.
    """
    sessions: list[DestSession] = []

    def whereabouts() -> Whereabouts:
        return sessions[0].whereabouts if sessions else Whereabouts(NOWHERE)

    def report_failure(status: str, reason: str) -> Report:
        part, side = sessions[0].part_so_far() if sessions else None, whereabouts().side
        # A source that is lost may be gone, and its guest with it; one that hears why is not.
        is_known = side == AT_DEST or status == CANCELLED
        return assemble_failed(status, reason, dest=part, guest_side=side if is_known else "")

    async def run(recorder: Recorder) -> Outcome:
        session = open_session(recorder)
        sessions.append(session)
        result = await session.run()
        return result.report, result.problem

    run_side(DEST, outputs, run, report_failure, whereabouts=whereabouts)


def say_listening(outputs: Outputs) -> Callable[[str], None]:
    """Return what tells the address; standard output may be a report's or events' alone."""
    if outputs.has_standard_output:
        return lambda address: tell(f"listening on {address}")
    return lambda address: announce(f"listening on {address}")
