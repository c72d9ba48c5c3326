"""What the pictures of a sweep show: medians over the other axes, and who wins where."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from scripts.figures.plots import svg_of
from scripts.results.rows import Row
from scripts.sweep.pictures import (
    MEASURES,
    Winner,
    draw_effects,
    draw_winners,
    known_measures,
    medians,
    shown_axes,
    winners,
)

AXES: dict[str, list[Any]] = {
    "policy": ["ordered", "drop"], "rtt": ["0", "1ms"], "vcpus": [1, 4], "seed": [0, 1, 2],
}  # fmt: skip
P50 = MEASURES[0]


def rows() -> list[Row]:
    """Return a row for each point: `drop` wins without a round trip, `ordered` with one."""
    found = []
    for policy, rtt, vcpus, seed in product(*AXES.values()):
        ms = vcpus * 10 + seed + (5 if (policy == "ordered") == (rtt == "0") else 0)
        found.append({
            "axis.policy": policy, "axis.rtt": rtt, "axis.vcpus": vcpus, "axis.seed": seed,
            "faults.p50-us": ms * 1000, "faults.p99-us": None, "total-time": 7,
        })  # fmt: skip
    return found


def test_a_median_is_over_all_other_axes() -> None:
    """Of three seeds the middle one; of two vCPU counts what lies between."""
    found = medians(rows(), P50, ["policy", "rtt", "vcpus"])
    assert found["drop", "0", "1"] == 11
    assert found["ordered", "0", "4"] == 46
    assert medians(rows(), P50, ["policy"])["drop",] == pytest.approx((12 + 5 + 40) / 2)


def test_who_wins_has_the_lowest_median() -> None:
    """With how many times as much the next one takes."""
    assert winners(rows(), P50, ["rtt", "vcpus"]) == {
        ("0", "1"): Winner("drop", 11, 16 / 11), ("0", "4"): Winner("drop", 41, 46 / 41),
        ("1ms", "1"): Winner("ordered", 11, 16 / 11), ("1ms", "4"): Winner("ordered", 41, 46 / 41),
    }  # fmt: skip


def test_seeds_and_single_values_are_no_axes_of_a_picture() -> None:
    """Nor are policies, which are its lines."""
    assert shown_axes({**AXES, "link": ["1Gbit/s"]}) == ["rtt", "vcpus"]


def test_figures_that_no_run_has_are_left_out() -> None:
    """A model of a noisy machine tells no tails."""
    assert [each.title for each in known_measures(rows())] == ["fault p50", "total time"]


def test_effects_are_a_row_an_axis_and_a_column_a_figure() -> None:
    """Each panel says what it shows, and each line whose it is."""
    figure = draw_effects(rows(), AXES)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        "fault p50 over rtt", "total time over rtt", "fault p50 over vcpus", "total time over vcpus"
    ]  # fmt: skip
    (first, second) = figure.axes[0].get_lines()
    assert (first.get_label(), second.get_label()) == ("ordered", "drop")
    for line, heights in ((first, [31, 26]), (second, [26, 31])):
        assert np.asarray(line.get_ydata()).tolist() == heights


def test_a_map_names_who_wins_and_where_nobody_does() -> None:
    """All have the same total time."""
    svg = svg_of(draw_winners(rows(), AXES))
    for text in ("lowest fault p50", ">drop<", ">ordered<", ">next 1.45 times<", ">no winner<"):
        assert text in svg


def test_a_sweep_without_policies_has_one_line() -> None:
    """And one axis makes a map of one row."""
    one = [row for row in rows() if row["axis.policy"] == "drop"]
    figure = draw_effects(one, {"vcpus": [1, 4]})
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["all runs"]
    axes: dict[str, list[Any]] = {"policy": ["ordered", "drop"], "seed": [0], "vcpus": [1, 4]}
    assert "no winner" in svg_of(draw_winners(rows(), axes))
