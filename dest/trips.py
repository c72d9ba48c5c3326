"""A page's way from its request until it is here, as this side and the source tell.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.geometry import PageId


class Urgent(NamedTuple):
    """What comes with bytes that are sent because of a page request.

    Attributes:
        queue_us: How long the request waited at the source.
        send_us: How long the page's urgent frames have been on their way to the socket.
    """

    queue_us: int = 0
    send_us: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What the source says of a request.

    Attributes:
        answer: One of `protocol.answers`.
        came_ns: When it read the request, by this side's clock.
        queued_ns: How long the request waited for its turn.
        postponed_ns: How long the policy put it off.
        sending_ns: How long its bytes were being handed to the socket.
        behind: The pages that went before it; the first of them, if many.
        behind_count: How many those are in all.
    """

    answer: str
    came_ns: int
    queued_ns: int = 0
    postponed_ns: int = 0
    sending_ns: int = 0
    behind: tuple[PageId, ...] = ()
    behind_count: int = 0


@dataclass(slots=True)
class Round:
    """A request that came to nothing: its connection broke, or its bytes came changed.

    Attributes:
        ended_ns: When that was known.
        again_ns: When the page was asked for again, None until it is.
        said: What the source says of it; it may do so only when it is here again.
    """

    ended_ns: int
    again_ns: int | None = None
    said: Said | None = None


@dataclass(slots=True)
class Trip:
    """A page that is asked for.

    Attributes:
        asked_ns: When the request last went out, None before it has.
        said: What the source says of it.
        rounds: The requests before it that came to nothing.
        urgent_ns: When the first frame came that was sent because of it.
        queue_us: How long it waited at the source, as the head of such a frame says.
        send_us: How long these frames had been on their way to the socket, likewise.
        was_asked: The request has gone out at least once.
    """

    asked_ns: int | None = None
    said: Said | None = None
    rounds: list[Round] = field(default_factory=list)
    urgent_ns: int | None = None
    queue_us: int = 0
    send_us: int = 0
    was_asked: bool = field(default=False, compare=False)

    def asked(self, now_ns: int) -> None:
        """Note that the request goes out."""
        self.asked_ns = now_ns
        self.was_asked = True
        if self.rounds and self.rounds[-1].again_ns is None:
            self.rounds[-1].again_ns = now_ns

    def end_round(self, now_ns: int) -> None:
        """Note that what was asked for does not come, and has to be asked for again."""
        if self.rounds and self.rounds[-1].again_ns is None:
            return
        self.rounds.append(Round(now_ns, said=self.said))
        self.asked_ns = self.said = self.urgent_ns = None
        self.queue_us = self.send_us = 0

    def say_of_last_round(self, said: Said) -> None:
        """Take what the source says of a request that came to nothing."""
        for each in reversed(self.rounds):
            if each.said is None:
                each.said = said
                return
