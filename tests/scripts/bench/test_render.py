"""Figures for people: lines of a terminal, rows of Markdown."""

import re
from typing import Any

import pytest

from scripts.bench import render
from scripts.bench.figure import Figure, Limit, Target

REACHED = Figure(
    "stream", "precopy", "GB/s", (2.0, 3.0), Limit("the plain pair", (4.0, 4.0)),
    Target(0.5, at_least=True),
)  # fmt: skip
MISSED = Figure("scheduler", "decisions", "/s", (12_345.0,), target=Target(
    100_000, at_least=True, of_ratio=False), note="alone")  # fmt: skip


def report(*figures: Figure, warnings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a report with these figures."""
    machine = {
        "cpus": 2, "cpu-model": "a CPU", "memory-bytes": 8 << 30, "kernel": "6.1", "python": "3.11"
    }  # fmt: skip
    return {
        "machine": machine,
        "warnings": list(warnings),
        "figures": [figure.to_plain() for figure in figures],
    }


def test_lines_have_figure_limit_and_verdict() -> None:
    """Sections head their figures; each shows its range, its ratio and what was wanted of it."""
    lines = render.lines(report(REACHED, MISSED, warnings=("too loud",)))

    assert lines[0].startswith("2 CPUs (a CPU), 8 GiB, Linux 6.1, Python 3.11")
    assert lines[1:3] == ["", "stream"]
    assert re.fullmatch(r"  precopy +2\.5 GB/s \(2 to 3\)", lines[3])
    assert "0.625 (0.5 to 0.75) x the plain pair; 4 GB/s; at least 0.5: reached" in lines[4]
    assert re.fullmatch(r"  decisions +12,300 /s", lines[7])
    assert lines[8].strip() == "at least 100,000 /s: MISSED; alone"
    assert lines[-1] == "warning: too loud"


def test_markdown_has_a_row_a_figure() -> None:
    """Every row has as many cells as the head."""
    rows = render.markdown(report(REACHED, MISSED)["figures"])

    assert {row.count("|") for row in "\n".join(rows).splitlines()} == {6}
    assert rows[1] == (
        "| precopy | 2.5 GB/s (2 to 3) | the plain pair: 4 GB/s | 0.625 (0.5 to 0.75) "
        "| at least 0.5: reached |"
    )


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (0.01234, "0.0123"), (99.96, "100"), (123_456.0, "123,000")]
)
def test_three_digits_count(value: float, shown: str) -> None:
    """No figure pretends to be more exact than it is, and none has an exponent."""
    assert render.amount(Figure("s", "a", "", (value,)).to_plain(), "") == shown
