"""The pictures of comparisons."""

from pathlib import Path

import pytest

from protocol.errors import MidstreamError
from scripts.figures.plots import draw_distributions, draw_growth, save


def test_distributions_have_units_and_a_legend(tmp_path: Path) -> None:
    """Each policy's line is named with its median, both axes have units, the wire has its line."""
    figure = draw_distributions(
        {"ordered": [1.0, 2.0, 3.0], "drop": [10.0], "none": []}, {"a page": 16.8}, "a title"
    )
    save(figure, tmp_path / "a.svg")

    text = (tmp_path / "a.svg").read_text()
    for words in ("a title", "ordered: median 2 ms, 3 faults", "(ms)", "(%)", "wire: a page"):
        assert words in text
    assert "none: median" not in text


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
