"""What a user says about a migration out of QEMU, in the destination's terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dest.script import WrittenStep
from guest.spec import ProgramSpec
from protocol.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class QemuDestConfig:
    """All that the destination needs to know before it listens.

    Attributes:
        host: A name or address to listen on.
        port: The TCP port; 0 picks one.
        spec_of: What vCPUs here do with a guest of this geometry, which only QEMU tells.
        window_bytes: What may lie in each connection's sockets, about; 0 for what the kernel lets.
        only_from: The address of the one machine whose connections are taken; None for any, which
            is for loopback alone.
        backing: See `guest.memory`.
        placement: See `dest.placement`.
        wait_seconds: How long a guest whose memory is half here waits for QEMU to come back.
        save: Where the guest's memory is written when the migration is complete; None for nowhere.
        steps: Scripted faults; they need a guest whose program is "scripted".
        touches: A named pipe, through which more come while the guest runs; None for none.
    """

    host: str
    port: int
    spec_of: Callable[[Geometry], ProgramSpec]
    window_bytes: int = 0
    only_from: str | None = None
    backing: str = "auto"
    placement: str = "auto"
    wait_seconds: float = 90.0
    save: Path | None = None
    steps: tuple[WrittenStep, ...] = ()
    touches: Path | None = None
