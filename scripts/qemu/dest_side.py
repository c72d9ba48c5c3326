"""`midstream dest --peer qemu`: runs a destination for a QEMU in this process."""

from __future__ import annotations

from dest.qemu.config import QemuDestConfig
from dest.qemu.session import QemuSession
from scripts.dest_side import run_session, say_listening
from scripts.options import Values
from scripts.screen.output import tell


def run_qemu_dest(config: QemuDestConfig, values: Values) -> None:
    """Run a destination for a QEMU to its end.

    Raises:
        MidstreamError: It failed or was cancelled.
    """
    run_session(values, lambda emit: QemuSession(config, emit, say_listening(values), tell))
