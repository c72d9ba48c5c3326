"""Events of the run itself: what is migrated and how, how far it is, and what a script does."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from protocol.events.event import (
    INJECT,
    SOURCE,
    BlockBytes,
    BlockIndex,
    Count,
    Emit,
    Event,
    Number,
    VcpuCount,
)
from protocol.geometry import Geometry


class Run(Event, frozen=True, kw_only=True):
    """First: what is migrated and how."""

    policy: str
    chunk_bytes: Count
    vcpus: VcpuCount
    program: str
    blocks: Count


class RamBlock(Event, frozen=True, kw_only=True):
    """After `run`, for each block."""

    block: BlockIndex
    name: str
    length_bytes: BlockBytes
    page_bytes: Count


class Session(Event, frozen=True, kw_only=True):
    """After them: the session's name, and the path of its control socket, empty without one."""

    sides = (SOURCE,)

    session: str
    control: str


class Link(Event, frozen=True, kw_only=True):
    """After them: the link that this program has made between the sides, and its rate."""

    sides = (SOURCE,)

    kind: str
    bytes_per_second: Count


class Filling(Event, frozen=True, kw_only=True):
    """Four times a second while the guest's memory is being filled: how much of it is."""

    sides = (SOURCE,)

    bytes: Count
    total_bytes: Count


class Progress(Event, frozen=True, kw_only=True):
    """Four times a second; by a destination in the place of a QEMU, which says less."""

    remaining_bytes: Count
    # From 0 to 1.
    done: Number | UnsetType = UNSET
    queued: Count | UnsetType = UNSET
    precopy_bytes: Count
    postcopy_bytes: Count


class PolicyOff(Event, frozen=True, kw_only=True):
    """A user's prefetcher or order failed, and is not asked any more: where, and why."""

    sides = (SOURCE,)

    reason: str


class EventsDropped(Event, frozen=True, kw_only=True):
    """A reader that had stopped goes on; so many lines of that side are not there."""

    count: Count


class Inject(Event, frozen=True, kw_only=True):
    """A step of a scenario was done: its number, and its line in the scenario's file."""

    sides = (INJECT,)

    step: Count
    line: Count


def tell_run(
    emit: Emit, geometry: Geometry, *, policy: str, chunk_bytes: int, vcpus: int, program: str
) -> None:
    """Emit what is migrated and how, so that what follows explains itself.

    Args:
        emit: Takes the events: one `Run`, and a `RamBlock` for each block, in their order.
        geometry: The guest's blocks.
        policy: The policy's name.
        chunk_bytes: The most that one frame carries.
        vcpus: How many vCPUs the guest has.
        program: What they run.
    """
    emit(
        Run(
            policy=policy, chunk_bytes=chunk_bytes, vcpus=vcpus, program=program,
            blocks=len(geometry.blocks),
        )
    )  # fmt: skip
    for index, block in enumerate(geometry.blocks):
        emit(
            RamBlock(
                block=index, name=block.name, length_bytes=block.length_bytes,
                page_bytes=block.page_bytes,
            )
        )  # fmt: skip
