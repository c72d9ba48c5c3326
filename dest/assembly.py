"""Which bytes of which page have come, over which channel, and which pages are whole.

The receivers ask before a byte is written (`begin`), say what came (`progress`) and when a frame is
done (`end`); a page is whole when its last missing target page has come.  Everything that a correct
source does not send is refused here, before it can touch guest memory: bytes outside a block, pages
that are not missing, two channels in one page; of scattered runs all, if one is wrong.  QEMU keeps
the same knowledge in `PostcopyTmpPage` and `receivedmap` (`migration/postcopy-ram.c`), a page at a
time; here any number may be under way.

Which channel may bring what of a huge page, and which copy of it is waste, `dest/claims.py` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from dest.arrival import Arrival, ChannelCounts, Parts, any_open_in
from dest.claims import Claims
from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.missing import HeldParts
from protocol.pageset import PageSet, runs_of
from protocol.policy import Policy
from protocol.runs import Flags, Runs, Stretch, hull_of


class Assembly:
    """The received map of one migration, down to the target page.

    In precopy nothing is tracked but the bounds: pages come again and again, over one channel.
    `start_postcopy` fixes what is missing; from then on each target page may come exactly once.
    """

    def __init__(self, geometry: Geometry, policy: Policy) -> None:
        """Start in precopy.

        Args:
            geometry: The guest's blocks.
            policy: Says which chunks may come over which channel, and what a unit is.
        """
        # A unit is what is placed at once: a page, or where the policy is critical a target page.
        self.units = geometry.in_target_pages() if policy.critical else geometry
        self.counts = {channel: ChannelCounts() for channel in Channel}
        self._geometry = geometry
        self._places_target_pages = self.units.has_base_pages
        self._stale = PageSet(self.units)
        self._missing: PageSet | None = None
        self._claims = Claims(geometry, policy, self._stale)
        self._arriving: dict[Channel, Arrival] = {}
        self._parts = Parts()

    @property
    def in_postcopy(self) -> bool:
        """Whether `start_postcopy` was called."""
        return self._missing is not None

    @property
    def missing_bytes(self) -> int:
        """Bytes that have not begun to come, 0 in precopy."""
        return self._missing.length_bytes if self._missing is not None else 0

    @property
    def complete(self) -> bool:
        """Whether nothing is missing and no frame is under way."""
        return not self._arriving and (self._missing is None or not len(self._missing))

    def discard(self, block: int, first: int, count: int, bits: bytes) -> None:
        """Mark target pages stale, by a bitmap.

        Raises:
            RemoteProtocolError: It reaches outside the guest, or the guest runs here already.
        """
        if self._missing is not None:
            raise RemoteProtocolError("a discard came after the switch-over")
        self._stale.add_packed(block, first, count, bits)

    def start_postcopy(self) -> None:
        """The guest runs here now: what was discarded is missing, and comes once."""
        if self._missing is not None:
            raise LocalProtocolError("postcopy has started already")
        if self._arriving:
            raise LocalProtocolError("postcopy cannot start in the middle of a frame")
        self._missing = self._stale
        self._claims.restart()

    def missing_units(self, block: int) -> NDArray[np.bool_]:
        """Return for each unit of a block whether anything of it has not begun to come.

        Raises:
            LocalProtocolError: In precopy, where nobody keeps account.
        """
        if self._missing is None:
            raise LocalProtocolError("what is missing is known in postcopy only")
        return self._missing.pages_with_members(block)

    def incomplete_pages(self, block: int) -> Iterator[Span]:
        """Yield the stretches of a block's units that are not whole, each as long as can be.

        There are none in precopy.
        """
        if self._missing is None:
            return
        unit_bytes = self.units.blocks[block].page_bytes
        unit_pages = unit_bytes // TARGET_PAGE_BYTES
        flags = self._missing.pages_with_members(block)
        for arrival in self._arriving.values():
            if arrival.span.block == block and not arrival.waste:
                pages = np.r_[arrival.span.target_pages]
                if arrival.early:
                    pages = pages[~np.isin(pages, list(arrival.early))]
                flags[pages // unit_pages] = True
        for first, stop in runs_of(flags):
            yield Span(block, first * unit_bytes, (stop - first) * unit_bytes)

    def is_placed(self, unit: PageId) -> bool:
        """Return whether a unit is whole."""
        return self.is_whole(self.units.page_span(unit))

    def is_whole(self, span: Span) -> bool:
        """Return whether nothing of a stretch is missing or under way; in precopy nothing is."""
        if self._missing is None:
            return True
        return not (
            self._missing.holds_any(span)
            or (self._arriving and any_open_in(self._arriving.values(), span))
        )

    def begin(self, channel: Channel, span: Stretch, is_zero: Flags | None = None) -> None:
        """Admit a frame; only after this may its bytes be written.

        Args:
            channel: Where it comes.
            span: All that it names.
            is_zero: Which of several runs are zero: of these no bytes come, and they count as
                received from now on.

        Raises:
            RemoteProtocolError: No correct source sends this now.
        """
        if channel in self._arriving:
            raise LocalProtocolError(f"a frame is under way on the {channel.value} channel")
        if not self._geometry.has_span(hull_of(span)):
            raise RemoteProtocolError(
                f"{span.length} bytes at {span.offset} of block {span.block} are outside the guest "
                "or no whole target pages"
            )
        waste: Stretch | None = None
        if self._missing is not None:
            self._parts.forget(span)
            waste = self._claims.claim(channel, span, self._arriving)
        elif channel is not Channel.PRECOPY:
            raise RemoteProtocolError(f"page bytes on the {channel.value} channel in precopy")
        data = span.where(~is_zero) if isinstance(span, Runs) and is_zero is not None else span
        is_waste = waste is not None and waste.length == span.length
        self._arriving[channel] = arrival = Arrival(span, data, waste=is_waste)
        if waste is not None and not is_waste:
            arrival.give_up(np.r_[waste.target_pages].tolist())

    def begin_rest(self, channel: Channel, block: int, offset: int, length: int) -> None:
        """Admit a frame with the rest of a target page that a break left half-received.

        Args:
            channel: Where it comes.
            block: The block's index.
            offset: Where the rest begins, in bytes from the block's start.
            length: Its bytes: all that is left of the target page.

        Raises:
            RemoteProtocolError: That is not what a target page lacks.
        """
        if channel in self._arriving:
            raise LocalProtocolError(f"a frame is under way on the {channel.value} channel")
        span = self._parts.take(block, offset, length)
        # Only in postcopy there are any.
        assert self._missing is not None
        self._missing.remove(span)
        held_bytes = TARGET_PAGE_BYTES - length
        self._arriving[channel] = Arrival(span, span, received=held_bytes, held=held_bytes)

    @property
    def held_parts(self) -> HeldParts:
        """How many bytes are here of which missing target pages, if not none."""
        return dict(self._parts.held)

    @property
    def dropped_bytes(self) -> int:
        """How many bytes came that a break made worthless: they come again."""
        return self._parts.dropped_bytes

    def is_waste(self, channel: Channel) -> bool:
        """Return whether what comes of the channel's frame must not be written; ask each time."""
        return self._arrival(channel).waste

    def late_pages(self, channel: Channel) -> set[int]:
        """Return which target pages of the channel's frame came over the other channel."""
        return self._arrival(channel).late

    def page_of(self, channel: Channel) -> PageId:
        """Return the page that the channel's frame is of, or the first of several base pages."""
        span = self._arrival(channel).span
        return self._geometry.page_of(span.block, span.offset // TARGET_PAGE_BYTES)

    def progress(self, channel: Channel, count: int) -> None:
        """Say that so many more bytes of the channel's frame are in memory, or thrown away."""
        arrival = self._arrival(channel)
        if not 0 <= count <= arrival.data_bytes - arrival.received:
            raise LocalProtocolError(
                f"{count} bytes cannot be the rest of a frame of {arrival.data_bytes}, "
                f"{arrival.received} of which have come"
            )
        arrival.received += count

    def come_early(self, channel: Channel, units: Iterable[PageId]) -> list[PageId]:
        """Return which of some units the channel's frame has brought, though not yet all it brings.

        Only where a unit is a target page, and none comes twice.
        """
        arrival = self._arrival(channel)
        if self._missing is None or self._claims.come_again or arrival.may_end:
            return []
        block, offset, end = arrival.span.block, arrival.span.offset, arrival.span.end
        first, stop = offset // TARGET_PAGE_BYTES, end // TARGET_PAGE_BYTES
        # Hundreds of vCPUs may wait, of which few do for something in one frame.
        return [
            unit
            for unit in units
            if first <= unit[1] < stop and unit[0] == block and self._brings(arrival, unit)
        ]

    def take_early(self, unit: PageId) -> Channel | None:
        """Count a unit that has `come_early` as whole; return its channel, None if it has not.

        Not to be used where a frame may turn out to have changed on its way.
        """
        if self._missing is None or self._claims.come_again:
            return None
        for channel, arrival in self._arriving.items():
            if not arrival.may_end and self._brings(arrival, unit):
                arrival.early.add(unit.index)
                return channel
        return None

    def end(self, channel: Channel) -> Stretch | None:
        """Say that the channel's frame is whole; return the units that now are, if any.

        The stretch is one huge page, or the units that the frame held and that were not taken
        early.  In precopy, where pages may still change, nothing is ever whole.  Of a frame that
        `is_waste` it is a target page that the other channel's frame under way has not brought yet:
        the bytes that came are to be written after all.
        """
        arrival = self._take_whole(channel)
        if self._missing is None:
            return None
        if arrival.waste:
            return self._overtaken_by(arrival) if channel is Channel.POSTCOPY else None
        if self._places_target_pages[arrival.span.block]:
            return arrival.due()
        page = self._geometry.page_of(arrival.span.block, arrival.span.offset // TARGET_PAGE_BYTES)
        whole = self._geometry.page_span(page)
        if not self.is_whole(whole):
            return None
        self._claims.release(page)
        return whole

    def take_pages(self, channel: Channel, span: Span) -> None:
        """Count huge pages that came whole, in a frame each, from its beginning to its end.

        It is as `begin`, `progress` and `end` for each, where no other frame has bytes of them.

        Raises:
            RemoteProtocolError: No correct source sends this now.
            LocalProtocolError: A frame is under way there, or it is precopy.
        """
        if channel in self._arriving or self._missing is None:
            raise LocalProtocolError(f"pages cannot be counted on the {channel.value} channel now")
        if not self._geometry.has_span(span):
            raise RemoteProtocolError(f"pages at {span.offset} of block {span.block} are no pages")
        self._parts.forget(span)
        self._claims.claim_pages(channel, span)
        counts = self.counts[channel]
        counts.target_pages += span.length // TARGET_PAGE_BYTES
        counts.data_bytes += span.length

    def refuse(self, channel: Channel) -> tuple[list[Span], Runs | None]:
        """Say that the channel's frame is whole and its payload not what was sent.

        Its zeros were in its head and stay.  Its bytes are missing again; the page that they belong
        to may then come over both channels, in which order the source likes.

        Returns:
            The units that are whole for all that, and what is to come again, None for nothing.
        """
        arrival = self._take_whole(channel)
        if arrival.waste:
            return [], None
        arrival.received = 0
        kept, rest = arrival.divided()
        if self._missing is None or rest is None:
            return [], rest
        self._claims.reopen(rest)
        return (kept if self._places_target_pages[rest.block] else []), rest

    def missing(self) -> PageSet:
        """Return a copy of what has not begun to come; empty in precopy."""
        return self._missing.copy() if self._missing is not None else PageSet(self._geometry)

    def interrupt(self, *, checked: bool = False) -> list[Span]:
        """Forget the frames under way: no more of them will come.

        What came of them in whole target pages stays; the rest is missing again, and comes over
        whichever channel the source likes.  Of the target page in which a frame was cut off the
        bytes stay (`held_parts`), but where a policy sends pages anew all the same.  The counts
        begin anew, as those of new channels do.

        Args:
            checked: A frame's bytes are held against its checksum when all have come: of those that
                were not, only what was named as zeros stays.

        Returns:
            The units that are whole by now.
        """
        arrivals, self._arriving = list(self._arriving.values()), {}
        self.counts = {channel: ChannelCounts() for channel in Channel}
        whole: list[Span] = []
        if self._missing is None:
            return whole
        for arrival in arrivals:
            if arrival.waste:
                continue
            kept, rest = self._parts.cut_off(
                arrival, checked=checked, come_again=self._claims.come_again
            )
            if rest is not None:
                self._missing.add(rest)
            if self._places_target_pages[arrival.span.block]:
                whole += kept
        self._claims.restart()
        return whole

    def received_bytes(self, page: PageId) -> int:
        """Return how many of a page's bytes are here, those of frames under way included.

        Bytes that the precopy phase brought and that are not stale count as here.
        """
        span = self._geometry.page_span(page)
        here = span.length
        if self._missing is not None:
            here -= self._missing.count_in(span) * TARGET_PAGE_BYTES
        for arrival in self._arriving.values():
            here -= arrival.unreceived_in(span)
        return here + self._parts.bytes_in(span)

    def channel_of(self, page: PageId) -> Channel | None:
        """Return the channel that a huge page not yet whole comes over, None if either may do."""
        return self._claims.channel_of(page)

    def _overtaken_by(self, copy: Arrival) -> Span | None:
        """Return what a copy has brought before the frame under way that it is a copy of."""
        span = hull_of(copy.span)
        if self._claims.copies is None:
            return None
        for arrival in self._arriving.values():
            if arrival.is_open_in(span):
                arrival.give_up([span.offset // TARGET_PAGE_BYTES])
                return span
        return None

    def _brings(self, arrival: Arrival, unit: PageId) -> bool:
        return self._places_target_pages[unit.block] and arrival.has_come(*unit)

    def _take_whole(self, channel: Channel) -> Arrival:
        """Return the channel's frame, which is whole, and count it."""
        arrival = self._arrival(channel)
        if not arrival.may_end:
            raise LocalProtocolError(
                f"a frame of {arrival.data_bytes} bytes cannot end after {arrival.received}"
            )
        del self._arriving[channel]
        self.counts[channel].add(arrival)
        return arrival

    def _arrival(self, channel: Channel) -> Arrival:
        arrival = self._arriving.get(channel)
        if arrival is None:
            raise LocalProtocolError(f"no frame is under way on the {channel.value} channel")
        return arrival
