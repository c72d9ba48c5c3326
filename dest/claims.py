"""Which channel may bring what of the pages that are missing.  Pure.

Of base pages each comes once, over whichever channel.  Of huge pages the policy says which chunks
may come over which: all over one; or any over either; or the page over the precopy channel, in
part, and whole over the postcopy channel.  In that last case the two connections may overtake each
other, and one copy is *waste*: a vCPU may have written to the page by then, so its bytes are
counted and never written to memory.  So it is where single target pages may come twice, one over
each channel (`dest/copies.py`); then a part of a frame may be waste.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dest.arrival import Arrival, any_open_in
from dest.copies import Copies
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span, new_page_id
from protocol.pageset import PageSet
from protocol.policy import Policy
from protocol.runs import Runs, Stretch, hull_of, overlap


class Claims:
    """Takes each frame's bytes out of what is missing, or refuses the frame.

    Attributes:
        come_again: Huge pages may come over both channels, and one copy is waste.
        copies: Single target pages may, and this knows which did; None where none does.
    """

    def __init__(self, geometry: Geometry, policy: Policy, missing: PageSet) -> None:
        """Start with no page bound to a channel; `restart` before the first claim.

        Args:
            geometry: The guest's blocks.
            policy: Says which chunks may come over which channel.
            missing: What has not begun to come; claims go out of it.  Who adds to it what a break
                made worthless calls `restart` then.
        """
        self.come_again = policy.sends_again
        self.copies = Copies(geometry) if policy.overtakes else None
        self._geometry = geometry
        self._missing = missing
        self._mixes_channels = policy.mixes_channels
        self._has_base_pages = geometry.has_base_pages
        # What may come of huge pages over each channel, where they may come again.
        self._due: dict[Channel, PageSet] = {}
        # Over which channel the first bytes of a page came that is not whole yet.
        self._owner: dict[PageId, Channel] = {}
        # Huge pages not whole yet of which bytes go again, over whichever channel.
        self._mended: set[PageId] = set()

    def restart(self) -> None:
        """Let what is missing now come over either channel, as if nothing had come before."""
        self._owner.clear()
        self._mended.clear()
        if self.copies is not None:
            self.copies.restart()
        if self.come_again:
            self._due = {channel: self._missing.copy() for channel in Channel}

    def claim(
        self, channel: Channel, span: Stretch, arriving: Mapping[Channel, Arrival]
    ) -> Stretch | None:
        """Remove a frame's bytes from what is missing; return which are waste, None for none.

        Args:
            channel: Where it comes.
            span: All that it names, inside the guest.
            arriving: The frames under way.  One whose page begins again with this frame becomes
                waste.

        Raises:
            RemoteProtocolError: No correct source sends this now; nothing has changed.
        """
        if not self._has_base_pages[span.block]:
            pages = self._geometry.pages_of(hull_of(span))
            if len(pages) > 1:
                raise RemoteProtocolError(
                    f"one frame holds parts of {len(pages)} pages of block {span.block}"
                )
            page = new_page_id((span.block, pages.start))
            if self.come_again:
                return span if self._claim_again(channel, span, page, arriving) else None
            if not self._mixes_channels:
                _check_all_in(self._missing, span)
                self._bind(channel, page)
                self._missing.remove(span)
                return None
        if self.copies is not None:
            return self._claim_copy(channel, span, self.copies)
        if not self._missing.remove_whole(span):
            raise _came_again(span)
        return None

    def claim_pages(self, channel: Channel, span: Span) -> None:
        """Claim whole pages that came in a frame each, of which nothing had come before.

        Raises:
            RemoteProtocolError: No correct source sends one of them; of all, nothing has changed,
                but where pages may come over both channels.
        """
        if self.come_again:
            for index in self._geometry.pages_of(span):
                page = new_page_id((span.block, index))
                if self.claim(channel, self._geometry.page_span(page), {}) is not None:
                    raise _came_again(span)
                self.release(page)
            return
        _check_all_in(self._missing, span)
        self._missing.remove(span)
        if self.copies is not None:
            self.copies.came(channel, span)

    def reopen(self, runs: Runs) -> None:
        """Add what came changed to what is missing again.

        The rest of a huge page may then come over both channels, in which order the source likes.
        """
        self._missing.add(runs)
        if self.copies is not None:
            self.copies.reopen(runs)
        for due in self._due.values():
            due.add(runs)
        if not self._has_base_pages[runs.block]:
            page = self._geometry.page_of(runs.block, runs.offset // TARGET_PAGE_BYTES)
            self._owner.pop(page, None)
            self._mended.add(page)

    def release(self, page: PageId) -> None:
        """Bind a huge page to no channel any more: it is whole."""
        self._owner.pop(page, None)

    def channel_of(self, page: PageId) -> Channel | None:
        """Return the channel that a huge page not yet whole comes over, None if either may do."""
        return self._owner.get(page)

    def _claim_copy(self, channel: Channel, span: Stretch, copies: Copies) -> Stretch | None:
        """Claim target pages each of which may come over both channels."""
        missing = self._missing
        if missing.remove_whole(span):
            copies.came(channel, span)
            return None
        pages = np.r_[span.target_pages]
        is_missing = missing.members(span.block)[pages]
        if channel is Channel.POSTCOPY and len(pages) > 1:
            # What goes again goes by itself.
            raise _came_again(span)
        copies.come_again(channel, span.block, pages[~is_missing])
        if not is_missing.any():
            return span
        missing.remove(Runs.of_target_pages(span.block, pages[is_missing]))
        return Runs.of_target_pages(span.block, pages[~is_missing])

    def _bind(self, channel: Channel, page: PageId) -> None:
        """Bind a huge page to the channel that its first bytes come over."""
        if page in self._mended:
            return
        if self._owner.setdefault(page, channel) is not channel:
            raise RemoteProtocolError(
                f"page {page.index} of block {page.block} came over both channels"
            )

    def _claim_again(
        self, channel: Channel, span: Stretch, page: PageId, arriving: Mapping[Channel, Arrival]
    ) -> bool:
        """Claim bytes of a huge page that may come over both channels, over each once."""
        due, whole = self._due[channel], self._geometry.page_span(page)
        _check_all_in(due, span)
        is_waste = not (self._missing.holds_any(whole) or any_open_in(arriving.values(), whole))
        if page in self._mended:
            # Neither channel has all of it: what is here already came over the other.
            is_waste = is_waste or not self._missing.holds_any(span)
        elif not is_waste:
            owner = self._owner.setdefault(page, channel)
            if (owner, channel) == (Channel.PRECOPY, Channel.POSTCOPY):
                self._owner[page] = channel
                self._supersede(whole, arriving.get(owner))
            is_waste = (owner, channel) == (Channel.POSTCOPY, Channel.PRECOPY)
        due.remove(span)
        if not is_waste:
            self._missing.remove(span)
        return is_waste

    def _supersede(self, whole: Span, arrival: Arrival | None) -> None:
        """Forget what came of a page over the precopy channel: it begins again on the other."""
        # Nothing of it has come over this channel yet.
        self._due[Channel.POSTCOPY].copy_into(self._missing, whole)
        if arrival is not None and overlap(arrival.span, whole):
            arrival.waste = True


def _check_all_in(target_pages: PageSet, span: Stretch) -> None:
    if target_pages.count_in(span) * TARGET_PAGE_BYTES != span.length:
        raise _came_again(span)


def _came_again(span: Stretch) -> RemoteProtocolError:
    return RemoteProtocolError(f"target pages at {span.offset} of block {span.block} came again")
