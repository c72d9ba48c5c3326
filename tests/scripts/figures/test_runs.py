"""Runs of `midstream migrate` by other commands."""

import json
from pathlib import Path

import pytest

from protocol.errors import MidstreamError, MigrationError
from scripts.figures.runs import run_migration, write_json


def test_a_run_returns_its_report(tmp_path: Path) -> None:
    """A migration that completes gives its report."""
    report = run_migration({"size": "8MiB", "program": "scripted", "hold": ""}, tmp_path)

    assert report["status"] == "completed"
    assert report["ram"]["total"] == 8 << 20


def test_a_failing_run_gives_its_reason(tmp_path: Path) -> None:
    """A migration that fails raises with the line that it printed."""
    with pytest.raises(MigrationError, match="no-such-policy"):
        run_migration({"size": "8MiB", "policy": "no-such-policy"}, tmp_path)


def test_json_goes_to_a_file_or_to_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name is a file's, a dash is standard output."""
    write_json(str(tmp_path / "a.json"), {"a": 1})
    write_json("-", {"b": 2})

    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert json.loads(capsys.readouterr().out) == {"b": 2}


def test_json_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(MidstreamError, match="cannot write"):
        write_json(str(tmp_path / "missing" / "a.json"), {})
