"""How far a sweep is: a line every ten seconds where there is no terminal."""

from __future__ import annotations

import sys

import pytest

from scripts.sweep.progress import Counted, counted_runs, logging


def test_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """It says how long the rest takes if it goes on as it did."""
    times = iter([0.0, 5.0, *[10.0] * 2, 15.0, *[20.0] * 2])
    counted = Counted(8, logging(lambda: next(times)))
    for _ in range(4):
        counted.took()
        counted.tick()
    assert capsys.readouterr().err.splitlines() == [
        "midstream: 2 of 8 runs, about 30 s left",
        "midstream: 4 of 8 runs, about 20 s left",
    ]


def test_nothing_is_told_before_a_run_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody knows yet how long one takes."""
    times = iter([0.0, 30.0])
    Counted(8, logging(lambda: next(times))).tick()
    assert not capsys.readouterr().err


def test_a_terminal_has_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows how many there are, and is complete in the end."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with counted_runs(2, quiet=False) as counted:
        for _ in range(2):
            counted.took()
            counted.tick()
    assert "2/2" in capsys.readouterr().err
    with counted_runs(2, quiet=True) as counted:
        counted.took()
        counted.tick()
    assert not capsys.readouterr().err
