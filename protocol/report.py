"""The report: what each side knows, as records that cross at the end, and their union.

Field names and units are those of QEMU's `query-migrate` (`qapi/migration.json`) where the meaning
is the same; what QEMU has no name for stands in the object `midstream`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from protocol.errors import MigrationError

SCHEMA = "midstream-report/1"

# QEMU's postcopy-latency-dist has 24 bins: bin i counts latencies from 2^i to 2^(i+1) microseconds.
LATENCY_BIN_COUNT = 24

# What a wait is made of, see `dest.trips`.
STAGES = (
    "detect",
    "request",
    "postponed",
    "queue",
    "send",
    "receive",
    "place",
    "wake",
    "broken",
)
# What each is, for people; every view says it so.
STAGE_WORDS = {
    "detect": "until the destination notices",
    "request": "travelling to the source",
    "postponed": "put off by the policy",
    "queue": "waiting for its turn",
    "send": "being handed to the socket",
    "receive": "remaining transfer",
    "place": "mapping the page",
    "wake": "until the vCPU runs",
    "broken": "no connection",
}
assert tuple(STAGE_WORDS) == STAGES


@dataclass(frozen=True)
class Summary:
    """Figures of a latency distribution, in microseconds; all 0 where there is nothing."""

    count: int = 0
    p50_us: float = 0.0
    p90_us: float = 0.0
    p99_us: float = 0.0
    p999_us: float = 0.0
    max_us: float = 0.0
    mean_us: float = 0.0


@dataclass(frozen=True)
class StageSummary:
    """One stage of the faults."""

    stage: str
    summary: Summary


@dataclass(frozen=True)
class CauseCount:
    """How many pages a prefetcher picked for one cause, in its own words."""

    cause: str
    count: int


@dataclass(frozen=True, kw_only=True)
class PrefetchPart:
    """Pages that a user's prefetcher picked, and what came of them; see `source.prefetched`.

    Attributes:
        pages: How many it picked, and a break has not lost.
        length_bytes: What of them was still to be sent.
        late: Those that vCPUs asked for after that.
        useful: Those that vCPUs touched, and not too early; None if nobody knows, as of a guest
            whose touches are scripted.
        useless: Those that no vCPU touched; None likewise.
        useless_bytes: What went of them.
        at_least: There are more useful ones, and fewer useless, than were looked for.
        causes: Why they were picked, the most frequent first.
    """

    pages: int
    length_bytes: int
    late: int
    useful: int | None
    useless: int | None
    useless_bytes: int | None
    at_least: bool
    causes: tuple[CauseCount, ...]


@dataclass(frozen=True, kw_only=True)
class SourcePart:
    """The source's figures at the end.

    Attributes:
        guest_kind: What runs the vCPUs, see `guest.spec`.
        guest_reason: Why it is none of those that were tried before it; empty if there was none.
        mbps: Megabits (10^6) of RAM a second, over the time in which RAM was being sent.
        normal_pages: Pages sent with their bytes, each time; `duplicate_pages`: as all zero.
        data_bytes: Page bytes sent.
        bytes_sent_twice: Page bytes that went again though the destination had them.
        pages_sent_twice: Target pages among these that went again to overtake what they lay behind.
        bytes_lost: Page bytes that went again because a break had lost them on their way.
        recoveries: How often the migration was resumed after a break.
        switch_over_reason: What ended precopy: the name of the option or the command that did, or
            converged; empty if nothing has.
        guest_side: Which side has the guest: source, dest or unknown.
        priority: What became of the postcopy connection's going first in this host's queues:
            granted, refused and why, or not asked for.
        host_page_bytes: The guest's largest page, the unit that is placed at once.
        vcpus: How many the guest has.
        postcopy_ms: From when the guest ran on the destination until all of it was there.
        paused_ms: How long nothing could be sent because a connection was gone.
        bandwidth: Bytes a second that the user allows in precopy, 0 for any number.
        postcopy_bandwidth: The same of postcopy's background.
        processor_running: Which share of the time that was sent in this side's thread ran.
        processor_waiting: In which share of it that thread waited for a processor.
        trace_left: Accesses of a recorded trace that vCPUs had not made at the switch-over; None
            where there is no trace, or was no switch-over.
        prefetch: What came of a user's prefetcher; None without one.
        policy_failure: What was wrong with a user's part of the policy, and where; else empty.
    """

    policy: str
    guest_kind: str = "python"
    guest_reason: str = ""
    backing: str
    dirty_log: str
    total_time_ms: float
    setup_time_ms: float
    downtime_ms: float
    expected_downtime_ms: float
    ram_bytes: int
    remaining_bytes: int
    normal_pages: int
    duplicate_pages: int
    data_bytes: int
    mbps: float
    pass_count: int
    dirty_sync_count: int
    switch_over_reason: str
    guest_side: str
    page_bytes: int
    precopy_bytes: int
    downtime_bytes: int
    postcopy_bytes: int
    precopy_channel_bytes: int
    postcopy_channel_bytes: int
    return_path_bytes: int
    requests_received: int
    requests_duplicate: int
    requests_already_sent: int
    requests_postponed: int
    requests_on_precopy_channel: int
    requests_on_postcopy_channel: int
    preemptions: int
    boosted: int
    bytes_sent_twice: int
    bytes_lost: int
    recoveries: int
    checked: bool
    changed_frames: int
    changed_bytes: int
    reads: int
    mismatches: int
    pages_compared: int
    digest_equal: bool
    cpu_seconds: float
    priority: str = ""
    host_page_bytes: int = 0
    vcpus: int = 0
    postcopy_ms: float = 0.0
    paused_ms: float = 0.0
    bandwidth: int = 0
    postcopy_bandwidth: int = 0
    processor_running: float = 0.0
    processor_waiting: float = 0.0
    trace_left: int | None = None
    prefetch: PrefetchPart | None = None
    policy_failure: str = ""
    pages_sent_twice: int = 0


@dataclass(frozen=True, kw_only=True)
class DestPart:
    """The destination's figures at the end.

    Attributes:
        placement_reason: Why it is "simulated" though userfaultfd was wished for; else empty.
        latency_ns: Mean fault latency.
        latency_bins: LATENCY_BIN_COUNT power-of-two microsecond bins.
        vcpu_latency_ns: Mean fault latency of each vCPU.
        priority: What became of the return path's going first in this host's queues.
        guest_blackout_us: The longest time that a vCPU's own clock stood still as the guest came
            here, as the guest saw it; 0 if it has no clock, or was not told of.
        guest_stall_us: The longest that it was kept from looking at its clock after that.
        processor_running: As of the source, from its first connection until the guest stands.
        processor_waiting: Likewise.
        reads: Guest reads checked here; reads of unknown values count as `reads_unchecked`.
    """

    placement: str
    backing: str
    placement_reason: str = ""
    faults: Summary = field(default_factory=Summary)
    stages: tuple[StageSummary, ...] = ()
    accesses: Summary = field(default_factory=Summary)
    latency_ns: int = 0
    latency_bins: tuple[int, ...] = (0,) * LATENCY_BIN_COUNT
    vcpu_latency_ns: tuple[int, ...] = ()
    blocktime_ms: float = 0.0
    guest_blackout_us: float = 0.0
    guest_stall_us: float = 0.0
    reads: int
    reads_unchecked: int
    mismatches: int
    cpu_seconds: float
    priority: str = ""
    processor_running: float = 0.0
    processor_waiting: float = 0.0


@dataclass(frozen=True)
class Result:
    """How a side's migration ended that did end.

    Attributes:
        report: As `assemble` made it.
        problem: The guest or the digest found wrong memory, or a user's policy was switched off.
    """

    report: dict[str, Any]
    problem: MigrationError | None


def assemble(status: str, source: SourcePart, dest: DestPart) -> dict[str, Any]:
    """Return the report as a JSON object, from both sides' parts.

    Args:
        status: The final state's QEMU name.
        source: What the source knows.
        dest: What the destination knows.
    """
    return {"status": status, **_as_in_qemu(source), **latencies(dest)} | {
        "midstream": _midstream(source, dest)
    }


def assemble_failed(
    status: str, reason: str, source: SourcePart | None = None, dest: DestPart | None = None
) -> dict[str, Any]:
    """Return the report of a migration that did not end well: what there is of one, and why.

    Args:
        status: "failed" or "cancelled".
        reason: As it is told on standard error.
        source: What the source knows, if this is it and it came so far.
        dest: What the destination knows, likewise.
    """
    report: dict[str, Any] = {"status": status}
    own: dict[str, Any] = {"schema": SCHEMA, "reason": reason}
    if source is not None:
        report |= _as_in_qemu(source)
        own |= _of_source(source)
    if dest is not None:
        report |= latencies(dest)
        own |= of_dest(dest)
    return report | {"midstream": own}


def _as_in_qemu(source: SourcePart) -> dict[str, Any]:
    return {
        "total-time": round(source.total_time_ms),
        "downtime": round(source.downtime_ms),
        "expected-downtime": round(source.expected_downtime_ms),
        "setup-time": round(source.setup_time_ms),
        "ram": _ram(source),
    }


def latencies(dest: DestPart) -> dict[str, Any]:
    """Return what a destination measured, as QEMU's report has it."""
    return {
        "postcopy-blocktime": round(dest.blocktime_ms),
        "postcopy-latency": dest.latency_ns,
        "postcopy-latency-dist": list(dest.latency_bins),
        "postcopy-vcpu-latency": list(dest.vcpu_latency_ns),
    }


def _ram(source: SourcePart) -> dict[str, Any]:
    return {
        "transferred": source.precopy_channel_bytes + source.postcopy_channel_bytes,
        "remaining": source.remaining_bytes,
        "total": source.ram_bytes,
        "duplicate": source.duplicate_pages,
        "normal": source.normal_pages,
        "normal-bytes": source.data_bytes,
        "mbps": round(source.mbps, 3),
        "dirty-sync-count": source.dirty_sync_count,
        "postcopy-requests": source.requests_received,
        "page-size": source.page_bytes,
        "precopy-bytes": source.precopy_bytes,
        "downtime-bytes": source.downtime_bytes,
        "postcopy-bytes": source.postcopy_bytes,
    }


def _midstream(source: SourcePart, dest: DestPart) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        **_of_source(source),
        **of_dest(dest),
        "verified": {
            "reads": source.reads + dest.reads,
            "reads-unchecked": dest.reads_unchecked,
            "mismatches": source.mismatches + dest.mismatches,
            "pages": source.pages_compared,
            "digest-equal": source.digest_equal,
        },
        "cpu-seconds": {
            "source": round(source.cpu_seconds, 3),
            "dest": round(dest.cpu_seconds, 3),
        },
        "processor": {"source": _processor(source), "dest": _processor(dest)},
    }


def _processor(part: SourcePart | DestPart) -> dict[str, float]:
    return {
        "running": round(part.processor_running, 3),
        "waiting": round(part.processor_waiting, 3),
    }


def _of_source(source: SourcePart) -> dict[str, Any]:
    return {
        "policy": source.policy,
        "guest": source.guest_kind,
        "guest-reason": source.guest_reason,
        "source-backing": source.backing,
        "dirty-log": source.dirty_log,
        "passes": source.pass_count,
        "switch-over": _switch_over(source),
        "guest-side": source.guest_side,
        "page-bytes": source.host_page_bytes,
        "vcpus": source.vcpus,
        "downtime-ms": round(source.downtime_ms, 3),
        "postcopy-ms": round(source.postcopy_ms, 3),
        "paused-ms": round(source.paused_ms, 3),
        "limits": {
            "max-bandwidth": source.bandwidth,
            "max-postcopy-bandwidth": source.postcopy_bandwidth,
        },
        "requests": {
            "received": source.requests_received,
            "duplicate": source.requests_duplicate,
            "already-sent": source.requests_already_sent,
            "postponed": source.requests_postponed,
            "on-precopy-channel": source.requests_on_precopy_channel,
            "on-postcopy-channel": source.requests_on_postcopy_channel,
        },
        "preemptions": {"count": source.preemptions, "boosted": source.boosted},
        **({"prefetch": _prefetch(source.prefetch)} if source.prefetch is not None else {}),
        **({"policy-failure": source.policy_failure} if source.policy_failure else {}),
        "bytes-sent-twice": source.bytes_sent_twice,
        "pages-sent-twice": source.pages_sent_twice,
        "bytes-lost": source.bytes_lost,
        "channels": {
            "precopy": source.precopy_channel_bytes,
            "postcopy": source.postcopy_channel_bytes,
            "return-path": source.return_path_bytes,
        },
        "source-priority": source.priority,
        "recoveries": source.recoveries,
        "checksums": {
            "used": source.checked,
            "changed": source.changed_frames,
            "changed-bytes": source.changed_bytes,
        },
    }


def _prefetch(prefetch: PrefetchPart) -> dict[str, Any]:
    return {
        "pages": prefetch.pages,
        "bytes": prefetch.length_bytes,
        "late": prefetch.late,
        "useful": prefetch.useful,
        "useless": prefetch.useless,
        "useless-bytes": prefetch.useless_bytes,
        "at-least": prefetch.at_least,
        "causes": {each.cause: each.count for each in prefetch.causes},
    }


def _switch_over(source: SourcePart) -> dict[str, Any]:
    left = {} if source.trace_left is None else {"trace-accesses-left": source.trace_left}
    return {"reason": source.switch_over_reason or None, **left}


def of_dest(dest: DestPart) -> dict[str, Any]:
    """Return what else a destination knows of itself, for the object `midstream`."""
    return {
        "backing": dest.backing,
        "placement": dest.placement,
        "placement-reason": dest.placement_reason,
        "dest-priority": dest.priority,
        "faults": _summary(dest.faults),
        "stages": _stages(dest),
        "accesses": _summary(dest.accesses),
        **_guest_clock(dest),
    }


def _guest_clock(dest: DestPart) -> dict[str, float]:
    """Return what a guest's own clock has seen, nothing of one that has none."""
    seen_us = {"guest-blackout-us": dest.guest_blackout_us, "guest-stall-us": dest.guest_stall_us}
    return {name: count for name, count in seen_us.items() if count}


def _stages(dest: DestPart) -> dict[str, Any]:
    """Return the figures of every stage, zeros where the destination has none."""
    given = {stage.stage: stage.summary for stage in dest.stages}
    return {stage: _summary(given.get(stage, Summary())) for stage in STAGES}


def _summary(summary: Summary) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in asdict(summary).items()}


@dataclass(frozen=True, kw_only=True)
class AccountRecord:
    """The payload of `Account`.

    Attributes:
        states: The device state at the very end, when the guest stands still.
        digests: For each block, the hashes of its stretches, see `guest.digest`.
        first_mismatch: The first wrong read that a vCPU saw, for a person; empty if none.
        part: The destination's statistics.
    """

    states: bytes
    digests: tuple[bytes, ...]
    first_mismatch: str
    part: DestPart
