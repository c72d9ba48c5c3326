"""What the destination knows at the end, or when it fails, as the record that its report is of."""

from __future__ import annotations

import resource

from dest.engine import Engine
from dest.placement import Placement
from guest.handle import GuestHandle, GuestSnapshot
from guest.latency import summarize
from guest.memory import GuestMemory
from protocol.report import DestPart


def dest_part(
    engine: Engine,
    placement: Placement,
    placement_reason: str,
    memory: GuestMemory,
    guest: GuestHandle,
    snapshot: GuestSnapshot,
) -> DestPart:
    """Return the destination's part of a report.

    Args:
        engine: What it has seen of faults.
        placement: Who stopped vCPUs.
        placement_reason: Why it is not the kernel though that was wished for; else empty.
        memory: The guest's.
        guest: Its vCPUs.
        snapshot: What they counted.
    """
    latencies = engine.waits.latencies
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return DestPart(
        placement=placement.name,
        placement_reason=placement_reason,
        backing=memory.backing,
        faults=latencies.faults,
        stages=latencies.stages,
        accesses=summarize(guest.board.accesses()),
        latency_ns=latencies.mean_ns,
        latency_bins=latencies.bins,
        vcpu_latency_ns=latencies.vcpu_mean_ns,
        blocktime_ms=latencies.blocktime_ms,
        reads=sum(counters.reads_checked for counters in snapshot.counters),
        reads_unchecked=sum(counters.reads_unchecked for counters in snapshot.counters),
        mismatches=sum(counters.mismatches for counters in snapshot.counters),
        cpu_seconds=usage.ru_utime + usage.ru_stime,
    )


def counted_so_far(guest: GuestHandle) -> GuestSnapshot:
    """Return what vCPUs have counted, whatever has become of them."""
    board, vcpus = guest.board, range(guest.spec.vcpu_count)
    return GuestSnapshot((), tuple(board.counters(vcpu) for vcpu in vcpus))
