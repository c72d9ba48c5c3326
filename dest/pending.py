"""Pending connections: those that have not said hello yet, and what is told of those refused.

Pure: it counts, and says who has to go and what is worth a line; who calls it brings the time,
closes connections and writes the log.

A stranger that says nothing must not keep the source out, so a newcomer always gets a place.  Who
gives way is one that has not made itself known, of the address that holds most places of that kind,
and of those the oldest: a crowd from one address drives out nobody but its own.  Only where all
have made themselves known it is the newcomer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

# More in a second than a person can read; what comes on top is counted.
LINES_A_SECOND_MAX = 20

K = TypeVar("K")


@dataclass
class _Place:
    address: str
    known: bool = False


class Newcomers(Generic[K]):
    """The places, by a key for each connection; oldest first."""

    def __init__(self, places_max: int) -> None:
        """Start empty."""
        self._places_max = places_max
        self._places: dict[K, _Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, key: K, address: str) -> K | None:
        """Give a connection a place; return the key of the one that has to go, if one has.

        Args:
            key: Anything that stands for the connection.
            address: Where it comes from, without the port.
        """
        self._places[key] = _Place(address)
        if len(self._places) <= self._places_max:
            return None
        strangers = [each for each, place in self._places.items() if not place.known]
        # Not this one itself: it has had no time to say anything.
        candidates = strangers[:-1] or [key]
        counts = Counter(self._places[each].address for each in candidates)
        loser = max(candidates, key=lambda each: counts[self._places[each].address])
        del self._places[loser]
        return loser

    def make_known(self, key: K) -> None:
        """Say that a connection has proved itself, or where nothing is to be proved, said hello."""
        if key in self._places:
            self._places[key].known = True

    def leave(self, key: K) -> None:
        """Give a place back; harmless when it is lost already."""
        self._places.pop(key, None)


class Complaints:
    """A rate-limited log: a crowd of strangers must not fill it."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """Write to a log."""
        self._log = log
        self._second: int | None = None
        self._lines = 0
        self._untold = 0

    def say(self, line: str, now: float) -> None:
        """Log a line, or count it.

        Args:
            line: About one connection.
            now: The time in seconds.
        """
        if int(now) != self._second:
            self._second, self._lines = int(now), 0
            if self._untold:
                self._log(f"{self._untold} more connections came to nothing")
                self._untold = 0
        self._lines += 1
        if self._lines <= LINES_A_SECOND_MAX:
            self._log(line)
        else:
            self._untold += 1
