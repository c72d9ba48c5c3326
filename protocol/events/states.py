"""Events of a migration's course: its states, precopy and its limits, the switch-over, the end."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from protocol.events.event import DEST, SOURCE, BlockIndex, Count, Event, Number


class State(Event, frozen=True, kw_only=True):
    """A state begins; with the reason, where it is `failed` or `cancelled`."""

    state: str
    reason: str | UnsetType = UNSET


class PassEnd(Event, frozen=True, kw_only=True):
    """A precopy pass is acknowledged."""

    sides = (SOURCE,)

    index: Count
    bytes: Count
    ms: Number


class NotConverging(Event, frozen=True, kw_only=True):
    """A pass left as much dirty as it sent, for the first time."""

    sides = (SOURCE,)

    index: Count
    bytes: Count
    dirty_bytes: Count
    bytes_per_second: Count
    dirty_bytes_per_second: Count


class Limits(Event, frozen=True, kw_only=True):
    """The user has set or changed limits; all in force, in bytes a second and milliseconds."""

    sides = (SOURCE,)

    max_bandwidth: Count
    max_postcopy_bandwidth: Count
    downtime_limit_ms: Number


class GuestStop(Event, frozen=True, kw_only=True):
    """The guest is about to be stopped."""

    sides = (SOURCE,)


class GuestRun(Event, frozen=True, kw_only=True):
    """The guest runs on the destination; on the source, if a switch-over came to nothing."""

    sides = (DEST, SOURCE)


class Downtime(Event, frozen=True, kw_only=True):
    """It is known how long nobody ran the guest."""

    sides = (SOURCE,)

    ms: Number


class Missing(Event, frozen=True, kw_only=True):
    """Right after `guest-run`, in postcopy, for each block: base64, lowest bit first."""

    sides = (DEST,)

    block: BlockIndex
    pages_per_bit: Count
    bits: str


class Accesses(Event, frozen=True, kw_only=True):
    """At the end: figures of the guest's accesses in postcopy."""

    sides = (DEST,)

    count: Count
    p50_us: Number
    p90_us: Number
    p99_us: Number
    p999_us: Number
    max_us: Number
    mean_us: Number


class GuestClock(Event, frozen=True, kw_only=True):
    """At the end: the guest's move and the longest stall after it, by its own clock, if any."""

    sides = (DEST,)

    blackout_us: Number
    stall_us: Number


class Verdict(Event, frozen=True, kw_only=True):
    """At the end: whether the memories are equal, and how many reads found wrong memory."""

    sides = (SOURCE,)

    equal: bool
    mismatches: Count
    downtime_ms: Number
    total_ms: Number
    postcopy_ms: Number | UnsetType = UNSET
    # Megabits of pages a second, and the shares of the time that each side's thread ran and waited
    # for a processor.
    mbps: Number | UnsetType = UNSET
    source_running: Number | UnsetType = UNSET
    source_waiting: Number | UnsetType = UNSET
    dest_running: Number | UnsetType = UNSET
    dest_waiting: Number | UnsetType = UNSET
