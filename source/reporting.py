"""The source's part of the report, gathered from who counted it.  Pure."""

from __future__ import annotations

from typing import NamedTuple

from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.report import SourcePart
from source.config import SourceConfig
from source.epochs import channel_bytes, sent_bytes
from source.phases import Phases
from source.steps import Comparison


class Surroundings(NamedTuple):
    """What is known of a migration beside what its phases count.

    Attributes:
        backing: What the guest's memory is made of here.
        dirty_log: Who logs what the guest writes, "kvm", "kernel" or "software".
        guest_kind: What runs the guest's vCPUs, on both sides.
        guest_reason: Why it is no better kind; empty where that was not left to this machine.
        return_path_bytes: What came back over all connections.
        reads: What the guest has read here, and checked.
        mismatches: How often it was wrong.
        cpu_seconds: The engine's own, user and system; the guest's process is not in it.
        priority: What became of the postcopy connection's going first in this host's queues.
        paused_ms: How long a connection was gone.
        limits: Bytes a second that are allowed by now, in precopy and to postcopy's background.
        processor: Shares of the time that was sent in, as in `protocol.report.SourcePart`.
        trace_left: See `protocol.report.SourcePart`.
    """

    backing: str
    dirty_log: str
    return_path_bytes: int = 0
    reads: int = 0
    mismatches: int = 0
    cpu_seconds: float = 0.0
    priority: str = ""
    paused_ms: float = 0.0
    limits: tuple[int, int] = (0, 0)
    processor: tuple[float, float] = (0.0, 0.0)
    trace_left: int | None = None
    guest_kind: str = "python"
    guest_reason: str = ""


def source_part(
    config: SourceConfig,
    phases: Phases,
    around: Surroundings,
    now_ns: int,
    comparison: Comparison | None = None,
) -> SourcePart:
    """Return what the source knows of a migration.

    What went is counted over all epochs, each the time from one break to the next.  Without a
    comparison of the guest's memory nothing is said to be verified.  `normal` and `duplicate` count
    target pages, as QEMU does; a page that changes between zero and not is in both.
    """
    prefetched = phases.scheduler.prefetched
    accessed = comparison.accessed if comparison is not None else None
    meter, counts, epochs = phases.meter, phases.scheduler.counts, phases.epochs
    data_bytes = sum(epoch.data_bytes_sent for epoch in epochs)
    normal_pages = data_bytes // TARGET_PAGE_BYTES
    # A phase that was not come to carried nothing, and all belongs to those before.
    sent = sent_bytes(epochs)
    at_switch_over = sent if meter.bytes_at_switch_over is None else meter.bytes_at_switch_over
    at_stop = at_switch_over if meter.bytes_at_stop is None else meter.bytes_at_stop
    return SourcePart(
        policy=config.policy.name,
        guest_kind=around.guest_kind,
        guest_reason=around.guest_reason,
        backing=around.backing,
        dirty_log=around.dirty_log,
        total_time_ms=meter.total_ms(now_ns),
        setup_time_ms=meter.setup_ms(now_ns),
        downtime_ms=meter.downtime_ms(now_ns),
        expected_downtime_ms=meter.expected_downtime_ms,
        ram_bytes=config.geometry.length_bytes,
        remaining_bytes=phases.remaining_bytes,
        normal_pages=normal_pages,
        duplicate_pages=sum(epoch.target_pages_sent for epoch in epochs) - normal_pages,
        data_bytes=data_bytes,
        mbps=meter.mbps(data_bytes),
        pass_count=meter.pass_count,
        dirty_sync_count=meter.dirty_sync_count,
        switch_over_reason=phases.switch_over_reason,
        guest_side=phases.guest_side,
        page_bytes=TARGET_PAGE_BYTES,
        precopy_bytes=at_stop,
        downtime_bytes=at_switch_over - at_stop,
        postcopy_bytes=sent - at_switch_over,
        precopy_channel_bytes=channel_bytes(epochs, Channel.PRECOPY),
        postcopy_channel_bytes=channel_bytes(epochs, Channel.POSTCOPY),
        return_path_bytes=around.return_path_bytes,
        requests_received=counts.received,
        requests_duplicate=counts.duplicate,
        requests_already_sent=counts.already_sent,
        requests_postponed=counts.postponed,
        requests_on_precopy_channel=counts.on_precopy_channel,
        requests_on_postcopy_channel=counts.on_postcopy_channel,
        preemptions=counts.preemptions,
        boosted=counts.boosted,
        bytes_sent_twice=counts.resent_bytes,
        pages_sent_twice=counts.copies,
        bytes_lost=counts.lost_bytes,
        recoveries=counts.recoveries,
        checked=config.checksum,
        changed_frames=counts.changed_frames,
        changed_bytes=counts.changed_bytes,
        reads=around.reads,
        mismatches=around.mismatches,
        pages_compared=config.geometry.page_count if comparison else 0,
        digest_equal=comparison is not None and comparison.equal,
        cpu_seconds=around.cpu_seconds,
        priority=around.priority,
        host_page_bytes=max(block.page_bytes for block in config.geometry.blocks),
        vcpus=config.spec.vcpu_count,
        postcopy_ms=meter.postcopy_ms(now_ns),
        paused_ms=around.paused_ms,
        bandwidth=around.limits[0],
        postcopy_bandwidth=around.limits[1],
        processor_running=around.processor[0],
        processor_waiting=around.processor[1],
        trace_left=around.trace_left,
        prefetch=prefetched.part(accessed) if prefetched is not None else None,
        policy_failure=phases.scheduler.policy_failure,
    )
