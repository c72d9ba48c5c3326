"""A benchmark's plan, its figures beside their limits, and how they read.

A figure has all of its runs, their spread, and what was wanted of it.  It is shown as lines for a
terminal and as rows of a Markdown table, both from the report's JSON.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from guest.spec import PYTHON
from scripts.links.link import LOOPBACK, Link
from scripts.qemu.against import Peer


class LeftOut(Exception):
    """A section cannot be measured on this machine; says why."""


@dataclass(frozen=True)
class Plan:
    """The plan that the sections of a benchmark follow.

    Attributes:
        quick: Measure only what takes a minute in all.
        runs: How often each figure is measured, neighbours in turn.
        length_bytes: Memory of each run of the stream and of its cost.
        page_sizes: Of the stream.
        chunk_size: As in `--chunk-size`.
        link: What lies between both ends; where there is a choice, the only one.
        say: Tells a person what is under way.
        against: A real QEMU to measure beside midstream; None for none.
        guest: What runs the vCPUs, as in `--guest`.
        policies: Of the latency, in the place of all others, as in `--policy`.
    """

    quick: bool
    runs: int
    length_bytes: int
    page_sizes: tuple[str, ...]
    chunk_size: str
    link: Link
    say: Callable[[str], None]
    against: Peer | None = None
    guest: str = PYTHON
    policies: tuple[str, ...] = ()

    @property
    def has_link(self) -> bool:
        """Whether the user wants everything measured on a link of a rate."""
        return self.link is not LOOPBACK

    def shape(self, page_size: str) -> dict[str, str]:
        """Return the options of `midstream migrate` for memory of pages of a size."""
        return {
            "size": str(self.length_bytes),
            "page-size": page_size,
            "chunk-size": self.chunk_size,
            "link": self.link.option,
            "guest": self.guest,
        }


# Verdicts on a figure of which something is wanted.
REACHED, MISSED, INCONCLUSIVE = "reached", "MISSED", "inconclusive"


@dataclass(frozen=True)
class Target:
    """The value that a figure's median should reach.

    Attributes:
        value: The bound itself still counts as reached.
        at_least: Whether more is better.
        of_ratio: Whether it is about the ratio to the limit, and not about the figure.
    """

    value: float
    at_least: bool = False
    of_ratio: bool = True

    def is_met_by(self, value: float) -> bool:
        """Return whether a value is good enough."""
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
    """The limit that a figure stands beside.

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
        column: Where it stands in a table with a line for all that has the same name up to that;
            empty for a figure that stands alone.
    """

    section: str
    name: str
    unit: str
    values: tuple[float, ...]
    limit: Limit | None = None
    target: Target | None = None
    note: str = ""
    column: str = ""

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

    def to_plain(self, *, is_noisy: bool = False) -> dict[str, Any]:
        """Return all of it as JSON can hold it.

        Args:
            is_noisy: The machine was not quiet: what is not reached may be its doing.
        """
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
            plain["verdict"] = REACHED if self.is_met else INCONCLUSIVE if is_noisy else MISSED
        if self.note:
            plain["note"] = self.note
        if self.column:
            plain["column"] = self.column
        return plain


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


Plain = Mapping[str, Any]

_BOUNDS = {"at-most": "<=", "at-least": ">="}

_NAME_CHARS = 46

MARKDOWN_HEAD = ("| what | measured | beside | ratio | wanted |\n| --- | --- | --- | --- | --- |",)


def lines(report: Plain) -> list[str]:
    """Return a report for a terminal: a line a figure, and one for what it stands beside."""
    shown = [machine_line(report)]
    for section, figures in groupby(report["figures"], key=lambda figure: figure["section"]):
        shown += ["", section]
        for column, group in groupby(figures, key=lambda figure: "column" in figure):
            if column:
                shown += _table_lines(list(group))
            else:
                for figure in group:
                    shown += _figure_lines(figure)
    return [*shown, "", *(f"warning: {warning}" for warning in report["warnings"])]


def machine_line(report: Plain) -> str:
    """Return on what all this was measured."""
    machine = report["machine"]
    return (
        f"{machine['cpus']} CPUs ({machine['cpu-model']}), "
        f"{machine['memory-bytes'] / (1 << 30):.0f} GiB, Linux {machine['kernel']}, "
        f"Python {machine['python']}; median (lowest to highest)"
    )


def markdown(figures: Iterable[Plain]) -> list[str]:
    """Return figures as the lines of a Markdown table."""
    return [*MARKDOWN_HEAD, *(_row(figure) for figure in figures)]


def amount(figure: Plain, unit: str) -> str:
    """Return a median and its range; of a single run, or where all are alike, just the figure."""
    median, lowest, highest = (_number(figure[key]) for key in ("median", "lowest", "highest"))
    shown = f"{median} {unit}".rstrip()
    return shown if lowest == highest else f"{shown} ({lowest} to {highest})"


def wanted(figure: Plain) -> str:
    """Return what was wanted of a figure, and whether it came to it; empty if nothing was."""
    if "target" not in figure:
        return ""
    target = figure["target"]
    unit = figure["unit"] if target["of"] == "value" else ""
    bound = f"{_BOUNDS[target['bound']]} {_number(target['value'])} {unit}".rstrip()
    return f"target {bound}: {verdict_on(figure).lower()}"


def verdict_on(figure: Plain) -> str:
    """Return the verdict on a figure; a report of before there were three has two."""
    return str(figure.get("verdict", REACHED if figure["met"] else MISSED))


def _figure_lines(figure: Plain) -> list[str]:
    first = f"  {figure['name']:<{_NAME_CHARS}} {amount(figure, figure['unit'])}"
    details = []
    if "limit" in figure:
        limit = figure["limit"]
        details.append(f"{amount(figure['ratio'], '')} x {limit['name']}")
        details.append(amount(limit, figure["unit"]))
    details += filter(None, [wanted(figure), figure.get("note", "")])
    return [first, f"      {'; '.join(details)}"] if details else [first]


def _table_lines(figures: Sequence[Plain]) -> list[str]:
    """Return figures that have columns: a line for each name but for its column.

    A cell has the median, what that is of the limit, and the verdict where something is wanted.
    """
    columns = list(dict.fromkeys(figure["column"] for figure in figures))
    rows: dict[str, dict[str, str]] = {}
    limits: dict[str, None] = {}
    for figure in figures:
        cells = rows.setdefault(figure["name"].removesuffix(f": {figure['column']}"), {})
        cells[figure["column"]] = _cell(figure)
        if "limit" in figure:
            limits[figure["limit"]["name"]] = None
    table = [["", *columns]]
    for name, cells in rows.items():
        table.append([name, *(cells.get(column, "") for column in columns)])
    widths = [max(map(len, each)) for each in zip(*table, strict=True)]
    shown = ["  ".join(["", *map(str.ljust, row, widths)]).rstrip() for row in table]
    return [*shown, *(f"  x: of {name}" for name in limits)]


def _cell(figure: Plain) -> str:
    shown = f"{_number(figure['median'])} {figure['unit']}".rstrip()
    if "ratio" in figure:
        shown += f" {_number(figure['ratio']['median'])}x"
    if "target" in figure:
        target = figure["target"]
        sign = ">=" if target["bound"] == "at-least" else "<="
        unit = "x" if target["of"] == "ratio" else f" {figure['unit']}".rstrip()
        shown += f" ({sign} {_number(target['value'])}{unit}: {verdict_on(figure).lower()})"
    return shown


def _row(figure: Plain) -> str:
    limit = figure.get("limit")
    cells = (
        figure["name"],
        amount(figure, figure["unit"]),
        f"{limit['name']}: {amount(limit, figure['unit'])}" if limit else "",
        amount(figure["ratio"], "") if limit else "",
        wanted(figure),
    )
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    """Return three digits that count, without an exponent."""
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"
