"""The source's part of the report says what was counted, under the right names."""

from __future__ import annotations

from protocol.channels import Channel
from protocol.events import ignore
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.records import pack_record, unpack_record
from protocol.report import AccountRecord, SourcePart
from protocol.states import Lifecycle
from source.outlet import Outlet
from source.phases import Phases
from source.reporting import Surroundings, source_part
from source.steering import Steering
from source.steps import Comparison
from tests.guests import MIB, small_geometry
from tests.sides import dest_part, source_config
from tests.source.stage import small_memory

MS = 1_000_000
START_NS = 1000 * MS
CONFIG = source_config(small_geometry(), 1)
ACCOUNT = AccountRecord(states=b"", digests=(), first_mismatch="", part=dest_part())


def new_phases() -> Phases:
    """Return a migration of which nothing has happened."""
    lifecycle = Lifecycle(ignore)
    steering = Steering(CONFIG, lifecycle, ignore)
    return Phases(CONFIG, small_memory(), lifecycle, ignore, steering, START_NS)


def test_every_figure_is_where_it_belongs() -> None:
    """Pages, bytes, times and counts of a migration are told as they were noted."""
    geometry = small_geometry()
    comparison = Comparison(ACCOUNT, equal=False, detail="")
    phases = new_phases()
    precopy, postcopy = Outlet(Channel.PRECOPY), Outlet(Channel.POSTCOPY)
    phases.attach({each.name: each for each in (precopy, postcopy)}, (), START_NS)
    precopy.bytes_sent, postcopy.bytes_sent = 1000, 500
    precopy.target_pages_sent, postcopy.target_pages_sent = 40, 2
    precopy.data_bytes_sent = 30 * TARGET_PAGE_BYTES
    postcopy.data_bytes_sent = 2 * TARGET_PAGE_BYTES
    meter, counts = phases.meter, phases.scheduler.counts
    meter.finished_ns = meter.started_ns + 90 * MS
    meter.prepared_ns = meter.started_ns + 10 * MS
    meter.stopped_ns = meter.started_ns + 20 * MS
    meter.running_ns = meter.started_ns + 25 * MS
    meter.bytes_at_stop, meter.bytes_at_switch_over = 900, 960
    meter.sending_ns, meter.pass_count, meter.dirty_sync_count = 32 * MS, 3, 4
    meter.expected_downtime_ms = 1.5
    counts.received, counts.duplicate, counts.already_sent = 9, 1, 2
    counts.on_precopy_channel, counts.on_postcopy_channel = 3, 2
    counts.postponed, counts.preemptions, counts.boosted = 1, 5, 4
    counts.resent_bytes, counts.copies = 12288, 2

    around = Surroundings("thp", "kernel", 77, 42, 1, 0.5, "granted", trace_left=12)
    part = source_part(CONFIG, phases, around, START_NS, comparison)

    assert (part.policy, part.backing, part.dirty_log) == ("ordered", "thp", "kernel")
    assert (part.total_time_ms, part.setup_time_ms, part.downtime_ms) == (90, 10, 5)
    assert part.expected_downtime_ms == 1.5
    # No pass has begun.
    assert (part.ram_bytes, part.remaining_bytes) == (geometry.length_bytes, geometry.length_bytes)
    # 42 target pages went, 32 of them with their bytes.
    assert (part.normal_pages, part.duplicate_pages) == (32, 10)
    assert (part.data_bytes, part.page_bytes) == (32 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES)
    assert part.mbps == 32 * TARGET_PAGE_BYTES * 8 / 0.032 / 1e6
    assert (part.pass_count, part.dirty_sync_count) == (3, 4)
    assert (part.switch_over_reason, part.guest_side) == ("", "source")
    assert (part.precopy_bytes, part.downtime_bytes, part.postcopy_bytes) == (900, 60, 540)
    assert (part.precopy_channel_bytes, part.postcopy_channel_bytes) == (1000, 500)
    assert part.return_path_bytes == 77
    assert (part.requests_received, part.requests_duplicate) == (9, 1)
    assert (part.requests_already_sent, part.requests_postponed) == (2, 1)
    assert (part.requests_on_precopy_channel, part.requests_on_postcopy_channel) == (3, 2)
    assert (part.preemptions, part.boosted) == (5, 4)
    assert (part.bytes_sent_twice, part.pages_sent_twice) == (12288, 2)
    assert (part.reads, part.mismatches) == (42, 1)
    assert part.pages_compared == 4 + 32
    assert not part.digest_equal
    assert (part.cpu_seconds, part.priority, part.trace_left) == (0.5, "granted", 12)


def test_the_part_crosses_the_wire() -> None:
    """A part made of a fresh migration is a record that the destination can read."""
    comparison = Comparison(ACCOUNT, equal=True, detail="")
    around = Surroundings("base", "software")
    part = source_part(CONFIG, new_phases(), around, START_NS + MS, comparison)
    payload = pack_record(part)
    assert len(payload) < MIB
    assert unpack_record(SourcePart, payload) == part
