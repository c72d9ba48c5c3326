"""A measured figure beside its limit: all runs of it, their spread, and what was wanted of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """What a figure should come to, by its median.

    Attributes:
        value: The bound itself still counts as reached.
        at_least: Whether more is better.
        of_ratio: Whether it is about the ratio to the limit, and not about the figure.
    """

    value: float
    at_least: bool = False
    of_ratio: bool = True

    def is_met_by(self, value: float) -> bool:
        """Tell whether a value is good enough."""
        return value >= self.value if self.at_least else value <= self.value

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "of": "ratio" if self.of_ratio else "value",
            "bound": "at-least" if self.at_least else "at-most",
            "value": self.value,
        }


@dataclass(frozen=True)
class Limit:
    """What a figure stands beside.

    Attributes:
        name: What was measured, or reckoned, in the figure's unit.
        values: One for each run of the figure, its neighbour in time; or one for all.
    """

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Figure:
    """All runs of one thing that was measured.

    Attributes:
        section: Where it belongs.
        name: What it is; with the section, unlike any other.
        unit: Of its values and of its limit's; empty for a plain number.
        values: One a run, at least one.
        limit: What it stands beside, None if that is nothing.
        target: What it should come to, None if nobody said.
        note: What a reader must know besides.
    """

    section: str
    name: str
    unit: str
    values: tuple[float, ...]
    limit: Limit | None = None
    target: Target | None = None
    note: str = ""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Each run over its limit; nothing without a limit."""
        if self.limit is None:
            return ()
        limits = self.limit.values
        limits = limits * len(self.values) if len(limits) == 1 else limits
        return tuple(value / limit for value, limit in zip(self.values, limits, strict=True))

    @property
    def is_met(self) -> bool | None:
        """Whether the median reaches the target; None without one."""
        if self.target is None:
            return None
        return self.target.is_met_by(
            statistics.median(self.ratios if self.target.of_ratio else self.values)
        )

    def to_plain(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        plain: dict[str, Any] = {
            "section": self.section,
            "name": self.name,
            "unit": self.unit,
            **spread(self.values),
            "values": list(self.values),
        }
        if self.limit is not None:
            plain["limit"] = {
                "name": self.limit.name,
                **spread(self.limit.values),
                "values": list(self.limit.values),
            }
            plain["ratio"] = spread(self.ratios)
        if self.target is not None:
            plain["target"] = self.target.to_plain()
            plain["met"] = self.is_met
        if self.note:
            plain["note"] = self.note
        return plain


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
