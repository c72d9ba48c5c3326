"""A frame of pages on its way in: what it names, what has come, what a break leaves.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protocol.geometry import TARGET_PAGE_BYTES, Span
from protocol.runs import Runs, Stretch


@dataclass(slots=True)
class Arrival:
    """A frame that has begun.

    Attributes:
        span: All that it names, in whole target pages.
        data: What of that comes as payload; None where it names zeros alone.
        received: How many bytes of `data` are here.
        held: Of these, how many an earlier epoch brought: the frame has the rest of a target page.
        waste: Its page comes, or came, over the other channel: what is still to come is not
            written.
    """

    span: Stretch
    data: Stretch | None
    received: int = 0
    held: int = 0
    waste: bool = False

    @property
    def data_bytes(self) -> int:
        """How many bytes of payload there are at most, those that were held before among them."""
        return self.data.length if self.data is not None else 0

    @property
    def came_bytes(self) -> int:
        """How many bytes of payload came with this frame."""
        return self.received - self.held

    @property
    def may_end(self) -> bool:
        """Whether all has come; an unbroken stretch of zeros is here without a byte of it."""
        is_zero_span = isinstance(self.data, Span) and not self.received
        return is_zero_span or self.received == self.data_bytes

    def unreceived_in(self, span: Span) -> int:
        """Return how many bytes of a span lie in the part that has not come; zeros came at once."""
        if self.waste or self.data is None:
            return 0
        if isinstance(self.data, Runs):
            return self.data.overlap_bytes(span, self.received)
        if self.data.block != span.block:
            return 0
        first = max(self.data.offset + self.received, span.offset)
        return max(0, min(self.data.end, span.end) - first)

    def divided(self, *, aside: bool = False) -> tuple[list[Span], Runs | None]:
        """Return what has come in whole target pages, and the rest.

        Args:
            aside: The frame's bytes are not in memory before all of them have come.
        """
        pages = np.r_[self.span.target_pages].astype(np.int64)
        if aside:
            rest = pages
        elif self.data is None:
            rest = pages[:0]
        else:
            rest = np.r_[self.data.target_pages][self.received // TARGET_PAGE_BYTES :]
        kept = pages[~np.isin(pages, rest)]
        block = self.span.block
        return (
            list(Runs.of_target_pages(block, kept).spans()) if len(kept) else [],
            Runs.of_target_pages(block, rest) if len(rest) else None,
        )
