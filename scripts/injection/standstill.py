"""How long the network stands still for what a step has vCPUs touch.  Pure.

Between a touch and the moment at which the source knows of it pass milliseconds on one machine and
a second on another, and what went on meanwhile would decide what the source finds.  So nothing
does: both ways are shut until every request is there; then they go to the source in one piece, and
only when it has read them all goes anything forward again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.geometry import PageId
from scripts.injection.marks import Direction

_NOTHING: frozenset[Direction] = frozenset()
_FORWARD = frozenset({Direction.FORWARD})
_BOTH = frozenset(Direction)


@dataclass
class _Touch:
    """A touch that is not over.

    Attributes:
        is_let_go: The network does not stand still for it any more, whatever becomes of it.
    """

    page: PageId
    is_let_go: bool = False


class Standstill:
    """Follows the touches of a run; tell it what happens and ask which ways are `shut`."""

    def __init__(self, vcpu_count: int) -> None:
        """Start with no touch.

        Args:
            vcpu_count: So many touches can be under way at once; a later one waits for a vCPU.
        """
        self._vcpu_count = vcpu_count
        # In the order in which they were asked for, which is that in which vCPUs take them.
        self._touches: list[_Touch] = []
        self._requested: set[PageId] = set()
        self._heard: set[PageId] = set()
        self._runs = False

    @property
    def shut(self) -> frozenset[Direction]:
        """The ways in which nothing may pass by now."""
        if not self._runs:
            return _NOTHING
        due = [touch.page for touch in self._touches[: self._vcpu_count] if not touch.is_let_go]
        if not self._requested.issuperset(due):
            return _BOTH
        return _NOTHING if self._heard.issuperset(due) else _FORWARD

    def touch(self, pages: Iterable[PageId]) -> None:
        """Say that vCPUs are to touch pages."""
        self._touches += map(_Touch, pages)

    def guest_runs(self) -> None:
        """Say that the destination's vCPUs run; before, what they are to touch has to wait."""
        self._runs = True

    def requested(self, page: PageId) -> None:
        """Say that the destination has asked for a page; the source need not have it."""
        self._requested.add(page)

    def heard(self, page: PageId) -> None:
        """Say that the source has read the request for a page."""
        self._heard.add(page)

    def touched(self, page: PageId) -> None:
        """Say that a vCPU has a page that it was to touch."""
        for touch in self._touches:
            if touch.page == page:
                self._touches.remove(touch)
                return

    def let_go(self) -> None:
        """Say that what is not asked for by now may never be: a side or a connection is gone."""
        for touch in self._touches:
            touch.is_let_go = True
