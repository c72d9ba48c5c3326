"""What a user says about a migration, in the destination's terms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dest.script import WrittenStep
from protocol.credentials import NOTHING, Credentials

# Who stops a vCPU at a missing page: the kernel, or the vCPU itself, which looks first.
USERFAULT = "userfault"
SIMULATED = "simulated"
PLACEMENT_CHOICES = ("auto", USERFAULT, SIMULATED)


@dataclass(frozen=True, kw_only=True)
class DestConfig:
    """All that the destination needs to know before it listens.

    Attributes:
        host: A name or address to listen on.
        port: The TCP port; 0 picks one.
        backing: See `guest.memory`.
        placement: One of PLACEMENT_CHOICES.
        save: Where the guest's memory is written when the migration is complete; None for nowhere.
        steps: Scripted faults; they need a guest whose program is "scripted".
        wait_seconds: How long a guest whose memory is half here waits for its source to come back.
        silence_seconds_max: How long the source may be silent before it is taken for dead.
        touches: A named pipe, through which more come while the guest runs; None for none.
        credentials: What both sides have to prove to each other.
    """

    host: str
    port: int
    backing: str = "auto"
    placement: str = "auto"
    save: Path | None = None
    steps: tuple[WrittenStep, ...] = ()
    touches: Path | None = None
    wait_seconds: float = 90.0
    silence_seconds_max: float = 10.0
    credentials: Credentials = NOTHING
