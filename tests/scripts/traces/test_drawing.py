"""A footprint is drawn as a picture and in characters."""

from pathlib import Path

import numpy as np

from scripts.figures.plots import save
from scripts.traces.drawing import draw_footprint, draw_in_text, picture_cells


def test_a_picture_names_its_axes(tmp_path: Path) -> None:
    """The same footprint gives the same file, and one of a single access can be drawn, too."""
    grid = np.zeros(picture_cells(1 << 20))
    grid[3, 5] = 1
    names = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for name in names:
        save(draw_footprint(grid, 2.5, 8 << 20, is_timed=True, title="t.trace"), name)
    text = names[0].read_text(encoding="utf-8")
    assert text == names[1].read_text(encoding="utf-8")
    for words in ("time (s)", "address in the guest (MiB)", "t.trace", "accesses"):
        assert words in text
    untimed = tmp_path / "c.svg"
    save(draw_footprint(grid, 9, 8 << 20, is_timed=False, title=""), untimed)
    assert "access number" in untimed.read_text(encoding="utf-8")


def test_few_pages_have_a_row_each() -> None:
    """Else a page would be drawn over several, of which its accesses fill one."""
    assert picture_cells(1)[0] == 1
    assert picture_cells(104)[0] == 104
    assert picture_cells(1 << 20)[0] < 1000


def test_characters_are_darker_where_more_is_accessed() -> None:
    """Nothing is a blank, one access is seen beside a thousand, high addresses stand above."""
    low, high = draw_in_text(np.array([[0, 1, 30, 1000], [0, 0, 0, 0]]))[::-1]
    assert high == ""
    assert low[0] == " "
    assert low[1] != " "
    assert low[3] == "@"
    assert len(set(low)) == 4
