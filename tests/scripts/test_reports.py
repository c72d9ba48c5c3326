"""What a report says in the end of why a command failed; test_sides.py has reports written."""

import json
import os
from pathlib import Path

import click
import pytest

from guest import whole_file
from protocol.errors import (
    ConnectionLost,
    GuestFailed,
    MemoryLost,
    MidstreamError,
    MigrationCancelled,
    PolicySwitchedOff,
    WrongMemory,
)
from scripts.policies import WrongPolicy
from scripts.reports import (
    NOT_FINISHED,
    begin_report,
    cancel_report,
    put_reason,
    settle_report,
    write_report,
)


def test_a_reason_is_put_into_a_report_only(tmp_path: Path) -> None:
    """What holds no report is left as it is, for who then writes one."""
    path, cut = tmp_path / "report", ConnectionLost("cut")
    for text in ("", "[]", '{"status": "completed"}'):
        path.write_text(text, encoding="utf-8")
        assert not put_reason(path, cut)
        assert path.read_text(encoding="utf-8") == text
    assert not put_reason(tmp_path / "missing", cut)
    path.write_text('{"status": "failed", "midstream": {"reason": "?"}}', encoding="utf-8")
    assert put_reason(path, cut)
    told = json.loads(path.read_text(encoding="utf-8"))
    # What is said of it is said anew.
    assert told["midstream"].pop("verdict")["sentences"] == ["FAILED: cut."]
    assert told == {"status": "failed", "midstream": {"reason": "cut"}}


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConnectionLost("cut"), "failed"), (MigrationCancelled("why"), "cancelled")],
)
def test_who_was_called_off_was_not_cancelled(
    tmp_path: Path, error: MidstreamError, status: str
) -> None:
    """A side that is ended because the other has died reports a failure, not what a user wanted."""
    path = tmp_path / "report"
    path.write_text('{"status": "cancelled", "midstream": {"reason": "?"}}', encoding="utf-8")
    assert put_reason(path, error)
    assert json.loads(path.read_text(encoding="utf-8"))["status"] == status


def told(path: Path) -> tuple[str, str]:
    """Return status and reason of a report."""
    report = json.loads(path.read_text(encoding="utf-8"))
    return report["status"], report["midstream"]["reason"]


def test_a_report_is_there_from_the_beginning(tmp_path: Path) -> None:
    """It takes the place of an earlier one, and says that the run has not ended."""
    path = tmp_path / "report"
    path.write_text('{"status": "completed", "midstream": {"schema": "x"}}', encoding="utf-8")
    begin_report(str(path))
    assert told(path) == ("setup", NOT_FINISHED)
    begin_report(None)
    begin_report("-")


def test_what_is_no_file_has_one_report(tmp_path: Path) -> None:
    """A pipe's reader, or a device, gets the report of the end and nothing before."""
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with (tmp_path / "file").open("wb") as file:
        for target in (str(tmp_path / "fifo"), f"/dev/fd/{file.fileno()}", "/dev/full"):
            begin_report(target)
            settle_report(target, ConnectionLost("cut"))
            assert cancel_report(target) is None
    assert (tmp_path / "file").read_bytes() == b""
    # Nobody has it open for writing, and nobody had.
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConnectionLost("why"), "failed"),
        (GuestFailed("why"), "failed"),
        (MemoryLost("why"), "failed"),
        (MigrationCancelled("why"), "cancelled"),
        (WrongMemory("why"), "completed"),
    ],
)
@pytest.mark.parametrize("before", ["completed", "cancelled", "failed", "setup"])
def test_the_report_agrees_with_the_exit_status(
    tmp_path: Path, error: MidstreamError, status: str, before: str
) -> None:
    """Whatever it said before; what has been counted stays."""
    path = tmp_path / "report"
    report = {"status": before, "total-time": 7, "midstream": {"schema": "x"}}
    begin_report(str(path))
    path.write_text(json.dumps(report), encoding="utf-8")
    settle_report(str(path), error)
    assert told(path) == (before if status == "completed" else status, "why")
    assert json.loads(path.read_text(encoding="utf-8"))["total-time"] == 7


@pytest.mark.parametrize("error", [WrongMemory("why"), PolicySwitchedOff("why")])
def test_a_report_of_several_migrations_has_failed(tmp_path: Path, error: MidstreamError) -> None:
    """Of one the guest has moved all the same; a comparison has not done what it was to do."""
    path = str(tmp_path / "report")
    begin_report(path, "midstream-compare/1")
    settle_report(path, error, "midstream-compare/1")
    report = json.loads((tmp_path / "report").read_text(encoding="utf-8"))
    assert (report["status"], report["reason"]) == ("failed", "why")


def test_a_bug_leaves_no_old_report(tmp_path: Path) -> None:
    """A command that ends as nobody foresaw has failed, if it had begun."""
    path = tmp_path / "report"
    path.write_text('{"status": "completed", "midstream": {"schema": "x"}}', encoding="utf-8")
    settle_report(str(path), KeyError("x"))
    assert json.loads(path.read_text(encoding="utf-8"))["status"] == "completed"
    begin_report(str(path))
    settle_report(str(path), KeyError("x"))
    assert told(path) == ("failed", "internal error: KeyError: 'x'")


def test_what_is_asked_for_wrongly_leaves_an_earlier_report(tmp_path: Path) -> None:
    """Nothing has begun, not even what an earlier run was killed in; what has begun says why."""
    path = tmp_path / "report"
    wrong = WrongPolicy("no policy")
    for reason in ("why", NOT_FINISHED):
        text = json.dumps({"status": "failed", "midstream": {"schema": "x", "reason": reason}})
        path.write_text(text, encoding="utf-8")
        for error in (wrong, click.UsageError("wrong")):
            settle_report(str(path), error)
            assert path.read_text(encoding="utf-8") == text
    begin_report(str(path))
    settle_report(str(path), wrong)
    assert told(path) == ("failed", "no policy")


def test_a_signal_before_anything_has_begun(tmp_path: Path) -> None:
    """Then too there is a report, and no earlier one."""
    path = tmp_path / "report"
    for before in ("", '{"status": "completed", "midstream": {"schema": "x"}}'):
        path.write_text(before, encoding="utf-8")
        tell = cancel_report(str(path))
        assert tell is not None
        tell("cancelled by SIGINT")
        assert told(path) == ("cancelled", "cancelled by SIGINT")


def test_a_report_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Who has opened the earlier one reads that to its end; nothing else lies in the folder."""
    path = tmp_path / "report"
    write_report(str(path), {"status": "one"})
    with path.open(encoding="utf-8") as file:
        write_report(str(path), {"status": "two"})
        assert json.load(file) == {"status": "one"}
    assert json.loads(path.read_text(encoding="utf-8")) == {"status": "two"}
    assert [each.name for each in tmp_path.iterdir()] == ["report"]


def test_a_file_in_a_folder_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no file can be made, one that is there is written as it is."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(whole_file, "_open_unnamed", refuse)
    path = tmp_path / "report"
    path.touch()
    write_report(str(path), {"status": "one"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"status": "one"}


def test_json_goes_to_a_file_or_to_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name is a file's, a dash is standard output."""
    write_report(str(tmp_path / "a.json"), {"a": 1})
    write_report("-", {"b": 2})

    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert json.loads(capsys.readouterr().out) == {"b": 2}


def test_json_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(MidstreamError, match="cannot write"):
        write_report(str(tmp_path / "missing" / "a.json"), {})


def test_figures_of_an_earlier_run_go_with_it(tmp_path: Path) -> None:
    """A command that ends before it has begun leaves why, and nothing that another counted."""
    path = tmp_path / "report"
    path.write_text(
        '{"status": "completed", "midstream": {"schema": "x", "recoveries": 3}}', encoding="utf-8"
    )
    settle_report(str(path), MigrationCancelled("cancelled by SIGINT"))
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told["status"] == "cancelled"
    assert set(told["midstream"]) == {"schema", "reason"}
