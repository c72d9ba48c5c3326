"""The page of a sweep is one file, says what it shows, and draws what there is to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.results.rows import Row
from scripts.sweep import page as pages
from scripts.sweep.page import EFFECTS, WINNERS, pictures_of, write_page

AXES: dict[str, list[Any]] = {"policy": ["ordered", "drop"], "set": [["noise-ns=1"], "a<b=1"]}


def rows(status: str = "completed", command: str = "simulate") -> list[Row]:
    """Return a row a point."""
    return [
        {
            "axis.policy": policy, "axis.set": told, "status": status, "command": command,
            "total-time": 100 if policy == "drop" else 200,
        }
        for policy in AXES["policy"]
        for told in ("noise-ns=1", "a<b=1")
    ]  # fmt: skip


def page_of(rows: list[Row], axes: dict[str, list[Any]]) -> str:
    """Return a page with its pictures."""
    return pages.page_of(rows, axes, pictures_of(rows, axes))


def test_a_page_has_axes_and_pictures() -> None:
    """Nothing is asked of another file, and no text is taken for markup."""
    page = page_of(rows(), AXES)
    assert "4 runs, simulated: a model, and nothing was measured." in page
    assert "<th>set</th><td>noise-ns=1, a&lt;b=1</td>" in page
    assert page.count("<svg ") == 2
    assert "total time over set" in page
    assert "lowest total time" in page
    assert "a<b" not in page
    assert "<link" not in page
    assert "<img" not in page


def test_real_runs_are_said_to_be() -> None:
    """Nobody takes the one for the other."""
    assert "4 runs, real." in page_of(rows(command="migrate"), AXES)


def test_what_failed_is_counted_and_not_shown() -> None:
    """A page without runs is one all the same."""
    page = page_of([*rows()[:1], *rows("failed")[1:]], AXES)
    assert "1 run, simulated" in page
    assert "3 runs have failed, and are not shown." in page
    assert "<svg" not in page_of(rows("failed"), AXES)


def test_an_axis_of_seeds_alone_has_no_picture() -> None:
    """There is nothing to draw it over."""
    assert "No picture:" in page_of(rows(), {"policy": ["ordered", "drop"], "seed": [1, 2]})


def test_pictures_are_files_of_their_own(tmp_path: Path) -> None:
    """They stand beside the page, for light pages and dark ones; one that is over is removed."""
    write_page(rows(), AXES, tmp_path)
    for name in (EFFECTS, WINNERS):
        assert "prefers-color-scheme: dark" in (tmp_path / name).read_text()
    write_page(rows()[:2], {**AXES, "policy": ["ordered"]}, tmp_path)
    assert (tmp_path / EFFECTS).exists()
    assert not (tmp_path / WINNERS).exists()
