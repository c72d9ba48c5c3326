"""What a process does that this program has started: what it was handed, and no command line."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import msgspec

from scripts.run_config import from_json
from scripts.runtime.loading import loading
from scripts.runtime.parent import follow_parent, take_orders
from scripts.screen.output import end_of_failure

# By its kind, which module has the `run_started` that takes a run.
_KINDS = {
    "source": "scripts.processes.source_side",
    "dest": "scripts.processes.dest_side",
    "qemu-dest": "scripts.qemu.configure",
    "qemu": "scripts.qemu.command",
}


@dataclass(frozen=True)
class _Started:
    kind: Literal["source", "dest", "qemu-dest", "qemu"]
    run: msgspec.Raw


def run(data: bytes) -> int:
    """Do what a process was handed; return the exit status, with every failure told in one line."""
    follow_parent()
    try:
        take_orders()
        given = from_json(_Started, data)
        with loading():
            module = import_module(_KINDS[given.kind])
        module.run_started(given.run)
    except Exception as error:  # noqa: BLE001 - told in one line, whatever it is
        return end_of_failure(error, verbose=False)
    return 0
