"""Records of what each side knows of a migration in the end; they cross."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.report.latency import LATENCY_BIN_COUNT, StageSummary, Summary


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
        guest_side: Which side has the guest (`protocol.whereabouts`).
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
