"""The source's part of the report, gathered from who counted it."""

from __future__ import annotations

import resource
from collections.abc import Sequence

from guest.interface import GuestSnapshot
from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.report import SourcePart
from source.closing import Comparison
from source.config import SourceConfig
from source.connect import Connections
from source.meter import channel_bytes, sent_bytes
from source.migration import Migration


def source_part(
    config: SourceConfig,
    backing: str,
    dirty_log: str,
    migration: Migration,
    epochs: Sequence[Connections],
    snapshot: GuestSnapshot | None = None,
    comparison: Comparison | None = None,
) -> SourcePart:
    """Return what the source knows of a migration.

    What went is counted over all epochs, each the time from one break to the next.  Without a
    snapshot of the guest, and a comparison of its memory, nothing is said to be verified.
    `normal` and `duplicate` count target pages, as QEMU does; a page that changes between zero and
    not is in both.
    """
    meter, counts = migration.meter, migration.scheduler.counts
    outs = [connection.out for each in epochs for connection in each.values()]
    data_bytes = sum(out.data_bytes_sent for out in outs)
    normal_pages = data_bytes // TARGET_PAGE_BYTES
    # A phase that was not come to carried nothing, and all belongs to those before.
    sent = sent_bytes(epochs)
    at_switch_over = sent if meter.bytes_at_switch_over is None else meter.bytes_at_switch_over
    at_stop = at_switch_over if meter.bytes_at_stop is None else meter.bytes_at_stop
    guest_counts = snapshot.counters if snapshot else ()
    return SourcePart(
        policy=config.policy.name,
        backing=backing,
        dirty_log=dirty_log,
        total_time_ms=meter.total_ms,
        setup_time_ms=meter.setup_ms,
        downtime_ms=meter.downtime_ms,
        expected_downtime_ms=meter.expected_downtime_ms,
        ram_bytes=config.geometry.length_bytes,
        remaining_bytes=migration.remaining_bytes,
        normal_pages=normal_pages,
        duplicate_pages=sum(out.target_pages_sent for out in outs) - normal_pages,
        data_bytes=data_bytes,
        mbps=meter.mbps(data_bytes),
        pass_count=meter.pass_count,
        dirty_sync_count=meter.dirty_sync_count,
        switch_over_reason=migration.switch_over_reason,
        guest_side=migration.guest_side,
        page_bytes=TARGET_PAGE_BYTES,
        precopy_bytes=at_stop,
        downtime_bytes=at_switch_over - at_stop,
        postcopy_bytes=sent - at_switch_over,
        precopy_channel_bytes=channel_bytes(epochs, Channel.PRECOPY),
        postcopy_channel_bytes=channel_bytes(epochs, Channel.POSTCOPY),
        return_path_bytes=sum(each[Channel.PRECOPY].returns.bytes_received for each in epochs),
        requests_received=counts.received,
        requests_duplicate=counts.duplicate,
        requests_already_sent=counts.already_sent,
        requests_postponed=counts.postponed,
        requests_on_precopy_channel=counts.on_precopy_channel,
        requests_on_postcopy_channel=counts.on_postcopy_channel,
        preemptions=counts.preemptions,
        boosted=counts.boosted,
        bytes_sent_twice=counts.resent_bytes,
        bytes_lost=counts.lost_bytes,
        recoveries=counts.recoveries,
        checked=config.checksum,
        changed_frames=counts.changed_frames,
        changed_bytes=counts.changed_bytes,
        reads=sum(each.reads_checked for each in guest_counts),
        mismatches=sum(each.mismatches for each in guest_counts),
        pages_compared=config.geometry.page_count if comparison else 0,
        digest_equal=comparison is not None and comparison.equal,
        cpu_seconds=_cpu_seconds(),
    )


def _cpu_seconds() -> float:
    """Return the engine's own CPU time, user and system; the guest's process is not in it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
