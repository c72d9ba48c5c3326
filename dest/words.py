"""Words for the source: page requests, in the order of their faults.  Pure.

A request waits here until a connection takes it.  What came meanwhile drops out, and after a break
all that vCPUs wait for is here again, so each fault is asked for over each set of connections once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from dest.assembly import Assembly
from dest.faults import FaultTable
from protocol import events
from protocol.events import Emit
from protocol.fields import PackedRuns
from protocol.geometry import Geometry, PageId
from protocol.messages import PageRequest, Resend
from protocol.runs import Runs, overlap, pack_runs

Word = PageRequest | Resend


class Words:
    """A queue of words; nothing goes into it while the connections are broken."""

    def __init__(
        self, geometry: Geometry, assembly: Assembly, faults: FaultTable, emit: Emit
    ) -> None:
        """Start with nothing to say.

        Args:
            geometry: The guest's blocks.
            assembly: Knows what is here.
            faults: Knows what is waited for.
            emit: Takes events.
        """
        self._geometry = geometry
        self._units = assembly.units
        self._assembly = assembly
        self._faults = faults
        self._emit = emit
        self._is_heard = events.is_heard(emit)
        self._queue: deque[Word] = deque()

    def __len__(self) -> int:
        """Return how many there are, those that drop out among them."""
        return len(self._queue)

    def ask(self, block: int, target_page: int) -> None:
        """Ask for a target page: a vCPU touched it, and nothing has asked for its unit."""
        if not self._faults.is_broken:
            self._queue.append(self._request(block, target_page))

    def ask_again(self, changed: Runs, now_ns: int) -> None:
        """Ask again for what came changed, and first for what vCPUs wait for in it.

        The source is to know of the change before any request: to it, what it has sent is answered.
        """
        waited_for = self._faults.requested_pages
        units = [unit for unit in waited_for if overlap(changed, self._units.page_span(unit))]
        self._faults.changed(units, now_ns)
        packed = PackedRuns(pack_runs(changed, np.zeros(len(changed), dtype=np.bool_)))
        others = [
            word
            for word in self._queue
            if isinstance(word, Resend) or self._unit_of(word) not in units
        ]
        resend = Resend(block=changed.block, offset=changed.offset, runs=packed)
        self._queue = deque([resend, *map(self._request_for, units), *others])

    def broke(self) -> None:
        """Drop everything: nobody hears it any more."""
        self._queue.clear()

    def resumed(self) -> None:
        """Ask for all that vCPUs wait for, in the order of their first faults."""
        self._queue = deque(map(self._request_for, self._faults.requested_pages))

    def next(self, now_ns: int) -> Word | None:
        """Return what is to be said next, None for nothing.

        It is told before it goes: what comes of it must not seem to come before it.
        """
        while self._queue:
            word = self._queue.popleft()
            if isinstance(word, Resend):
                return word
            unit = self._unit_of(word)
            if self._assembly.is_placed(unit):
                continue
            if self._faults.asked(unit, now_ns) and self._is_heard:
                self._emit(events.PageRequest(block=word.block, page=word.page))
            return word
        return None

    def take(self, count: int, now_ns: int) -> list[Word]:
        """Return up to so many words that are to be said next, in their order, as `next` does."""
        taken: list[Word] = []
        while len(taken) < count and (word := self.next(now_ns)) is not None:
            taken.append(word)
        return taken

    def put_back(self, words: Sequence[Word]) -> None:
        """Return words that could not go to the front of the queue, in their order."""
        self._queue.extendleft(reversed(words))

    def _request_for(self, unit: PageId) -> PageRequest:
        return self._request(unit.block, self._units.page_span(unit).target_pages.start)

    def _request(self, block: int, target_page: int) -> PageRequest:
        page = self._geometry.page_of(block, target_page)
        per_page = self._geometry.blocks[block].target_pages_per_page
        return PageRequest(block=block, page=page.index, target_page=target_page % per_page)

    def _unit_of(self, request: PageRequest) -> PageId:
        per_page = self._geometry.blocks[request.block].target_pages_per_page
        target_page = request.page * per_page + request.target_page
        return self._units.page_of(request.block, target_page)
