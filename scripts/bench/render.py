"""Figures as lines for a terminal and as rows of a Markdown table, both from the report's JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

Plain = Mapping[str, Any]

_NAME_CHARS = 46

MARKDOWN_HEAD = ("| what | measured | beside | ratio | wanted |\n| --- | --- | --- | --- | --- |",)


def lines(report: Plain) -> list[str]:
    """Return a report for a terminal: a line a figure, and one for what it stands beside."""
    shown = [machine_line(report)]
    for section, figures in groupby(report["figures"], key=lambda figure: figure["section"]):
        shown += ["", section]
        for figure in figures:
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
    bound = f"{target['bound'].replace('-', ' ')} {_number(target['value'])} {unit}".rstrip()
    return f"{bound}: {'reached' if figure['met'] else 'MISSED'}"


def _figure_lines(figure: Plain) -> list[str]:
    first = f"  {figure['name']:<{_NAME_CHARS}} {amount(figure, figure['unit'])}"
    details = []
    if "limit" in figure:
        limit = figure["limit"]
        details.append(f"{amount(figure['ratio'], '')} x {limit['name']}")
        details.append(amount(limit, figure["unit"]))
    details += filter(None, [wanted(figure), figure.get("note", "")])
    return [first, f"      {'; '.join(details)}"] if details else [first]


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
