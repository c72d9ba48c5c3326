"""Asks what a user wrote, and believes nothing of it: the first thing that is wrong ends it.  Pure.

A prefetcher or an order that raises, or answers what cannot be, is not asked again; what was wrong
stands in `failure`, a line with the place in the user's file.  Whoever asks goes on as without it:
the source may hold the only copy of a page, and somebody else's mistake is no reason to lose it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from protocol.errors import PolicyFailed
from protocol.geometry import Geometry, PageId, Span
from protocol.text import one_line
from source.scheme import Order, Pick, Prefetcher, Remaining, Request

WHY_CHARS_MAX = 64
_SHOWN_CHARS_MAX = 60

# An answer has two to four fields, see `Pick`.
_FIELD_COUNTS = range(2, 5)


class _WrongAnswerError(Exception):
    """What a hook returned cannot be."""


class Guard:
    """Calls the hooks of one object.

    Attributes:
        failure: What was wrong, and where; empty while nothing is.
    """

    def __init__(self, policy: str, make: Callable[[], object]) -> None:
        """Make the object.

        Args:
            policy: The policy's name, for messages.
            make: Makes it: its class, or a function.

        Raises:
            PolicyFailed: That raises.
        """
        self.failure = ""
        self._policy = policy
        made = self.ask(make)
        if self.failure:
            raise PolicyFailed(self.failure)
        self.made = made

    def ask(
        self,
        hook: Callable[..., Any],
        *arguments: object,
        check: Callable[[Any], Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the hook is to return
        """Return what a hook answers, None if it fails now or did before.

        Args:
            hook: The user's.
            arguments: What it takes.
            check: Returns the answer as this side has it; raises what is wrong with it.
        """
        if self.failure:
            return None
        try:
            answer = hook(*arguments)
            return answer if check is None else check(answer)
        except KeyboardInterrupt:
            raise
        except _WrongAnswerError as error:
            self.failure = f"policy {self._policy}: {place_of(hook)}: {error}"
        except BaseException as error:  # noqa: BLE001 - a user's SystemExit ends no source
            where = _raised_at(error.__traceback__, hook)
            reason = f"{type(error).__name__}: {_text_of(error)}".rstrip(": ")
            self.failure = f"policy {self._policy}: {where}: {reason}"
        self.failure = one_line(self.failure)
        return None


class GuardedPrefetcher(Guard):
    """A user's prefetcher, as one of this tree's.

    Attributes:
        hears_sent: It wants to hear of pages that were sent.
    """

    def __init__(self, policy: str, make: Callable[[], Prefetcher]) -> None:
        """Make it; `restart` before all else.

        Raises:
            PolicyFailed: It cannot be made.
        """
        super().__init__(policy, make)
        self._prefetcher: Prefetcher = self.made
        # To call what does nothing costs a microsecond for each page of 4 KiB.
        sent = getattr(self.made, "sent", None)
        self.hears_sent = getattr(sent, "__func__", sent) is not Prefetcher.sent
        self._remaining: Remaining | None = None
        # The reason that was last found to be one.
        self._last_why: object = object()

    def restart(self, geometry: Geometry, remaining: Remaining) -> None:
        """See `Prefetcher`."""
        self._remaining = remaining
        self.ask(self._prefetcher.restart, geometry, remaining)

    def requested(self, page: PageId, target_page: int, now_ns: int, answer: str) -> None:
        """See `Prefetcher`."""
        self.ask(self._prefetcher.requested, page, target_page, now_ns, answer)

    def served(self, page: PageId, urgent: Span) -> None:
        """See `Prefetcher`."""
        self.ask(self._prefetcher.served, page, urgent)

    def sent(self, page: PageId, channel: str) -> None:
        """See `Prefetcher`."""
        self.ask(self._prefetcher.sent, page, channel)

    def next(self, remaining: Remaining) -> Pick | None:
        """Return what the user's answers, if it can be."""
        pick: Pick | None = self.ask(self._prefetcher.next, remaining, check=self._checked)
        return pick

    def _checked(self, answer: object) -> Pick | None:
        if answer is None:
            return None
        assert self._remaining is not None, "it has been restarted"
        if type(answer) is Pick and self._is_plain(answer):
            return answer
        if not isinstance(answer, tuple) or len(answer) not in _FIELD_COUNTS:
            raise _WrongAnswerError(f"next returned {shown(answer)}, not a page and a reason")
        defaults: tuple[Any, ...] = Pick(PageId(0, 0), "")
        page, why, target_page, go_on = answer + defaults[len(answer) :]
        if not isinstance(page, tuple) or len(page) != 2:
            raise _WrongAnswerError(f"next returned {shown(page)}, not a PageId")
        found = PageId(_whole(page[0], "a block"), _whole(page[1], "a page"))
        geometry = self._remaining.geometry
        if not geometry.has_page(found):
            raise _WrongAnswerError(f"next returned {_name(found)}, which the guest has not")
        if not isinstance(why, str) or not why.isprintable() or not 0 < len(why) <= WHY_CHARS_MAX:
            raise _WrongAnswerError(
                f"next returned the reason {shown(why)}, not 1 to {WHY_CHARS_MAX} characters"
            )
        inside = _whole(target_page, "a target page")
        if not 0 <= inside < geometry.blocks[found.block].target_pages_per_page:
            raise _WrongAnswerError(f"next returned target page {inside} of {_name(found)}")
        if not go_on and not self._remaining.holds(found):
            raise _WrongAnswerError(f"next returned {_name(found)}, which was sent already")
        self._last_why = str(why)
        return Pick(found, str(why), inside, bool(go_on))

    def _is_plain(self, pick: Pick) -> bool:
        """Return whether a pick is right in all that can be wrong, as nearly every one is.

        Of small pages there are many, and each waits for this.
        """
        page, why, target_page, go_on = pick
        return (
            why is self._last_why
            and target_page == 0
            and go_on is False
            and type(page) is PageId
            and type(page.block) is type(page.index) is type(target_page) is int
            and self._remaining is not None
            and self._remaining.holds(page)
        )


class GuardedOrder(Guard):
    """A user's order of service."""

    def __init__(self, policy: str, make: Callable[[], Order]) -> None:
        """Make it.

        Raises:
            PolicyFailed: It cannot be made.
        """
        super().__init__(policy, make)
        self._order: Order = self.made

    def pick(self, queue: Sequence[Request], half_sent: PageId | None) -> int:
        """Return what the user's answers, if it can be; else 0."""

        def checked(answer: object) -> int:
            place = _whole(answer, "a place in the queue")
            if not 0 <= place < len(queue):
                raise _WrongAnswerError(f"pick returned {place}, of {len(queue)} requests")
            return place

        # What it is given is its own: nothing that it does to it is seen here.
        place: int | None = self.ask(self._order.pick, tuple(queue), half_sent, check=checked)
        return place or 0


def place_of(hook: object) -> str:
    """Return where a function or a method of a user's stands, FILE.py:LINE; else what it is."""
    code = getattr(hook, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else shown(hook)


def _raised_at(traceback: TracebackType | None, hook: object) -> str:
    """Return the place of an error, in the file of the hook if it came by there."""
    frames = []
    while traceback is not None:
        frames.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    # The first is this module's own.
    frames = frames[1:]
    code = getattr(hook, "__code__", None) or getattr(
        getattr(hook, "__init__", None), "__code__", None
    )
    own = [frame for frame in frames if code is not None and frame[0] == code.co_filename]
    if not (own or frames):
        return place_of(hook)
    file, line = (own or frames)[-1]
    return f"{file}:{line}"


def _whole(value: object, what: str) -> int:
    """Return a whole number of whatever kind, NumPy's too."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise _WrongAnswerError(f"{shown(value)} is not {what}")
    return operator.index(value)


def _name(page: PageId) -> str:
    return f"page {page.index} of block {page.block}"


def shown(value: object) -> str:
    """Return a value as it goes into a message, whatever it is."""
    try:
        text = one_line(repr(value))
    except Exception:  # noqa: BLE001 - what cannot be shown is named
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}..."


def _text_of(error: BaseException) -> str:
    try:
        return one_line(str(error))
    except Exception:  # noqa: BLE001 - it has nothing to say
        return ""
