"""Events, told as they happen: each with its fields, and the shape of whoever listens.

Each event is defined once, here: its fields with their types and bounds (units stand last in their
names), which side tells it, and when: the first line of its docstring.  Emitters make instances;
who writes events, reads them, checks or describes them takes all of that from here.  The order of
the fields is that of the keys in the events file, and its name there that of the class in kebab
case.

Both sides' code calls an `Emit`; what becomes of the events (a file, a progress line, nothing) is
not its business.  The listener adds the time and the side.

One is told on the way of a page fault, so msgspec makes it, in C: in less time than a call with as
many keywords takes.  Nothing is checked then, mypy has done that; `description` is for who reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol

from msgspec import UNSET, Meta, Struct, UnsetType

from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.limits import (
    BLOCK_COUNT_MAX,
    CHUNK_BYTES_MAX,
    GUEST_BYTES_MAX,
    MODELLED_VCPU_COUNT_MAX,
)
from protocol.report import STAGES

SOURCE: Literal["source"] = "source"
DEST: Literal["dest"] = "dest"
# What runs a scenario; it tells of its own steps.
INJECT: Literal["inject"] = "inject"
# What stands between a QEMU and its destination; it tells what it sees pass.
RELAY: Literal["relay"] = "relay"
_BOTH = (SOURCE, DEST)

# No number is negative, or larger.
_NUMBER_MAX = (1 << 63) - 1


def _below(end: int) -> Meta:
    return Meta(ge=0, le=end - 1)


Count = Annotated[int, Meta(ge=0, le=_NUMBER_MAX)]
Number = Annotated[float, Meta(ge=0, le=_NUMBER_MAX)]
BlockIndex = Annotated[int, _below(BLOCK_COUNT_MAX)]
PageIndex = Annotated[int, _below(GUEST_BYTES_MAX // TARGET_PAGE_BYTES)]
# As many as one frame carries.
PageCount = Annotated[int, _below(CHUNK_BYTES_MAX // TARGET_PAGE_BYTES + 1)]
BlockBytes = Annotated[int, _below(GUEST_BYTES_MAX + 1)]
VcpuIndex = Annotated[int, _below(MODELLED_VCPU_COUNT_MAX)]
VcpuCount = Annotated[int, _below(MODELLED_VCPU_COUNT_MAX + 1)]
# Of a text the whole must be as its pattern says.
ChannelName = Annotated[str, Meta(pattern="|".join(channel.value for channel in Channel))]
Way = Annotated[str, Meta(pattern="forward|backward")]
# BLOCK:PAGE, with spaces between.
PageNames = Annotated[str, Meta(pattern=r"[0-9]{1,3}:[0-9]{1,15}(?: [0-9]{1,3}:[0-9]{1,15}){0,63}")]
# STAGE MICROSECONDS, with commas between.
_PART = rf"(?:{'|'.join(STAGES)}) [0-9]{{1,15}}\.[0-9]{{3}}"
StageParts = Annotated[str, Meta(pattern=f"{_PART}(?:, {_PART})*")]


def _kebab(name: str) -> str:
    return re.sub(r"(?<=.)([A-Z])", r"-\1", name).lower()


class Event(
    Struct, frozen=True, kw_only=True, gc=False, rename="kebab", tag_field="event", tag=_kebab
):
    """Something that happened; a field that is UNSET does not stand in the file.

    Attributes:
        event: Its name in the events file.
        sides: Who tells it.
    """

    event: ClassVar[str]
    sides: ClassVar[tuple[str, ...]] = _BOTH

    def __init_subclass__(cls, **options: Any) -> None:  # type: ignore[explicit-override] # noqa: ANN401
        """Give the class its name in the file."""
        super().__init_subclass__(**options)
        cls.event = _kebab(cls.__name__)


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


class State(Event, frozen=True, kw_only=True):
    """A state begins; with the reason, where it is `failed` or `cancelled`."""

    state: str
    reason: str | UnsetType = UNSET


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


class PageRequest(Event, frozen=True, kw_only=True):
    """A page is asked for; the request has come, with the answer to it."""

    sides = (DEST, SOURCE)

    block: BlockIndex
    page: PageIndex
    answer: str | UnsetType = UNSET


class PageEvent(Event, frozen=True, kw_only=True):
    """Something happens to a page on its way; in the place of a QEMU its destination tells.

    Of scattered pages the first is named, and how many they are.
    """

    sides = (SOURCE,)

    block: BlockIndex
    page: PageIndex
    channel: ChannelName
    urgent: bool
    boosted: bool
    pages: PageCount | UnsetType = UNSET
    channel_bytes: Count
    remaining_bytes: Count


class PageStart(PageEvent, frozen=True, kw_only=True):
    """A page begins, or goes on; with the reason of a user's prefetcher, where one picked it."""

    cause: str | UnsetType = UNSET


class PartSent(PageEvent, frozen=True, kw_only=True):
    """A part of a page is sent, the rest goes by itself."""


class PageSent(PageEvent, frozen=True, kw_only=True):
    """The socket has all of a page."""


class Preempt(PageEvent, frozen=True, kw_only=True):
    """A page is interrupted."""


class Boost(PageEvent, frozen=True, kw_only=True):
    """A page that was interrupted goes on urgently."""


class Overtake(PageEvent, frozen=True, kw_only=True):
    """A target page that lies in the precopy connection goes again over the postcopy channel."""


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


class PagePlaced(Event, frozen=True, kw_only=True):
    """Pages are the guest's; with the channel that brought the last of them, `null` if none did."""

    sides = (DEST,)

    block: BlockIndex
    page: PageIndex
    pages: PageCount
    channel: ChannelName | None


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


class PolicyOff(Event, frozen=True, kw_only=True):
    """A user's prefetcher or order failed, and is not asked any more: where, and why."""

    sides = (SOURCE,)

    reason: str


class FrameChanged(Event, frozen=True, kw_only=True):
    """Bytes of pages came changed, and go again (`--checksum`)."""

    block: BlockIndex
    offset: Count
    bytes: Count
    channel: ChannelName | UnsetType = UNSET


class Mismatch(Event, frozen=True, kw_only=True):
    """A read found wrong memory."""

    vcpu: VcpuIndex
    target_page: Count
    step: Count


class ChannelLost(Event, frozen=True, kw_only=True):
    """A connection broke; the channel is empty where none of the two is to blame."""

    channel: str
    reason: str


class Recovered(Event, frozen=True, kw_only=True):
    """The migration goes on."""

    missing_bytes: Count
    running: bool


class ResumeAttempt(Event, frozen=True, kw_only=True):
    """An attempt to resume is over: `resumed`, or `failed` and the reason."""

    sides = (SOURCE,)

    attempt: Count
    address: str
    outcome: str
    reason: str


class MemoryLost(Event, frozen=True, kw_only=True):
    """The source does not come back."""

    sides = (DEST,)

    target_pages: Count
    bytes: Count


class EventsDropped(Event, frozen=True, kw_only=True):
    """A reader that had stopped goes on; so many lines of that side are not there."""

    count: Count


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


class Inject(Event, frozen=True, kw_only=True):
    """A step of a scenario was done: its number, and its line in the scenario's file."""

    sides = (INJECT,)

    step: Count
    line: Count


class PeerConnection(Event, frozen=True, kw_only=True):
    """A connection opens, its role is known, or it has closed; what it then has carried, and why.

    The role is a channel's name, or what stands for one that is passed on unread.
    """

    sides = (RELAY,)

    connection: Count
    now: Annotated[str, Meta(pattern="open|known|closed")]
    role: str | UnsetType = UNSET
    forward_bytes: Count | UnsetType = UNSET
    backward_bytes: Count | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class PeerMessage(Event, frozen=True, kw_only=True):
    """A message of QEMU's that is neither pages nor a page request has passed, whole."""

    sides = (RELAY,)

    connection: Count
    direction: Way
    name: str
    block: BlockIndex | UnsetType = UNSET
    value: Count | UnsetType = UNSET
    bytes: Count | UnsetType = UNSET
    count: Count | UnsetType = UNSET
    text: str | UnsetType = UNSET


class RequestServed(Event, frozen=True, kw_only=True):
    """A page that was asked for has passed whole: from the request, as both were seen here."""

    sides = (RELAY,)

    block: BlockIndex
    page: PageIndex
    channel: ChannelName
    latency_us: Number
    # What of it had passed when it was asked for.
    begun_bytes: Count
    # Which of the requests that were open at a time it was: the lowest number that was free.
    lane: VcpuIndex
    behind: PageNames | UnsetType = UNSET
    behind_count: Count | UnsetType = UNSET


class Unread(Event, frozen=True, kw_only=True):
    """From this byte on a connection cannot be read; it is passed on all the same."""

    sides = (RELAY,)

    connection: Count
    direction: Way
    at_byte: Count
    reason: str


class ReadAgain(Event, frozen=True, kw_only=True):
    """It can be read again from here on; what told the place, and how much was not read."""

    sides = (RELAY,)

    connection: Count
    at_byte: Count
    by: str
    skipped_bytes: Count


# All that happens to a page on its way.
PAGE_EVENTS = (PageStart, PartSent, PageSent, Preempt, Boost, Overtake)

# Every event by its name.
KINDS: Mapping[str, type[Event]] = {
    kind.event: kind
    for kind in (
        *(Run, RamBlock, Session, Link, State, Filling, Progress, PassEnd, NotConverging, Limits),
        *PAGE_EVENTS,
        *(PageRequest, GuestStop, GuestRun, Downtime, Missing, PagePlaced, Touch, Touched),
        *(
            VcpuWait,
            VcpuWake,
            PolicyOff,
            FrameChanged,
            Mismatch,
            ChannelLost,
            Recovered,
            ResumeAttempt,
        ),
        *(MemoryLost, EventsDropped, Accesses, GuestClock, Verdict, Inject),
        *(PeerConnection, PeerMessage, RequestServed, Unread, ReadAgain),
    )
}


class Emit(Protocol):
    """Takes an event; must be cheap and must not raise."""

    def __call__(self, event: Event, /) -> None:
        """Receive one event."""


def ignore(event: Event, /) -> None:
    """Ignore an event."""


def is_heard(emit: Emit) -> bool:
    """Whether anybody may hear of events: if not, those on a fault's way need not be made.

    It holds from the beginning to the end.  An `Emit` that can say so has it as `is_heard`.
    """
    return bool(getattr(emit, "is_heard", emit is not ignore))


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
