"""After a terminal has got another size nothing is left of the picture that was on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.views.redraw import Drawn, Size
from tests.processes import ROOT, SECONDS_MAX, environment_of
from tests.scripts.views.test_terminal import lines_of, midway

SIZES = [(80, 24), (60, 24), (40, 24), (100, 24), (80, 10), (80, 30), (30, 8), (120, 30), (80, 24)]

# Draws the story of the half-sent page again and again, on a terminal of any size.
ARTIST = """
import time
from scripts.views.terminal import Screen
from tests.scripts.views.test_terminal import NOW_NS, midway
state = midway()
with Screen() as screen:
    while True:
        screen.show(state, NOW_NS)
        time.sleep(0.05)
"""


def test_nothing_is_cleared_where_nothing_changed() -> None:
    """Nor before anything was drawn."""
    drawn = Drawn()
    assert drawn.resized(Size(80, 24)) is None
    drawn.drew([10, 20], Size(80, 24))
    assert drawn.resized(Size(80, 24)) is None
    assert drawn.resized(Size(80, 25)) == 1
    # What was cleared is not there any more.
    assert drawn.resized(Size(80, 26)) is None


def test_a_line_that_wraps_is_several() -> None:
    """And an empty one is one."""
    drawn = Drawn()
    drawn.drew([79, 0, 40, 41], Size(80, 24))
    assert drawn.resized(Size(40, 24)) == 2 + 1 + 1 + 2 - 1


def test_what_was_above_the_top_comes_back() -> None:
    """Where a terminal was too low for a picture, a higher one is cleared to its top."""
    drawn = Drawn()
    drawn.drew([10] * 20, Size(80, 24))
    assert drawn.resized(Size(80, 8)) == 7
    drawn.drew([10] * 6, Size(80, 8))
    assert drawn.resized(Size(79, 8)) == 5
    drawn.drew([10] * 6, Size(79, 8))
    assert drawn.resized(Size(79, 13)) == 12
    drawn.drew([10] * 6, Size(79, 13))
    # Lines that no longer wrap make room, too.
    assert drawn.resized(Size(80, 13)) == 12


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 79), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(1, 120), st.integers(1, 40)), max_size=6),
)
def test_no_more_is_cleared_than_there_is(widths: list[int], sizes: list[tuple[int, int]]) -> None:
    """The cursor never leaves the terminal, whatever sizes follow each other."""
    drawn = Drawn()
    before = Size(80, 40)
    for size in map(Size._make, sizes):
        drawn.drew(widths, before)
        up = drawn.resized(size)
        assert (up is None) == (size == before)
        assert up is None or 0 <= up < size.rows
        before = size


class Pane:
    """A program in a pane of tmux, which wraps lines anew."""

    def __init__(self, folder: Path) -> None:
        """Take a folder for the server's socket."""
        # What a shell exported of its size says nothing of the pane's.
        self._environment = environment_of(
            {"TMUX_TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "COLUMNS": "80", "LINES": "24"}
        )
        self._environment.pop("TMUX", None)

    def tmux(self, *arguments: str) -> str:
        """Give an order; return what it prints."""
        return subprocess.run(
            ["tmux", "-f", os.devnull, *arguments],
            env=self._environment, check=True, capture_output=True, encoding="utf-8", timeout=30,
        ).stdout  # fmt: skip

    def lines(self) -> list[str]:
        """Return what is seen, without what is empty below."""
        return self.tmux("capture-pane", "-p").rstrip().splitlines()


@pytest.mark.skipif(shutil.which("tmux") is None, reason="this machine has no tmux")
def test_a_terminal_of_another_size_shows_one_picture(tmp_path: Path) -> None:
    """Narrower, wider, lower and higher: each line of the picture is there once, all at once."""
    pane = Pane(tmp_path)
    artist = tmp_path / "artist.py"
    artist.write_text(ARTIST, encoding="utf-8")
    pane.tmux(
        "new-session", "-d", "-x", "80", "-y", "24", "-c", str(ROOT),
        "-e", "TERM=tmux-256color", sys.executable, str(artist),
    )  # fmt: skip
    try:
        for columns, rows in SIZES:
            pane.tmux("resize-window", "-x", str(columns), "-y", str(rows))

            wanted = "\n".join(lines_of(midway(), columns, rows)).rstrip().splitlines()
            wanted = [line.rstrip() for line in wanted]
            deadline = time.monotonic() + SECONDS_MAX
            while (seen := pane.lines()) != wanted and time.monotonic() < deadline:
                time.sleep(0.05)
            assert seen == wanted
    finally:
        pane.tmux("kill-server")
