"""Events of vCPUs that touch pages and wait for them."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from protocol.events.event import (
    DEST,
    BlockIndex,
    Count,
    Event,
    Number,
    PageIndex,
    PageNames,
    StageParts,
    VcpuIndex,
)


class Touch(Event, frozen=True, kw_only=True):
    """A script has a page touched."""

    sides = (DEST,)

    block: BlockIndex
    page: PageIndex


class Touched(Event, frozen=True, kw_only=True):
    """A vCPU has the page that a script had it touch."""

    sides = (DEST,)

    vcpu: VcpuIndex
    block: BlockIndex
    page: PageIndex


class VcpuWait(Event, frozen=True, kw_only=True):
    """A vCPU's fault is known."""

    sides = (DEST,)

    vcpu: VcpuIndex
    block: BlockIndex
    page: PageIndex
    fault_ns: Count


class VcpuWake(Event, frozen=True, kw_only=True):
    """It runs again, and all is known of its wait: see below."""

    sides = (DEST,)

    vcpu: VcpuIndex
    block: BlockIndex
    page: PageIndex
    fault_ns: Count
    latency_us: Number
    # The stages, in their order.
    detect_us: Number
    request_us: Number
    postponed_us: Number
    queue_us: Number
    send_us: Number
    receive_us: Number
    place_us: Number
    wake_us: Number
    broken_us: Number
    answer: str | UnsetType = UNSET
    behind: PageNames | UnsetType = UNSET
    behind_count: Count | UnsetType = UNSET
    parts_us: StageParts | UnsetType = UNSET


class Mismatch(Event, frozen=True, kw_only=True):
    """A read found wrong memory."""

    vcpu: VcpuIndex
    target_page: Count
    step: Count
