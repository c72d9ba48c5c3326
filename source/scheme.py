"""What a policy of your own is made of: switches, a prefetcher, an order of service.  Pure.

A `Scheme` is a `Policy`, the row of switches that both sides know, and what the source alone needs:
a `Prefetcher` says what to send next when nobody waits, an `Order` which of several requests is
served next.  Both are asked by the scheduler, and neither can break its rules: pages go whole, a
frame that was begun ends on its channel, nothing goes twice.  `source/README.md` has an example.

    class ReadAhead(Prefetcher):
        def requested(self, page, target_page, now_ns, answer):
            self.wanted = deque(PageId(page.block, page.index + n) for n in range(1, 5))

        def next(self, remaining):
            while self.wanted:
                if remaining.holds(page := self.wanted.popleft()):
                    return page, "read ahead"
            return None

    read_ahead = Scheme("read-ahead-of-4", locality=False, prefetcher=ReadAhead)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from protocol.channels import Channel
from protocol.geometry import Geometry, PageId, RamBlock, Span
from protocol.pageset import PageSet
from protocol.policy import HalfSent, Policy, Priority, preset

__all__ = [
    "Channel",
    "Geometry",
    "HalfSent",
    "Order",
    "PageId",
    "Pick",
    "Policy",
    "Prefetcher",
    "Priority",
    "RamBlock",
    "Remaining",
    "Request",
    "Scheme",
    "Span",
    "preset",
]


class Pick(NamedTuple):
    """What a prefetcher wants sent next; a tuple of its first two fields will do.

    Attributes:
        page: Of this page all that remains; one of which nothing remains is refused.
        why: The cause, a few words: it stands in the event `page-start`.
        target_page: From which of its target pages on, where the policy sends pages in parts.
        go_on: It is no page to fetch but a place: the scan goes on there.  Such a pick counts as
            nobody's.
    """

    page: PageId
    why: str
    target_page: int = 0
    go_on: bool = False


class Request(NamedTuple):
    """A page request that waits for its turn.

    Attributes:
        page: The page.
        requested_ns: When it came.
    """

    page: PageId
    requested_ns: int


class Remaining:
    """What is still to be sent, to look at: of what it tells no chunk was made yet."""

    __slots__ = ("_pages",)

    def __init__(self, pages: PageSet) -> None:
        """Look at a set of target pages, which others change."""
        self._pages = pages

    @property
    def geometry(self) -> Geometry:
        """The guest's blocks."""
        return self._pages.geometry

    @property
    def length_bytes(self) -> int:
        """How many bytes they are."""
        return self._pages.length_bytes

    def holds(self, page: PageId) -> bool:
        """Tell whether anything of a page is still to be sent; of no page of the guest it is."""
        # Prefetchers of small pages ask this many times a page.
        pages, (block, index) = self._pages, page
        blocks = pages.geometry.blocks
        if not (0 <= block < len(blocks) and 0 <= index < blocks[block].page_count):
            return False
        return pages.holds_page(page)

    def first_from(self, page: PageId, target_page: int = 0) -> tuple[PageId, int] | None:
        """Return the first place at or after a page of which anything is still to be sent.

        The search goes to the end of the block, through the blocks after it, and round.

        Args:
            page: A page, or the one behind a block's last.
            target_page: Of it, where to begin.

        Returns:
            The page and the target page in it; None if nothing remains.
        """
        per_page = self.geometry.blocks[page.block].target_pages_per_page
        place = self._pages.first_from(page.block, page.index * per_page + target_page)
        if place is None:
            return None
        block, found = place
        inside = found % self.geometry.blocks[block].target_pages_per_page
        return self.geometry.page_of(block, found), inside

    def nearest(self, page: PageId, step: int, count: int) -> PageId | None:
        """Return the first page in a direction of which anything is still to be sent.

        Args:
            page: Where to begin: itself, or one outside of the block, which has nothing.
            step: 1 for upwards, -1 for downwards.
            count: How many pages to look at, at most.
        """
        block, index = page
        shape = self.geometry.blocks[block]
        low, high = (index, index + count) if step > 0 else (index - count + 1, index + 1)
        low, high = max(low, 0), min(high, shape.page_count)
        if low >= high:
            return None
        per_page = shape.target_pages_per_page
        search = self._pages.first_in if step > 0 else self._pages.last_in
        found = search(block, low * per_page, high * per_page)
        return PageId(block, found // per_page) if found >= 0 else None


class Prefetcher(Protocol):
    """Says what to send next when nobody waits; a class that derives from it has only its own part.

    It is made anew for each migration, asked only while vCPUs may fault on the destination, and
    never while a request waits.  All calls come one after the other and have to be quick: bytes
    wait for them.
    """

    def restart(self, geometry: Geometry, remaining: Remaining) -> None:
        """Begin, or begin again after a break: what lay in the connections may be missing again.

        Args:
            geometry: The guest's blocks.
            remaining: What is to be sent; the same object as in every `next`.
        """
        return

    def requested(self, page: PageId, target_page: int, now_ns: int, answer: str) -> None:
        """Hear of a page request, one for what was sent or asked for already, too.

        Args:
            page: The page that a vCPU waits for.
            target_page: Which target page of it was touched, from 0.
            now_ns: When it came.
            answer: What it leads to: queued, duplicate, already-sent, sent-again, urgent-in-place,
                postponed.
        """
        return

    def served(self, page: PageId, urgent: Span) -> None:
        """Hear that a request's turn has come.

        Args:
            page: The page that was asked for.
            urgent: What is urgent of it: all, or the target page where the policy is critical.
        """
        return

    def sent(self, page: PageId, channel: str) -> None:
        """Hear that all of a page is with a connection, precopy or postcopy."""
        return

    def next(self, remaining: Remaining) -> Pick | tuple[PageId, str] | None:
        """Return what to send next and why; None leaves it to the scan."""
        return None


class Order(Protocol):
    """Says which request is served next; made anew for each migration."""

    def pick(self, queue: Sequence[Request], half_sent: PageId | None) -> int:
        """Return the place in the queue of the one to serve; 0 is first come, first served.

        Args:
            queue: All requests that wait, in the order in which they came; never empty.
            half_sent: The page that was broken off in the background, if there is one.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Scheme(Policy):
    """A policy with a prefetcher, an order, or both; its switches are at first those of `ordered`.

    Attributes:
        priority: As of `Policy`.
        prefetcher: Makes one, without arguments: its class, or a function.
        order: Likewise; None for first come, first served.
        origin: What `--policy` said, so that another process finds it, too; set by who found it.
    """

    priority: Priority = Priority.URGENCY
    prefetcher: Callable[[], Prefetcher] | None = None
    order: Callable[[], Order] | None = None
    origin: str = ""
