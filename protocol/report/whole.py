"""The whole report: both sides' parts as one JSON object, with the names and units of QEMU's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from protocol.errors import MigrationError
from protocol.report.latency import STAGES, Summary
from protocol.report.parts import DestPart, PrefetchPart, SourcePart

SCHEMA = "midstream-report/1"


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
    status: str,
    reason: str,
    source: SourcePart | None = None,
    dest: DestPart | None = None,
    guest_side: str = "",
) -> dict[str, Any]:
    """Return the report of a migration that did not end well: what there is of one, and why.

    Args:
        status: "failed" or "cancelled".
        reason: As it is told on standard error.
        source: What the source knows, if this is it and it came so far.
        dest: What the destination knows, likewise.
        guest_side: Where the guest is (`protocol.whereabouts`), as whoever tells this knows it;
            empty if he does not.
    """
    report: dict[str, Any] = {"status": status}
    own: dict[str, Any] = {"schema": SCHEMA, "reason": reason}
    if guest_side:
        own["guest-side"] = guest_side
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
