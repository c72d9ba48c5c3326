"""The traffic of a run: which page each channel carried when, and how many bytes by then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protocol import events
from protocol.channels import Channel
from scripts.views.records import BACKGROUND, BOOSTED, URGENT, Mark, Send, page_of

Event = dict[str, Any]

# What is kept of each kind; what comes after is not kept, and of sends it is counted.  A guest of
# 64 GiB with huge pages sends 32,768 pages in a pass.
SENDS_MAX = 1_000_000

_OF_PAGE = ("block", "page", "channel", "urgent", "boosted")


@dataclass
class _Open:
    """A send under way."""

    event: Event
    urgent_ns: int | None = None


class Traffic:
    """The source's sends and its channels' bytes; it is given the events that tell of either.

    Attributes:
        sends: Those that ended, in the order in which they did.
        marks: What the channels had carried by which time.
    """

    def __init__(self, left_out: Counter[str], see: Callable[[int, int], None]) -> None:
        """Start with nothing.

        Args:
            left_out: Counts the `sends` that are not kept.
            see: Called with a block and the index behind the last page that was sent of it.
        """
        self.sends: list[Send] = []
        self.marks: list[Mark] = []
        self._left_out = left_out
        self._see = see
        self._open: dict[str, _Open] = {}
        # By channel: what the connections before carried, and what the last event counted.
        self._counted: dict[str, tuple[int, int]] = {}
        self._carried: Counter[str] = Counter()

    def take_start(self, event: Event) -> None:
        """Begin a send."""
        # One that is still open was taken back before a byte of it went.
        self._open[event["channel"]] = _Open(event)
        self._mark_page(event)

    def make_urgent(self, request: Event) -> None:
        """Note that a page on its way has been requested."""
        for send in self._open.values():
            if page_of(send.event) == page_of(request):
                send.urgent_ns = request["t-ns"]

    def take_end(self, event: Event) -> None:
        """End a send, or a part of one."""
        start = self._open.get(event["channel"])
        if start is None or page_of(start.event) != page_of(event):
            return
        del self._open[event["channel"]]
        pages = event.get("pages", 1)
        self._see(event["block"], event["page"] + pages)
        self._mark_page(event)
        kind = URGENT if event["urgent"] else BACKGROUND
        if len(self.sends) >= SENDS_MAX:
            self._left_out["sends"] += 1
            return
        before, after = start.event.get("channel-bytes"), event.get("channel-bytes")
        self.sends.append(
            Send(
                event["block"], event["page"], pages, event["channel"],
                BOOSTED if event.get("boosted") else kind,
                start.event["t-ns"], event["t-ns"], event["event"],
                None if before is None or after is None else after - before,
                start.urgent_ns,
            )
        )  # fmt: skip

    def take_lost(self, event: Event) -> None:
        """End what was under way, on all connections: where one breaks, all are closed."""
        end = {"t-ns": event["t-ns"], "event": events.ChannelLost.event}
        for opened in tuple(self._open.values()):
            start = opened.event
            self.take_end({name: start[name] for name in _OF_PAGE if name in start} | end)

    def take_progress(self, event: Event) -> None:
        """Mark what both channels had carried."""
        for channel in Channel:
            self._mark(event, channel.value, event[f"{channel.value}-bytes"])

    def _mark_page(self, event: Event) -> None:
        """Mark what the channel had carried by an event about a page.

        In files of old that counts from the connection's begin, and begins anew after a break.
        """
        if "channel-bytes" not in event:
            return
        count = event["channel-bytes"]
        before, last = self._counted.get(event["channel"], (0, 0))
        if count < last:
            before += last
        self._counted[event["channel"]] = before, count
        self._mark(event, event["channel"], before + count)

    def _mark(self, event: Event, channel: str, carried_bytes: int) -> None:
        # What a channel has carried never becomes less.
        self._carried[channel] = max(self._carried[channel], carried_bytes)
        if len(self.marks) < SENDS_MAX:
            remaining_bytes = event.get("remaining-bytes", 0)
            mark = Mark(event["t-ns"], channel, self._carried[channel], remaining_bytes)
            self.marks.append(mark)
