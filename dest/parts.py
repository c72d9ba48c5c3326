"""Missing target pages of which a break left some bytes here, so that the rest can come.  Pure.

A break cuts at most one target page in two on each connection.  QEMU, which keeps its received map
by the page, sends such a page whole again (`ram_dirty_bitmap_reload` in `migration/ram.c`).
"""

from __future__ import annotations

from dest.arrival import Arrival
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Span
from protocol.limits import HELD_COUNT_MAX
from protocol.missing import HeldParts, span_of_part
from protocol.runs import Runs, Stretch, overlap


class Parts:
    """What is held of target pages that are not here whole.

    Attributes:
        held: How many bytes of which, from their start.
        dropped_bytes: How many bytes came that are worthless after a break: they come again.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.held: HeldParts = {}
        self.dropped_bytes = 0

    def cut_off(
        self, arrival: Arrival, *, checked: bool, come_again: bool
    ) -> tuple[list[Span], Runs | None]:
        """Take a frame of which no more will come, and hold the part of a target page that came.

        Args:
            arrival: The frame.
            checked: It was to be held against a checksum: only what it named as zeros stays.
            come_again: Its page may come again, over another channel: no parts are held.

        Returns:
            What is here in whole target pages and is not placed, and what is missing again.
        """
        # Scattered bytes of a page that may come again are not written before all have come.
        aside = come_again and isinstance(arrival.span, Runs)
        dropped_bytes = arrival.received
        if checked:
            arrival.received = 0
        kept, rest = arrival.divided(aside=aside)
        if not (aside or checked):
            dropped_bytes %= TARGET_PAGE_BYTES
            if rest is not None and not come_again:
                dropped_bytes -= self._hold(rest, dropped_bytes)
        self.dropped_bytes += dropped_bytes
        return kept, rest

    def take(self, block: int, offset: int, length: int) -> Span:
        """Return the target page of which these bytes are the rest; it is held no more.

        Raises:
            RemoteProtocolError: They are not what a target page lacks.
        """
        target_page, held_bytes = divmod(offset, TARGET_PAGE_BYTES)
        ends = held_bytes + length == TARGET_PAGE_BYTES
        if not (held_bytes and ends and self.held.get((block, target_page)) == held_bytes):
            raise RemoteProtocolError(
                f"{length} bytes at {offset} of block {block} are not what a target page lacks"
            )
        del self.held[block, target_page]
        return Span(block, offset - held_bytes, TARGET_PAGE_BYTES)

    def forget(self, stretch: Stretch) -> None:
        """Hold nothing of a stretch any more, which comes again from its start."""
        if self.held:
            keys = [key for key in self.held if overlap(stretch, span_of_part(key))]
            self.dropped_bytes += sum(self.held.pop(key) for key in keys)

    def bytes_in(self, span: Span) -> int:
        """Return how many bytes are held of a page."""
        return sum(count for key, count in self.held.items() if overlap(span, span_of_part(key)))

    def _hold(self, rest: Runs, held_bytes: int) -> int:
        """Keep what came of the first target page of a frame's rest.

        Returns:
            How many bytes are held of it: all of them, but none where too many pages are already.
        """
        if not held_bytes or len(self.held) == HELD_COUNT_MAX:
            return 0
        self.held[rest.block, rest.offset // TARGET_PAGE_BYTES] = held_bytes
        return held_bytes
