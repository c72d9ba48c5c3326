"""What a user says about a migration, in the source's terms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guest.spec import PYTHON, ProgramSpec
from protocol.credentials import NOTHING, Credentials
from protocol.geometry import Geometry
from protocol.policy import Policy
from source.convergence import SwitchRule


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """All that the source needs to know before it starts.

    Attributes:
        host: Where the destination listens.
        port: On which TCP port.
        backing: See `guest.memory`.
        image: The guest's first contents; None for the seeded pattern.
        chunk_bytes: The most that one frame carries.
        bandwidth: Bytes a second in precopy, 0 for no limit.
        dirty_log: One of `guest.spec.DIRTY_LOG_CHOICES`.
        guest: One of `guest.spec.GUEST_CHOICES`; what comes of it is put into `spec`.
        hold: Keep the vCPUs still here, so that their program begins on the destination.
        postcopy_bandwidth: Bytes a second of background in postcopy, 0 for no limit.
        reconnect_seconds: How long a migration that is interrupted in postcopy is tried to be
            resumed; 0 for not at all.
        silence_seconds_max: How long the destination may be silent before it is taken for dead.
        checksum: Send a digest before each frame of pages, and those again that come changed.
        credentials: What both sides have to prove to each other.
        dscp: How urgent packets are marked for the network's queues; None for not at all.
    """

    host: str
    port: int
    geometry: Geometry
    backing: str
    image: Path | None
    spec: ProgramSpec
    policy: Policy
    chunk_bytes: int
    rule: SwitchRule
    bandwidth: int
    postcopy_bandwidth: int
    dirty_log: str = "auto"
    guest: str = PYTHON
    hold: bool = False
    reconnect_seconds: float = 60.0
    silence_seconds_max: float = 10.0
    checksum: bool = False
    credentials: Credentials = NOTHING
    dscp: int | None = None
