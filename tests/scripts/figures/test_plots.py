"""The pictures of comparisons."""

from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from guest.latency import summary_of
from protocol.errors import MidstreamError
from protocol.policy import PRESETS
from scripts.figures.plots import draw_distributions, draw_growth, look_of, save
from scripts.qemu.against import ROWS
from scripts.screen.words import time_us


def test_distributions_have_units_and_a_legend(tmp_path: Path) -> None:
    """Lines are named with median and longest, ticks have units, the wire has its line."""
    figure = draw_distributions(
        {"ordered": [1.0, 2.0, 3.0], "drop": [10.0], "none": []}, {"a page": 16.8}, "a title"
    )
    save(figure, tmp_path / "a.svg")

    text = (tmp_path / "a.svg").read_text()
    for words in (
        *("a title", "ordered: median 2 ms, longest 3 ms, 3 faults"),
        *("10 ms", "100 %", "wire: a page, 16.8 ms"),
    ):
        assert words in text
    assert "none: median" not in text


def test_the_median_is_that_of_the_table_beside_it() -> None:
    """Of an even number of faults, too, and to the digits that are shown."""
    waits_ms = [8.87, 8.88, 8.1, 9.3]
    figure = draw_distributions({"ordered": waits_ms}, {}, "")
    p50_us = summary_of(round(wait * 1e6) for wait in waits_ms).p50_us
    (line,) = figure.axes[0].lines
    assert f"median {time_us(p50_us)}," in str(line.get_label())


def test_a_fault_in_a_hundred_is_seen() -> None:
    """Each line goes from all faults down to the share of the longest, where it has its mark."""
    figure = draw_distributions({"drop": [*[1.0] * 99, 1000.0]}, {}, "")
    (line,) = figure.axes[0].lines
    times, shares = (np.asarray(each) for each in line.get_data())
    assert (times[0], shares[0]) == (1.0, 100.0)
    assert (times[-1], shares[-1]) == (1000.0, 1.0)
    assert line.get_markevery() == [-1]


def test_a_run_without_a_fault_has_a_picture(tmp_path: Path) -> None:
    """One with axes, and with no legend of nothing."""
    save(draw_distributions({"ordered": []}, {}, "a title"), tmp_path / "a.svg")
    assert "a title" in (tmp_path / "a.svg").read_text()


def test_a_policy_looks_the_same_in_each_picture() -> None:
    """Its colour does not depend on which others are drawn."""
    alone = draw_growth({"ordered": {10: 1.0}}, "").axes[0].lines[0]
    beside = draw_growth({"drop": {10: 2.0}, "ordered": {10: 1.0}}, "").axes[0].lines[1]
    assert alone.get_color() == beside.get_color()
    assert alone.get_marker() == beside.get_marker()


def test_no_two_rows_look_the_same() -> None:
    """Neither a QEMU's nor that of a policy of one's own is taken for one that is known."""
    names = [*PRESETS, *ROWS, *(f"mine-{number}" for number in range(20))]
    looks = [look_of(name, number) for number, name in enumerate(names)]
    assert len({(look["color"], look["linestyle"], look["marker"]) for look in looks}) == len(names)


def test_a_picture_can_be_read_on_a_dark_page(tmp_path: Path) -> None:
    """It has no ground of its own, and its ink turns light where its reader's page is dark."""
    save(draw_growth({"drop": {10: 5.0}}, "a title"), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    ET.fromstring(text)
    assert "prefers-color-scheme: dark" in text
    assert "fill: #ffffff" not in text


def test_growth_names_both_axes(tmp_path: Path) -> None:
    """Waits are drawn over the number of requests, with what they come to."""
    save(draw_growth({"drop": {10: 5.0, 100: 50.0}}, "a title"), tmp_path / "a.svg")

    text = (tmp_path / "a.svg").read_text()
    assert "page requests in the trace" in text
    assert "50 ms" in text


def test_the_same_figures_give_the_same_file(tmp_path: Path) -> None:
    """A picture has no date and no chance in it."""
    for name in ("a.svg", "b.svg"):
        save(draw_growth({"drop": {10: 5.0}}, "a title"), tmp_path / name)

    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("name", ["missing/a.svg", "a.nothing"])
def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path, name: str) -> None:
    """A folder that is not there, or an ending that says nothing, is one clear error."""
    with pytest.raises(MidstreamError, match="cannot write"):
        save(draw_growth({"drop": {10: 5.0}}, "a title"), tmp_path / name)
