"""Facts about one migration, and how its report tells them; a run's events do, too.  Pure.

Those of events are found in `scripts/views/facts.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# From which share on a link, or a processor, counts as used up.  Of what a link carries some
# percent are heads of packets, and a stream has its gaps.
LINK_FULL = 0.85
PROCESSOR_FULL = 0.8
COMPLETED, CANCELLED, FAILED = "completed", "cancelled", "failed"


class Busy(NamedTuple):
    """Shares of the time that a side's thread ran, and waited for a processor."""

    running: float
    waiting: float

    @property
    def total(self) -> float:
        """How much of the time it had, or wanted, a processor."""
        return self.running + self.waiting


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about one migration; None, or nothing, where they are not known.

    Attributes:
        status: The state in which it ended, by QEMU's name.
        reason: Why it ended badly.
        guest_side: Which side has the guest (`protocol.whereabouts`); empty if nobody says.
        verified: Whether both sides' memory was compared and is right; None if it was not compared.
        ram_bytes: The guest's memory.
        lost_bytes: Memory that is gone.
        downtime_ms: How long the guest stood still; None if it was not moved, or nobody says.
        has_postcopy: The guest ran on the destination before all of it was there.
        postcopy_ms: For how long it did.
        vcpus: How many it has; 0 where waits are not a vCPU's.
        waits: How many waits there were, in `waited_ms` together.
        stage_ms: What they were made of, by `protocol.report.STAGES`.
        policy: The policy's name.
        page_bytes: The largest page.
        bytes_per_second: Page bytes while they were being sent.
        link_bytes_per_second: The rate of a link that is known; 0 for none.
        limits: Bytes a second that the user allowed, in precopy and to postcopy's background.
        source: How busy the source was, and `dest` the destination.
        breaks: How often it was resumed after a break.
        paused_ms: How long a connection was gone.
        resent_bytes: What went again because of that.
    """

    status: str
    reason: str = ""
    guest_side: str = ""
    verified: bool | None = None
    ram_bytes: int = 0
    lost_bytes: int = 0
    downtime_ms: float | None = None
    has_postcopy: bool = False
    postcopy_ms: float = 0.0
    vcpus: int = 0
    waits: int = 0
    waited_ms: float = 0.0
    median_us: float = 0.0
    longest_us: float = 0.0
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    policy: str = ""
    page_bytes: int = 0
    bytes_per_second: float = 0.0
    link_bytes_per_second: int = 0
    limits: tuple[int, int] = (0, 0)
    source: Busy | None = None
    dest: Busy | None = None
    breaks: int = 0
    paused_ms: float = 0.0
    resent_bytes: int = 0

    @property
    def waiting_share(self) -> float | None:
        """Which share of postcopy its vCPUs waited, on average; None if that is not known."""
        time_ms = self.vcpus * self.postcopy_ms
        return min(self.waited_ms / time_ms, 1.0) if self.has_postcopy and time_ms else None

    @property
    def waited_for(self) -> tuple[str, float] | None:
        """The stage that took most of the waits, and which share of them."""
        total_ms = sum(self.stage_ms.values())
        if not total_ms:
            return None
        stage = max(self.stage_ms, key=lambda name: self.stage_ms[name])
        return stage, self.stage_ms[stage] / total_ms

    @property
    def link_share(self) -> float | None:
        """How much of the link was used while memory was being sent; None if nobody knows."""
        if not (self.link_bytes_per_second and self.bytes_per_second):
            return None
        return min(self.bytes_per_second / self.link_bytes_per_second, 1.0)

    @property
    def bound(self) -> str:
        """The limit that was reached: link, limit (the user's), source, dest; empty for none."""
        if (self.link_share or 0.0) >= LINK_FULL:
            return "link"
        if any(self.limits):
            return "limit"
        busy = {name: side.total for name, side in self._sides if side is not None}
        name = max(busy, key=lambda each: busy[each], default="")
        return name if name and busy[name] >= PROCESSOR_FULL else ""

    @property
    def _sides(self) -> tuple[tuple[str, Busy | None], ...]:
        return ("source", self.source), ("dest", self.dest)


def facts_of(report: Mapping[str, Any]) -> Facts:
    """Return the facts of a report, whole or of a migration that failed."""
    own, ram = report.get("midstream", {}), report.get("ram", {})
    faults = own.get("faults", {})
    count = int(faults.get("count", 0))
    verified = own.get("verified") or {}
    is_right: bool | None = None
    if own.get("peer") != "qemu" and verified.get("pages"):
        is_right = bool(verified["digest-equal"] and not verified["mismatches"])
    limits = own.get("limits", {})
    busy = {
        side: Busy(share["running"], share["waiting"])
        for side, share in own.get("processor", {}).items()
    }
    return Facts(
        status=report["status"],
        reason=str(own.get("reason", "")),
        guest_side=str(own.get("guest-side", "")),
        verified=is_right,
        ram_bytes=ram.get("total", 0),
        downtime_ms=own.get("downtime-ms"),
        has_postcopy=_has_postcopy(report),
        postcopy_ms=own.get("postcopy-ms", 0.0),
        vcpus=own.get("vcpus", 0),
        waits=count,
        waited_ms=count * faults.get("mean-us", 0.0) / 1000,
        median_us=faults.get("p50-us", 0.0),
        longest_us=faults.get("max-us") or 0.0,
        stage_ms={
            stage: figures["count"] * figures["mean-us"] / 1000
            for stage, figures in own.get("stages", {}).items()
        },
        policy=str(own.get("policy", "")),
        page_bytes=own.get("page-bytes", 0),
        bytes_per_second=ram.get("mbps", 0.0) * 1e6 / 8,
        link_bytes_per_second=own.get("link", {}).get("bytes-per-second", 0),
        limits=(limits.get("max-bandwidth", 0), limits.get("max-postcopy-bandwidth", 0)),
        source=busy.get("source"),
        dest=busy.get("dest"),
        breaks=own.get("recoveries") or 0,
        paused_ms=own.get("paused-ms", 0.0),
        resent_bytes=own.get("bytes-lost") or 0,
    )


def _has_postcopy(report: Mapping[str, Any]) -> bool:
    own = report.get("midstream", {})
    if own.get("peer") == "qemu":
        return bool(own.get("requests", {}).get("received") or own.get("faults", {}).get("count"))
    return own.get("switch-over", {}).get("reason") not in {None, "converged"}
