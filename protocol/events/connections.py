"""Events of connections that break or change bytes, and of what is done about that."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from protocol.events.event import DEST, SOURCE, BlockIndex, ChannelName, Count, Event


class FrameChanged(Event, frozen=True, kw_only=True):
    """Bytes of pages came changed, and go again (`--checksum`)."""

    block: BlockIndex
    offset: Count
    bytes: Count
    channel: ChannelName | UnsetType = UNSET


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
