"""Files of an earlier run, which this one might leave worse."""

import os
from pathlib import Path

import pytest

from scripts.screen.earlier import Earlier, holds_earlier, tell_left


def test_only_a_file_has_something_to_lose(tmp_path: Path) -> None:
    """Not one that is empty, a pipe, a device, what is not there, or what the user has opened."""
    os.mkfifo(tmp_path / "fifo")
    for name, text in (("full", "x"), ("empty", "")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert holds_earlier(tmp_path / "full")
    with (tmp_path / "full").open(encoding="utf-8") as file:
        own = Path(f"/dev/fd/{file.fileno()}")
        for path in (tmp_path / "fifo", tmp_path / "empty", tmp_path / "missing", tmp_path, own):
            assert not holds_earlier(path)
    assert not holds_earlier(Path("/dev/full"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_file_that_cannot_be_looked_at_has_nothing(tmp_path: Path) -> None:
    """Whoever opens it says why."""
    (tmp_path / "closed").mkdir(mode=0)
    assert not holds_earlier(tmp_path / "closed" / "file")


def test_who_waits_for_another_appends() -> None:
    """Two that emptied one file would lose each other's lines."""
    assert [each for each in Earlier if each.appends] == [Earlier.KEPT, Earlier.AWAITED]


def test_a_file_that_was_left_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line."""
    tell_left("run.jsonl")
    told = capsys.readouterr().err
    assert told == "midstream: nothing was migrated, and run.jsonl is as it was\n"
