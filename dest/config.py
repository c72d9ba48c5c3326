"""Configuration of a destination: the user's options, in its terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dest.script import WrittenStep
from guest.spec import ProgramSpec
from protocol.credentials import NOTHING, Credentials
from protocol.geometry import Geometry

# Who stops a vCPU at a missing page: the kernel, or the vCPU itself, which looks first.
USERFAULT = "userfault"
SIMULATED = "simulated"
PLACEMENT_CHOICES = ("auto", USERFAULT, SIMULATED)


@dataclass(frozen=True, kw_only=True)
class HostConfig:
    """Configuration that a destination needs before it listens, whichever peer comes.

    Attributes:
        host: A name or address to listen on.
        port: The TCP port; 0 picks one.
        backing: See `guest.memory`.
        placement: One of PLACEMENT_CHOICES.
        save: Where the guest's memory is written when the migration is complete; None for nowhere.
        steps: Scripted faults; they need a guest whose program is "scripted".
        wait_seconds: How long a guest whose memory is half here waits for its source to come back.
        touches: A named pipe, through which more come while the guest runs; None for none.
    """

    host: str
    port: int
    backing: str = "auto"
    placement: str = "auto"
    save: Path | None = None
    steps: tuple[WrittenStep, ...] = ()
    touches: Path | None = None
    wait_seconds: float = 90.0


@dataclass(frozen=True, kw_only=True)
class DestConfig(HostConfig):
    """Configuration that is needed before a midstream comes.

    Attributes:
        silence_seconds_max: How long the source may be silent before it is taken for dead.
        credentials: What both sides have to prove to each other.
        dscp: How packets of the return path are marked for the network's queues; None for not at
            all.
    """

    silence_seconds_max: float = 10.0
    credentials: Credentials = NOTHING
    dscp: int | None = None


@dataclass(frozen=True, kw_only=True)
class QemuDestConfig(HostConfig):
    """Configuration that is needed before a QEMU comes.

    Attributes:
        spec_of: What vCPUs here do with a guest of this geometry, which only QEMU tells.
        window_bytes: What may lie in each connection's sockets, about; 0 for what the kernel lets.
        only_from: The address of the one machine whose connections are taken; None for any, which
            is for loopback alone.
    """

    spec_of: Callable[[Geometry], ProgramSpec]
    window_bytes: int = 0
    only_from: str | None = None
