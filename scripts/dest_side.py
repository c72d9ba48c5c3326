"""`midstream dest`: runs a destination in this process."""

from __future__ import annotations

from collections.abc import Callable

from dest.config import DestConfig
from dest.qemu.config import QemuDestConfig
from dest.qemu.session import QemuSession
from dest.session import DestSession
from protocol.events import Emit
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
    _run(values, lambda emit: DestSession(config, emit, _say_listening(values), tell))


def run_qemu_dest(config: QemuDestConfig, values: Values) -> None:
    """Run a destination for a QEMU to its end.

    Raises:
        MidstreamError: It failed or was cancelled.
    """
    _run(values, lambda emit: QemuSession(config, emit, _say_listening(values), tell))


def _run(values: Values, open_session: Callable[[Emit], DestSession | QemuSession]) -> None:
    sessions: list[DestSession | QemuSession] = []

    def report_failure(status: str, reason: str) -> Report:
        part = sessions[0].part_so_far() if sessions else None
        return assemble_failed(status, reason, dest=part)

    async def run(recorder: Recorder) -> Outcome:
        session = open_session(recorder)
        sessions.append(session)
        result = await session.run()
        return result.report, result.problem

    run_side(DEST, values, run, report_failure)


def _say_listening(values: Values) -> Callable[[str], None]:
    """Return what tells the address; standard output may be the report's alone."""
    if values["report"] == "-":
        return lambda address: tell(f"listening on {address}")
    return lambda address: print_result(f"listening on {address}\n")
