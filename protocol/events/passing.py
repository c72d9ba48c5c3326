"""Events of what passes between a QEMU and its destination, as a relay sees it."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from protocol.events.event import (
    RELAY,
    BlockIndex,
    ChannelName,
    Count,
    Event,
    Number,
    PageIndex,
    PageNames,
    VcpuIndex,
    Way,
)


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
