"""Missing target pages of which a break left some bytes here, so that the rest can come.  Pure.

A break cuts at most one target page in two on each connection.  QEMU, which keeps its received map
by the page, sends such a page whole again (`ram_dirty_bitmap_reload` in `migration/ram.c`).
"""

from __future__ import annotations

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Span
from protocol.limits import HELD_COUNT_MAX
from protocol.missing import HeldParts, span_of_part
from protocol.runs import Runs, Stretch, overlap


class Parts:
    """What is held of target pages that are not here whole.

    Attributes:
        held: How many bytes of which, from their start.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.held: HeldParts = {}

    def hold(self, rest: Runs, held_bytes: int) -> int:
        """Keep what came of the first target page of a frame's rest.

        Returns:
            How many bytes are held of it: all of them, but none where too many pages are already.
        """
        if not held_bytes or len(self.held) == HELD_COUNT_MAX:
            return 0
        self.held[rest.block, rest.offset // TARGET_PAGE_BYTES] = held_bytes
        return held_bytes

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

    def forget(self, stretch: Stretch) -> int:
        """Hold nothing of a stretch any more; return how many bytes that were."""
        if not self.held:
            return 0
        keys = [key for key in self.held if overlap(stretch, span_of_part(key))]
        return sum(self.held.pop(key) for key in keys)

    def bytes_in(self, span: Span) -> int:
        """Return how many bytes are held of a page."""
        return sum(count for key, count in self.held.items() if overlap(span, span_of_part(key)))
