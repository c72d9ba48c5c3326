"""What becomes of each page request, from when it is read until all of its page is sent.  Pure.

The scheduler decides, the sender sends; what they do is said here with the time, and each request
has been, at every moment, in one of three states: it waits for its turn, it was put off by the
policy, or bytes of its page are being handed to the socket.  How long it was in each, and which
pages went before it, is what the destination is told (`RequestAnswer`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import msgspec

from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.limits import BEHIND_COUNT_MAX, VCPU_COUNT_MAX
from protocol.messages import RequestAnswer
from protocol.page_messages import BOOSTED, POSTPONED, QUEUED
from protocol.runs import Stretch, overlap
from source.jobs import Answer, Chunk, Lane, Lies, unit_of

# The pages that are remembered as having gone before others; beyond that they are only counted.
_PAGES_KEPT_MAX = 64

# These meet a page that is being sent.
_UNDER_WAY = frozenset({Answer.URGENT_IN_PLACE, Answer.DUPLICATE, Answer.POSTPONED})


@dataclass(slots=True)
class _Open:
    """A request whose page is not sent whole.

    Attributes:
        page, target_page: As it was made.
        answer: In the words of `protocol.page_messages`.
        came_ns: When it was read.
        first_behind: The number of the first page that went before it.
        behind_end: The number of the first that did not, once its own was begun.
        waited_ns: How long it has waited.
        sending_ns: How long its bytes have been being handed over.
        since_ns: Since when it is in its present state.
        lane: Where bytes of its page are being handed over, None while it waits.
        first_waits: It goes again, and its first copy is not with the socket either.  That goes on
            when no request is queued, so not before the second has gone.
    """

    page: PageId
    target_page: int
    answer: str
    came_ns: int
    first_behind: int
    behind_end: int | None
    waited_ns: int
    sending_ns: int
    since_ns: int
    lane: Lane | None
    first_waits: bool = False

    def go(self, lane: Lane | None, now_ns: int) -> None:
        """Change the state: bytes are handed over in a lane from now on, or it waits."""
        if self.lane is None:
            self.waited_ns += now_ns - self.since_ns
        else:
            self.sending_ns += now_ns - self.since_ns
        self.lane, self.since_ns = lane, now_ns


class RequestTracker:
    """All requests of one migration: say what is done with them, then `take` what is to be told."""

    def __init__(self, geometry: Geometry, *, critical: bool) -> None:
        """Start with none.

        Args:
            geometry: The guest's blocks.
            critical: A request is for a target page, and not for the page that it lies in.
        """
        self._geometry = geometry
        self._critical = critical
        self._open: dict[Span, _Open] = {}
        # Of these, those of which bytes are being handed over: few, where many may wait.
        self._handed: dict[Span, _Open] = {}
        self._untold: list[RequestAnswer] = []
        # What was told last: a break may lose it, or the page that it is about.
        self._told: deque[RequestAnswer] = deque(maxlen=VCPU_COUNT_MAX)
        # What each lane is in the middle of.
        self._under_way: dict[Lane, Chunk] = {}
        # The pages that were begun last, and how many were in all.
        self._pages: deque[PageId] = deque(maxlen=_PAGES_KEPT_MAX)
        self._page_count = 0

    @property
    def untold_count(self) -> int:
        """How many requests there is something to tell of."""
        return len(self._untold)

    def asked(
        self,
        page: PageId,
        target_page: int,
        answer: Answer,
        now_ns: int,
        *,
        breaks_off: bool,
        lies: Lies | None = None,
    ) -> None:
        """Take a request and the scheduler's answer to it.

        Args:
            page: The page that a vCPU waits for.
            target_page: Which target page of it was touched.
            answer: What it leads to.
            now_ns: The time.
            breaks_off: What is being sent is about to be broken off for it.
            lies: Where what goes again lies for the first time.
        """
        unit = unit_of(self._geometry, page, target_page, self._critical)
        if unit in self._open:
            # It is answered when the first one is.
            return
        first_behind = self._page_count
        lane = None
        for each, chunk in self._under_way.items():
            if answer in _UNDER_WAY and overlap(chunk.span, unit):
                lane = each
            elif each is not Lane.BACKGROUND and not breaks_off and chunk.page != page:
                first_behind = self._page_count - 1
        opened = _Open(
            page, target_page, answer.value, now_ns, first_behind,
            self._page_count if lane is not None else None, 0, 0, now_ns, lane,
        )  # fmt: skip
        opened.first_waits = answer is Answer.SENT_AGAIN and lies is Lies.UNSENT
        if answer is Answer.ALREADY_SENT:
            opened.behind_end = first_behind
            self._untold.append(self._told_of(opened))
        else:
            self._open[unit] = opened
            if lane is not None:
                self._handed[unit] = opened

    def begun(self, chunk: Chunk, lane: Lane, now_ns: int) -> None:
        """Say that the bytes of a chunk are handed to a socket from now on."""
        before = self._under_way.get(lane)
        # What goes beside the requests goes before none of them.
        if lane is not Lane.BACKGROUND and (before is None or before.page != chunk.page):
            self._pages.append(chunk.page)
            self._page_count += 1
        self._under_way[lane] = chunk
        for unit, opened in list(self._handed.items()):
            is_of_other = opened.lane is lane and chunk.page != opened.page
            if is_of_other and not overlap(chunk.span, unit):
                self._go(unit, opened, None, now_ns)
        for unit, opened in self._open_in(chunk.span):
            if opened.behind_end is None:
                opened.behind_end = self._page_count - 1
            if chunk.boosted and opened.answer == QUEUED:
                opened.answer = BOOSTED
            self._go(unit, opened, lane, now_ns)

    @property
    def is_idle(self) -> bool:
        """Whether no request waits for its bytes."""
        return not self._open

    def ran_on(self, chunk: Chunk, lane: Lane, pages: range) -> None:
        """Say that what is under way in a lane went whole, and then pages of which the last is.

        Nobody waits for any of them.

        Args:
            chunk: The last one's, which is handed over from now on.
            lane: Whose.
            pages: By their indices in the chunk's block.
        """
        if lane is not Lane.BACKGROUND:
            self._pages.extend(PageId(chunk.page.block, page) for page in pages[-_PAGES_KEPT_MAX:])
            self._page_count += len(pages)
        self._under_way[lane] = chunk

    def interrupted(self, lane: Lane, now_ns: int) -> None:
        """Say that what a lane was sending is broken off."""
        self._under_way.pop(lane, None)
        for unit, opened in list(self._handed.items()):
            if opened.lane is lane:
                self._go(unit, opened, None, now_ns)

    def sent(
        self,
        chunk: Chunk,
        lane: Lane,
        now_ns: int,
        *,
        goes_on: bool,
        lacks: Callable[[Span], bool],
    ) -> None:
        """Say that a chunk is whole with its socket.

        Args:
            chunk: Which.
            lane: Who sent it.
            now_ns: The time.
            goes_on: More of its page follows.
            lacks: Tells whether a unit has bytes that are not with a socket.
        """
        if not goes_on:
            self._under_way.pop(lane, None)
        if not self._open:
            return
        for unit, opened in self._open_in(chunk.span):
            # What goes again may lack its first copy.
            if unit.length == TARGET_PAGE_BYTES or not lacks(unit):
                self._go(unit, opened, None, now_ns)
                del self._open[unit]
                self._untold.append(self._told_of(opened))

    def broke(self, now_ns: int) -> None:
        """Say that the connections are gone: what was not told, or may be lost, is told later.

        The requests themselves are forgotten; those that still matter come again.
        """
        for opened in self._open.values():
            opened.go(None, now_ns)
        late = [self._told_of(opened) for opened in self._open.values()]
        self._open.clear()
        self._handed.clear()
        self._under_way.clear()
        lost = [*self._told, *self._untold, *late]
        self._told.clear()
        self._untold = [msgspec.structs.replace(each, interrupted=True) for each in lost]

    def take(self, now_ns: int) -> list[RequestAnswer]:
        """Return what is to be told now, oldest first."""
        untold, self._untold = self._untold, []
        told = [msgspec.structs.replace(each, told_ns=now_ns) for each in untold]
        self._told.extend(each for each in told if not each.interrupted)
        return told

    def put_back(self, untold: list[RequestAnswer]) -> None:
        """Take back what could not be told, to be told later."""
        self._untold[:0] = untold

    def _open_in(self, stretch: Stretch) -> list[tuple[Span, _Open]]:
        """Return the requests of which a stretch has bytes, oldest first."""
        if isinstance(stretch, Span) and (opened := self._open.get(stretch)) is not None:
            # Units lie apart.
            return [(stretch, opened)]
        return [each for each in self._open.items() if overlap(stretch, each[0])]

    def _go(self, unit: Span, opened: _Open, lane: Lane | None, now_ns: int) -> None:
        """Change the state of an open request, as `_Open.go`."""
        opened.go(lane, now_ns)
        if lane is None:
            self._handed.pop(unit, None)
        else:
            self._handed[unit] = opened

    def _told_of(self, opened: _Open) -> RequestAnswer:
        end = self._page_count if opened.behind_end is None else opened.behind_end
        kept_from = self._page_count - len(self._pages)
        first = max(opened.first_behind, kept_from)
        pages = dict.fromkeys(islice(self._pages, first - kept_from, max(end - kept_from, 0)))
        pages.pop(opened.page, None)
        forgotten_count = min(first, end) - opened.first_behind
        is_postponed = opened.answer == POSTPONED
        return RequestAnswer(
            block=opened.page.block,
            page=opened.page.index,
            target_page=opened.target_page,
            answer=opened.answer,
            came_ns=opened.came_ns,
            queued_ns=0 if is_postponed else opened.waited_ns,
            postponed_ns=opened.waited_ns if is_postponed else 0,
            sending_ns=opened.sending_ns,
            told_ns=0,
            behind=tuple((page.block, page.index) for page in islice(pages, BEHIND_COUNT_MAX)),
            behind_count=len(pages) + max(forgotten_count, 0),
            first_queued_ns=opened.waited_ns + opened.sending_ns if opened.first_waits else 0,
        )
