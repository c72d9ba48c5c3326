"""The kinds of expectation: each looks at a run's outcome and says in words what differs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from protocol.channels import Channel
from protocol.geometry import Geometry, PageId
from scripts.injection.outcome import Outcome
from scripts.injection.triggers import SIDES, page_name


class Failure(NamedTuple):
    """An expectation that was not met, in words."""

    what: str
    expected: str
    seen: str


class Check(ABC):
    """One expectation."""

    @abstractmethod
    def failure(self, outcome: Outcome) -> Failure | None:
        """Return how it was not met, None if it was."""


@dataclass(frozen=True)
class Bounds:
    """A range of numbers that are as expected."""

    least: float
    most: float

    def __str__(self) -> str:  # type: ignore[explicit-override]
        """Return it in words."""
        if self.least == self.most:
            return f"{self.least:g}"
        parts = [f"at least {self.least:g}"] if self.least > 0 else []
        parts += [f"at most {self.most:g}"] if self.most < float("inf") else []
        return " and ".join(parts)

    def __contains__(self, value: float) -> bool:
        """Return whether a number lies in it."""
        return self.least <= value <= self.most


@dataclass(frozen=True)
class OfSides(Check):
    """A state or an exit status: of the whole, or of one side."""

    what: str
    side: str | None
    expected: str | int

    def failure(self, outcome: Outcome) -> Failure | None:  # type: ignore[explicit-override]
        """Compare."""
        seen: str | int | None
        if self.what == "status":
            seen = outcome.state_of(self.side) if self.side else outcome.status
        else:
            seen = outcome.statuses.get(self.side) if self.side else outcome.exit_status
        if seen == self.expected:
            return None
        reasons = {each: outcome.reasons.get(each) for each in SIDES if self.side in (None, each)}
        why = "; ".join(f"{each}: {reason}" for each, reason in reasons.items() if reason)
        name = f"{self.what} of {self.side}" if self.side else self.what
        return Failure(name, str(self.expected), f"{seen} ({why})" if why else str(seen))


@dataclass(frozen=True)
class Count(Check):
    """How often something happened, or how much of it."""

    what: str
    bounds: Bounds

    def failure(self, outcome: Outcome) -> Failure | None:  # type: ignore[explicit-override]
        """Compare."""
        seen = outcome.count(self.what)
        if seen is not None and seen in self.bounds:
            return None
        return Failure(
            self.what, str(self.bounds), "no report tells" if seen is None else str(seen)
        )


@dataclass(frozen=True)
class Order(Check):
    """The order in which the requested pages were placed."""

    what: str
    pages: tuple[PageId, ...]
    geometry: Geometry

    def failure(self, outcome: Outcome) -> Failure | None:  # type: ignore[explicit-override]
        """Compare."""
        requested = set(outcome.requested())
        seen = [page for page in outcome.placed() if page in requested]
        if seen == list(self.pages):
            return None
        return Failure(self.what, _names(self.pages, self.geometry), _names(seen, self.geometry))


@dataclass(frozen=True)
class ServedOrder(Check):
    """The order in which the requested pages were handed whole to their connections.

    The source says it.  What the proxy saw may differ where one connection overtook the other, but
    not in everything: that must agree.
    """

    pages: tuple[PageId, ...]
    geometry: Geometry
    in_turn: bool

    def failure(self, outcome: Outcome) -> Failure | None:  # type: ignore[explicit-override]
        """Compare."""
        requested = set(outcome.requested())
        seen = [page for page in outcome.served() if page in requested]
        expected = _names(self.pages, self.geometry)
        if seen != list(self.pages):
            return Failure("served-order", expected, _names(seen, self.geometry))
        doubt = self._doubt(outcome)
        return Failure("served-order", f"{expected} on the wire, too", doubt) if doubt else None

    def _doubt(self, outcome: Outcome) -> str:
        """Return what the proxy saw that cannot be if the source is right, empty if nothing."""
        names = {page: page_name(page, self.geometry) for page in self.pages}
        for page, name in names.items():
            if page not in outcome.passings or not outcome.passings[page].is_whole:
                return f"page {name} never passed whole"
        served = outcome.served()
        for first, second in combinations(self.pages, 2):
            ours, theirs = outcome.passings[first], outcome.passings[second]
            order = f"page {names[second]} passed before page {names[first]}"
            # Over one connection nothing overtakes.
            channels = {channel for page in (first, second) for channel in outcome.carriers[page]}
            if len(channels) == 1 and theirs.serial < ours.serial:
                return order
            # A policy that serves two at once may tell of what it has handed over a little later.
            if self.in_turn and theirs.at_ns < served[first]:
                return f"{order} was handed over"
        return ""


@dataclass(frozen=True)
class PlacedBefore(Check):
    """One page was placed before another; if that never came, it still was."""

    first: PageId
    second: PageId
    geometry: Geometry

    def failure(self, outcome: Outcome) -> Failure | None:  # type: ignore[explicit-override]
        """Compare."""
        both = (self.first, self.second)
        seen = [page for page in outcome.placed() if page in both]
        if seen and seen[0] == self.first:
            return None
        expected = f"{_names(both, self.geometry)} in this order"
        return Failure("placed-before", expected, _names(seen, self.geometry))


@dataclass(frozen=True)
class WaitRatio(Check):
    """How many times as long the wait for one page is as that for another."""

    of: PageId
    to: PageId
    bounds: Bounds
    geometry: Geometry

    def failure(self, outcome: Outcome) -> Failure | None:  # type: ignore[explicit-override]
        """Compare."""
        waits = [outcome.wait_us(page) for page in (self.of, self.to)]
        names = [page_name(page, self.geometry) for page in (self.of, self.to)]
        what = f"wait-ratio of {names[0]} to {names[1]}"
        for name, wait in zip(names, waits, strict=True):
            if not wait:
                return Failure(what, str(self.bounds), f"nobody waited for {name}")
        ratio = (waits[0] or 0) / (waits[1] or 1)
        if ratio in self.bounds:
            return None
        return Failure(what, str(self.bounds), f"{ratio:.3g}")


@dataclass(frozen=True)
class Carriers(Check):
    """Which channels brought bytes of a page after the switch-over, in the order of the first."""

    page: PageId
    channels: tuple[Channel, ...]
    geometry: Geometry

    def failure(self, outcome: Outcome) -> Failure | None:  # type: ignore[explicit-override]
        """Compare."""
        seen = tuple(outcome.carriers.get(self.page, ()))
        if seen == self.channels:
            return None
        what = f"channels of page {page_name(self.page, self.geometry)}"
        return Failure(what, _channels(self.channels), _channels(seen))


@dataclass(frozen=True)
class Never(Check):
    """An event that may not happen."""

    event: str

    def failure(self, outcome: Outcome) -> Failure | None:  # type: ignore[explicit-override]
        """Look for it."""
        seen = len(outcome.named(self.event))
        return Failure(f"never {self.event}", "none", f"{seen} of them") if seen else None


@dataclass(frozen=True)
class MemoryEqual(Check):
    """Every byte of the source's memory is the destination's, too, in the end."""

    def failure(self, outcome: Outcome) -> Failure | None:  # type: ignore[explicit-override]
        """Look how many target pages differ."""
        differing = outcome.differing_target_pages
        if differing == 0:
            return None
        seen = "nothing to compare" if differing is None else f"{differing} target pages differ"
        return Failure("memory-equal", "all bytes", seen)


def _names(pages: Iterable[PageId], geometry: Geometry) -> str:
    return f"[{', '.join(page_name(page, geometry) for page in pages)}]"


def _channels(channels: Iterable[Channel]) -> str:
    return f"[{', '.join(channel.value for channel in channels)}]"
