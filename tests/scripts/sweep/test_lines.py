"""The file of lines: it is only added to, mended at its end, and one sweep's alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocol.errors import MidstreamError
from scripts.sweep.lines import FILE_NAME, open_lines
from scripts.sweep.running import SCHEMA, Line


def line(key: str, status: str = "completed") -> Line:
    """Return a line that says no more than it must."""
    return {"schema": SCHEMA, "key": key, "status": status}


def test_what_is_done_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    """A run that failed is not done; the last line of a key counts."""
    with open_lines(tmp_path / "out") as lines:
        for each in (line("a"), line("b", "failed"), line("c", "failed"), line("c")):
            lines.add(each)
    with open_lines(tmp_path / "out") as lines:
        assert [lines.has(key) for key in "abcd"] == [True, False, True, False]
        assert lines.get("b") == line("b", "failed")
        assert lines.get("d") is None
        assert not lines.mended


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, kept: int) -> None:
    """Wherever it was torn: whole lines stay as they are, and the next is one of its own."""
    path = tmp_path / FILE_NAME
    whole = json.dumps(line("a")) + "\n"
    torn = (json.dumps(line("b")) + "\n")[:kept]
    path.write_text(whole + torn, encoding="utf-8")
    with open_lines(tmp_path) as lines:
        assert lines.mended == len(torn)
        assert lines.has("a")
        assert not lines.has("b")
        lines.add(line("c"))
    assert path.read_text(encoding="utf-8") == whole + json.dumps(line("c")) + "\n"


@pytest.mark.parametrize("text", ["", "{}", "[]", "7", '{"schema": "midstream-report/1"}'])
def test_another_file_is_left_alone(tmp_path: Path, text: str) -> None:
    """A line that is none is told with its number, and nothing is cut off."""
    path = tmp_path / FILE_NAME
    held = f"{json.dumps(line('a'))}\n{text}\ntorn"
    path.write_text(held, encoding="utf-8")
    with (
        pytest.raises(MidstreamError, match=r"runs\.jsonl:2: this is no line"),
        open_lines(tmp_path),
    ):
        pass
    assert path.read_text(encoding="utf-8") == held


def test_two_sweeps_do_not_write_one_file(tmp_path: Path) -> None:
    """The second is refused as long as the first is there."""
    with (
        open_lines(tmp_path),
        pytest.raises(MidstreamError, match="another sweep writes it"),
        open_lines(tmp_path),
    ):
        pass
    with open_lines(tmp_path):
        pass
