"""`midstream dest`: runs a destination in this process."""

from __future__ import annotations

from collections.abc import Callable

from dest.config import DestConfig
from dest.qemu.config import QemuDestConfig
from dest.qemu.session import QemuSession
from dest.session import DestSession
from scripts.options import DEST, Values
from scripts.screen.output import print_result, tell
from scripts.screen.recorder import Recorder
from scripts.sides import Outcome, run_side


def run_dest(config: DestConfig, values: Values) -> None:
    """Run a destination to its end.

    Raises:
        MidstreamError: It failed, was cancelled, or found wrong memory.
    """

    async def run(recorder: Recorder) -> Outcome:
        result = await DestSession(config, recorder, _say_listening(values), tell).run()
        return result.report, result.problem

    run_side(DEST, values, run)


def run_qemu_dest(config: QemuDestConfig, values: Values) -> None:
    """Run a destination for a QEMU to its end.

    Raises:
        MidstreamError: It failed or was cancelled.
    """

    async def run(recorder: Recorder) -> Outcome:
        result = await QemuSession(config, recorder, _say_listening(values), tell).run()
        return result.report, result.problem

    run_side(DEST, values, run)


def _say_listening(values: Values) -> Callable[[str], None]:
    """Return what tells the address; standard output may be the report's alone."""
    if values["report"] == "-":
        return lambda address: tell(f"listening on {address}")
    return lambda address: print_result(f"listening on {address}\n")
