"""Events of pages on their way: asked for, sent, interrupted, placed."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from protocol.events.event import (
    DEST,
    SOURCE,
    BlockIndex,
    ChannelName,
    Count,
    Event,
    PageCount,
    PageIndex,
)


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


class PagePlaced(Event, frozen=True, kw_only=True):
    """Pages are the guest's; with the channel that brought the last of them, `null` if none did."""

    sides = (DEST,)

    block: BlockIndex
    page: PageIndex
    pages: PageCount
    channel: ChannelName | None


# All that happens to a page on its way.
PAGE_EVENTS = (PageStart, PartSent, PageSent, Preempt, Boost, Overtake)
