"""Schemes for tests: those that somebody might write, and those that only a fiend would."""

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from source.scheme import (
    Geometry,
    Order,
    PageId,
    Pick,
    Prefetcher,
    Remaining,
    Request,
    Span,
)

# All that a fiend does is his file's, and complained of with its name.
HERE = __file__


class ReadAhead(Prefetcher):
    """Picks the four pages behind each request."""

    def __init__(self) -> None:
        """Want nothing."""
        self.wanted: deque[PageId] = deque()

    def requested(self, page: PageId, target_page: int, now_ns: int, answer: str) -> None:
        """Want the next four."""
        self.wanted = deque(PageId(page.block, page.index + n) for n in range(1, 5))

    def next(self, remaining: Remaining) -> tuple[PageId, str] | None:
        """Return the next that is wanted."""
        while self.wanted:
            page = self.wanted.popleft()
            if remaining.holds(page):
                return page, "read ahead"
        return None


class Backwards(Prefetcher):
    """Picks the last page that remains, whatever is asked for, and knows all that it is told."""

    def restart(self, geometry: Geometry, remaining: Remaining) -> None:
        """Keep the guest's pages."""
        self.pages = [
            PageId(number, index)
            for number, block in enumerate(geometry.blocks)
            for index in range(block.page_count)
        ]
        self.told: list[tuple[Any, ...]] = []

    def requested(self, page: PageId, target_page: int, now_ns: int, answer: str) -> None:
        """Keep it."""
        self.told.append(("requested", page, target_page, now_ns, answer))

    def served(self, page: PageId, urgent: Span) -> None:
        """Keep it."""
        self.told.append(("served", page, urgent))

    def sent(self, page: PageId, channel: str) -> None:
        """Keep it."""
        self.told.append(("sent", page, channel))

    def next(self, remaining: Remaining) -> Pick | None:
        """Return the last, from its middle on."""
        while self.pages:
            if remaining.holds(page := self.pages[-1]):
                per_page = remaining.geometry.blocks[page.block].target_pages_per_page
                return Pick(page, "backwards", per_page // 2)
            self.pages.pop()
        return None


class Jumper(Backwards):
    """Sends the scan to places of its own, and picks in between."""

    def next(self, remaining: Remaining) -> Pick | None:
        """Return a place, or a page."""
        self.turn = getattr(self, "turn", 0) + 1
        if self.pages and self.turn % 3:
            return Pick(self.pages[self.turn * 7 % len(self.pages)], "jump", 0, go_on=True)
        return super().next(remaining) if len(self.pages) > 1 else None


class NewestFirst(Order):
    """Last come, first served."""

    def pick(self, queue: Sequence[Request], half_sent: PageId | None) -> int:
        """Return the last."""
        return len(queue) - 1


class HalfSentFirst(Order):
    """Serves the half-sent page as soon as it is asked for."""

    def pick(self, queue: Sequence[Request], half_sent: PageId | None) -> int:
        """Return its place, or the first."""
        return next((n for n, each in enumerate(queue) if each.page == half_sent), 0)


class Scold(str):
    """A text that makes trouble when it is looked at."""

    __slots__ = ()

    def isprintable(self) -> bool:
        """Raise."""
        raise LookupError("do not look at me")


class Unspeakable:
    """Something that cannot even be shown."""

    def __repr__(self) -> str:
        """Raise."""
        raise RecursionError

    def __index__(self) -> int:
        """Raise."""
        raise SystemExit(0)


def answering(answer: object) -> type[Prefetcher]:
    """Return a prefetcher's class whose every answer is this."""

    class Answering(Prefetcher):
        def next(self, remaining: Remaining) -> Any:  # noqa: ANN401
            return answer

    return Answering


def raising(error: BaseException, hook: str) -> type[Prefetcher]:
    """Return a prefetcher's class that raises in one of its hooks."""

    def fail(*_: object) -> None:
        raise error

    return type("Raising", (ReadAhead,), {hook: fail})


def recursing(self: Prefetcher, remaining: Remaining) -> Pick | None:
    """Call itself until that ends."""
    return recursing(self, remaining)


FIRST = PageId(0, 0)

# Answers that cannot be, and what of the complaint each must bring.
WRONG: tuple[tuple[object, str], ...] = (
    (1.5, "next returned 1.5"),
    (7, "next returned 7"),
    ("0:1", "next returned '0:1'"),
    ([FIRST, "why"], "next returned [PageId(block=0, index=0), 'why']"),
    (FIRST, "next returned 0, not a PageId"),
    ((FIRST,), "not a page and a reason"),
    ((FIRST, "why", 0, False, 1), "not a page and a reason"),
    (((0, 1.0), "why"), "1.0 is not a page"),
    (((0, True), "why"), "True is not a page"),
    ((("ram", 0), "why"), "'ram' is not a block"),
    ((PageId(0, -1), "why"), "page -1 of block 0, which the guest has not"),
    ((PageId(0, 1 << 70), "why"), "which the guest has not"),
    ((PageId(9, 0), "why"), "page 0 of block 9, which the guest has not"),
    ((PageId(-1, 0), "why"), "page 0 of block -1, which the guest has not"),
    ((FIRST, ""), "the reason ''"),
    ((FIRST, "two\nlines"), "the reason 'two\\nlines'"),
    ((FIRST, "x" * 65), "not 1 to 64 characters"),
    ((FIRST, None), "the reason None"),
    ((FIRST, "why", -1), "target page -1"),
    ((FIRST, "why", 1 << 20), "target page 1048576"),
    ((FIRST, "why", 0.0), "0.0 is not a target page"),
    ((FIRST, Scold("why")), "LookupError: do not look at me"),
    (((Unspeakable(), 0), "why"), "SystemExit"),
    (Unspeakable(), "a Unspeakable"),
    # The first time it is right.
    ((FIRST, "always the same"), "page 0 of block 0, which was sent already"),
)

RAISING: tuple[tuple[type[Prefetcher], str], ...] = (
    *(
        (raising(ValueError("no"), hook), "ValueError: no")
        for hook in ("requested", "served", "sent", "next")
    ),
    (raising(SystemExit(3), "next"), "SystemExit: 3"),
    (raising(GeneratorExit(), "next"), "GeneratorExit"),
    (raising(MemoryError(), "next"), "MemoryError"),
    (type("Recursing", (ReadAhead,), {"next": recursing}), "RecursionError"),
)


def fickle(seed: int) -> type[Prefetcher]:
    """Return a prefetcher's class that answers well for a while, and then somehow."""

    class Fickle(Backwards):
        def next(self, remaining: Remaining) -> Any:  # noqa: ANN401
            self.chance = getattr(self, "chance", Random(seed))
            if self.chance.random() < 0.05:
                return self.chance.choice(WRONG)[0]
            left = [page for page in self.pages if remaining.holds(page)]
            if not left or self.chance.random() < 0.2:
                return None
            return self.chance.choice(left), f"whim {self.chance.randrange(40)}"

    return Fickle


def ordering(answer: object) -> type[Order]:
    """Return an order's class whose every answer is this."""

    class Ordering(Order):
        def pick(self, queue: Sequence[Request], half_sent: PageId | None) -> Any:  # noqa: ANN401
            return answer(queue) if callable(answer) else answer

    return Ordering


def _clear(queue: Any) -> int:  # noqa: ANN401
    queue.clear()
    return 0


# Likewise for orders.
WRONG_ORDERS: tuple[tuple[object | Callable[[Any], int], str], ...] = (
    (-1, "pick returned -1, of"),
    (1 << 70, "of 1 requests"),
    (0.0, "0.0 is not a place in the queue"),
    (None, "None is not a place in the queue"),
    (False, "False is not a place in the queue"),
    (len, "pick returned 1, of 1 requests"),
    (_clear, "AttributeError"),
    (Unspeakable(), "SystemExit"),
)
