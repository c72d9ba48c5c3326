"""Figures beside their limits, and how they read: on a terminal, in a table."""

from __future__ import annotations

import re
from typing import Any

import pytest

from scripts.bench.figure import Figure, Limit, Target, amount, lines, markdown, wanted


def test_ratios_are_of_neighbours() -> None:
    """Each run is held against the limit of its own round, or against the only one there is."""
    runs = Figure("s", "a", "GB/s", (1.0, 3.0, 0.9), Limit("b", (2.0, 4.0, 1.0)))
    alone = Figure("s", "a", "ms", (10.0, 30.0), Limit("wire", (20.0,)))

    assert runs.ratios == (0.5, 0.75, 0.9)
    assert alone.ratios == (0.5, 1.5)
    assert runs.to_plain()["ratio"] == {"median": 0.75, "lowest": 0.5, "highest": 0.9}


@pytest.mark.parametrize(
    ("target", "is_met"),
    [
        (Target(0.75, at_least=True), True),
        (Target(0.76, at_least=True), False),
        (Target(0.75), True),
        (Target(0.74), False),
        (Target(1.5, at_least=True, of_ratio=False), True),
        (Target(1.4, of_ratio=False), False),
    ],
)
def test_the_median_is_judged(target: Target, is_met: bool) -> None:
    """A bound itself is reached, and one bad run of three changes nothing."""
    figure = Figure("s", "a", "ms", (1.0, 1.5, 90.0), Limit("b", (2.0, 2.0, 2.0)), target)

    assert figure.is_met is is_met
    assert figure.to_plain()["met"] is is_met


def test_json_holds_every_run() -> None:
    """What was measured can be worked with later: all values, and nothing of a missing target."""
    plain = Figure("s", "a", "ms", (1.0, 5.0, 2.0), note="so it is").to_plain()

    assert plain["values"] == [1.0, 5.0, 2.0]
    assert (plain["lowest"], plain["median"], plain["highest"]) == (1.0, 2.0, 5.0)
    assert plain["note"] == "so it is"
    assert not {"limit", "ratio", "target", "met"} & plain.keys()


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


def test_what_a_noisy_machine_does_not_reach_is_inconclusive() -> None:
    """What it reaches it has reached; what is missed says so only where the machine was quiet."""
    assert MISSED.to_plain()["verdict"] == "MISSED"
    noisy = MISSED.to_plain(is_noisy=True)
    assert (noisy["met"], noisy["verdict"]) == (False, "inconclusive")
    assert wanted(noisy) == "target >= 100,000 /s: inconclusive"
    assert REACHED.to_plain(is_noisy=True)["verdict"] == "reached"
    del noisy["verdict"]
    assert wanted(noisy).endswith(": missed"), "as reports of before say"
    assert "verdict" not in Figure("s", "a", "ms", (1.0,)).to_plain(is_noisy=True)


def test_figures_with_columns_make_a_table() -> None:
    """A line for each name, a cell for each column, one below the other."""
    figures = [
        Figure("s", f"{name}: {column}", "ms", (value,), column=column)
        for name, value in (("one", 1.0), ("another one", 2.0))
        for column in ("p50", "p99")
    ]
    shown = lines(report(Figure("s", "alone", "s", (3.0,)), *figures))
    start = shown.index("s") + 2
    assert shown[start : start + 3] == [
        "               p50   p99",
        "  one          1 ms  1 ms",
        "  another one  2 ms  2 ms",
    ]


def test_lines_have_figure_limit_and_verdict() -> None:
    """Sections head their figures; each shows its range, its ratio and what was wanted of it."""
    shown = lines(report(REACHED, MISSED, warnings=("too loud",)))

    assert shown[0].startswith("2 CPUs (a CPU), 8 GiB, Linux 6.1, Python 3.11")
    assert shown[1:3] == ["", "stream"]
    assert re.fullmatch(r"  precopy +2\.5 GB/s \(2 to 3\)", shown[3])
    assert "0.625 (0.5 to 0.75) x the plain pair; 4 GB/s; target >= 0.5: reached" in shown[4]
    assert re.fullmatch(r"  decisions +12,300 /s", shown[7])
    assert shown[8].strip() == "target >= 100,000 /s: missed; alone"
    assert shown[-1] == "warning: too loud"


def test_markdown_has_a_row_a_figure() -> None:
    """Every row has as many cells as the head."""
    rows = markdown(report(REACHED, MISSED)["figures"])

    assert {row.count("|") for row in "\n".join(rows).splitlines()} == {6}
    assert rows[1] == (
        "| precopy | 2.5 GB/s (2 to 3) | the plain pair: 4 GB/s | 0.625 (0.5 to 0.75) "
        "| target >= 0.5: reached |"
    )


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (0.01234, "0.0123"), (99.96, "100"), (123_456.0, "123,000")]
)
def test_three_digits_count(value: float, shown: str) -> None:
    """No figure pretends to be more exact than it is, and none has an exponent."""
    assert amount(Figure("s", "a", "", (value,)).to_plain(), "") == shown
