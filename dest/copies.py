"""Which copy counts of a target page that may come twice, once over each channel.  Pure.

Under a policy that overtakes, the source sends a target page again over the postcopy channel whose
bytes lie in the precopy connection behind others.  So one may come that is not missing any more:
it came, or is coming, over the other channel.  A third time none comes, but after bytes that came
changed, when the source cannot know what of them is still on its way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.runs import Runs, Stretch

# What is known of a target page: it came over the postcopy channel and may come over the other one,
# came over both, or came changed and may come as often as the source likes.
_NOTHING, _FIRST, _TWICE, _CHANGED = range(4)


class Copies:
    """Channels over which target pages came since the last break, a byte for each page."""

    def __init__(self, geometry: Geometry) -> None:
        """Start with nothing."""
        self._known = [np.zeros(block.target_page_count, np.uint8) for block in geometry.blocks]

    def restart(self) -> None:
        """Forget all: what was on its way is lost, and what is missing comes once more."""
        for known in self._known:
            known[:] = _NOTHING

    def came(self, channel: Channel, stretch: Stretch) -> None:
        """Note over which channel a frame brings what was missing."""
        if channel is Channel.PRECOPY:
            return
        known = self._known[stretch.block]
        if stretch.length == TARGET_PAGE_BYTES:
            # A vCPU waits for it; see `dest.arrival.NonZero`.
            first = stretch.offset // TARGET_PAGE_BYTES
            known[first] = known[first] or _FIRST
        else:
            where = stretch.target_pages
            known[where] = np.maximum(known[where], _FIRST)

    def come_again(self, channel: Channel, block: int, pages: NDArray[np.intp]) -> None:
        """Note that a frame brings target pages that are not missing.

        Raises:
            RemoteProtocolError: They have not come over the other channel; nothing has changed.
        """
        known = self._known[block][pages]
        due = _FIRST if channel is Channel.PRECOPY else _NOTHING
        if not ((known == due) | (known == _CHANGED)).all():
            raise RemoteProtocolError(
                f"target page {pages[0]} of block {block} came again over the {channel.value} "
                "channel"
            )
        self._known[block][pages] = np.maximum(known, _TWICE)

    def reopen(self, runs: Runs) -> None:
        """Note that bytes came changed: they come again, and copies of them may be on their way."""
        self._known[runs.block][runs.target_pages] = _CHANGED
