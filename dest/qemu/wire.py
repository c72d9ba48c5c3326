"""Events of QEMU's scheduling: which page came over which channel, from when to when.

Told in the events by which a source tells what it sends, so that all that is made of events shows
a QEMU, too; the moments are when the bytes were read here.  Pure: who calls it says what has come.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from protocol import events
from protocol.channels import Channel
from protocol.events import Emit
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.qemu.constants import RECORD_HEAD_BYTES


@dataclass
class _Open:
    """A page of which a part has come over a channel.

    Attributes:
        begun_urgent: It was asked for when its first part came.
        urgent: It was when the last one came.
        parted: It is told as far as it has come; what comes next begins another stretch.
    """

    page: PageId
    begun_urgent: bool
    urgent: bool
    parted: bool = False


class Wire:
    """Tells what comes; `take` it in its order."""

    def __init__(self, geometry: Geometry, emit: Emit) -> None:
        """Start with nothing on its way."""
        self._geometry = geometry
        self._emit = emit
        self._open: dict[Channel, _Open] = {}
        # Of pages and their records' heads; names of blocks and ends of sections are not worth it.
        self._bytes: Counter[Channel] = Counter()
        self._remaining_bytes = geometry.length_bytes

    def begin(self, channel: Channel, span: Span, *, urgent: bool) -> None:
        """Say that bytes of a page, or of a run of base pages, begin to come.

        Args:
            channel: Over which connection.
            span: Which bytes.
            urgent: The page is asked for.
        """
        page = self._geometry.page_of(span.block, span.offset // TARGET_PAGE_BYTES)
        current = self._open.get(channel)
        if current is not None and current.page != page:
            # In precopy QEMU leaves out what of a page is clean, perhaps its end.
            self._end(channel, current)
            current = None
        if current is None:
            current = self._open[channel] = _Open(page, urgent, urgent)
            if urgent:
                self._part_others(channel)
        elif not current.parted:
            current.urgent = urgent
            return
        current.urgent, current.parted = urgent, False
        self._tell(events.PageStart, channel, current)

    def end(self, channel: Channel, span: Span, payload_bytes: int) -> None:
        """Say that what began has come.

        Args:
            channel: As for `begin`.
            span: As for `begin`.
            payload_bytes: How many bytes it was; zeros are only named.
        """
        target_pages = span.length // TARGET_PAGE_BYTES
        self._bytes[channel] += payload_bytes + target_pages * RECORD_HEAD_BYTES
        # Of a second pass of precopy nobody here knows the size.
        self._remaining_bytes = max(self._remaining_bytes - span.length, 0)
        pages = self._geometry.pages_of(span)
        if span.end == self._geometry.span_of(span.block, pages).end:
            self._end(channel, self._open[channel], len(pages))

    def switch_over(self, missing_bytes: int) -> None:
        """Say how much is missing when postcopy begins."""
        self._remaining_bytes = missing_bytes

    def interrupt(self, missing_bytes: int) -> None:
        """Say that the connections are lost: what is half here begins anew, or goes on."""
        self._open.clear()
        self._remaining_bytes = missing_bytes

    def tell_progress(self) -> None:
        """Report how much has come, and how much has not."""
        self._emit(
            events.Progress(
                remaining_bytes=self._remaining_bytes,
                precopy_bytes=self._bytes[Channel.PRECOPY],
                postcopy_bytes=self._bytes[Channel.POSTCOPY],
            )
        )

    def _part_others(self, channel: Channel) -> None:
        """Report what else is under way as far as it has come: it may have been broken off."""
        for other, half in self._open.items():
            if other is not channel and not half.parted:
                half.parted = True
                self._tell(events.PartSent, other, half)

    def _end(self, channel: Channel, current: _Open, pages: int = 1) -> None:
        del self._open[channel]
        if not current.parted:
            self._tell(events.PageSent, channel, current, pages)

    def _tell(
        self, event: type[events.PageEvent], channel: Channel, current: _Open, pages: int = 1
    ) -> None:
        self._emit(
            event(
                block=current.page.block, page=current.page.index, pages=pages,
                channel=channel.value, urgent=current.urgent,
                boosted=current.urgent and not current.begun_urgent,
                channel_bytes=self._bytes[channel], remaining_bytes=self._remaining_bytes,
            )
        )  # fmt: skip
