"""`midstream dest`: runs a destination in this process."""

from __future__ import annotations

from dest.config import DestConfig
from dest.session import DestSession
from protocol.report import assemble_failed
from scripts.options import DEST, Values
from scripts.screen.output import print_result, tell
from scripts.screen.recorder import Recorder
from scripts.sides import Outcome, Report, run_side


def run_dest(config: DestConfig, values: Values) -> None:
    """Run a destination to its end.

    Raises:
        MidstreamError: It failed, was cancelled, or found wrong memory.
    """

    def say_listening(address: str) -> None:
        line = f"listening on {address}"
        if values["report"] == "-":
            # Standard output is the report's alone.
            tell(line)
        else:
            print_result(f"{line}\n")

    sessions: list[DestSession] = []

    def report_failure(status: str, reason: str) -> Report:
        part = sessions[0].part_so_far() if sessions else None
        return assemble_failed(status, reason, dest=part)

    async def run(recorder: Recorder) -> Outcome:
        session = DestSession(config, recorder, say_listening, tell)
        sessions.append(session)
        result = await session.run()
        return result.report, result.problem

    run_side(DEST, values, run, report_failure)
