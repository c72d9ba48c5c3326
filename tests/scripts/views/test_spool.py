"""A spool gives out whole lines while they come, leaves no file, and ends in the views wanted."""

import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from protocol.errors import MidstreamError
from scripts.reports import Outputs
from scripts.views.spool import open_spool, viewed
from tests.bounds import nothing_left
from tests.stories import half_sent, write


def append(path: Path, data: bytes) -> None:
    """Append to a file as a side does."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, data)
    os.close(fd)


def test_lines_are_given_out_once_and_whole() -> None:
    """What is half written is given out when the rest is there."""
    with nothing_left(), open_spool() as spool:
        assert spool.read_new(100) == []
        append(spool.path, b"one\ntw")
        assert spool.read_new(100) == [b"one"]
        append(spool.path, b"o\nthree\n")
        assert spool.read_new(100) == [b"two", b"three"]
        assert spool.read_new(100) == []
        assert list(spool.read_all()) == [b"one", b"two", b"three"]


def test_a_spool_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed leaves nothing behind, for there is no name to be left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_spool():
        assert list(tmp_path.iterdir()) == []


def test_without_room_there_is_no_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The complaint names the folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(MidstreamError, match=r"cannot keep events in .*missing"), open_spool():
        pass


def test_who_wants_nothing_gets_no_spool() -> None:
    """Without views nothing is kept, unless the run is watched."""
    with viewed(Outputs()) as spool:
        assert spool is None
    with viewed(Outputs(), live=True) as spool:
        assert spool is not None


@pytest.mark.parametrize("fails", [False, True])
def test_views_are_written_in_the_end(tmp_path: Path, fails: bool) -> None:
    """Also of a run that failed; its failure goes on."""
    wanted = Outputs(perfetto=str(tmp_path / "trace"), html=str(tmp_path / "html"))
    events = write(tmp_path / "events", half_sent()).read_bytes()
    with (
        pytest.raises(MidstreamError, match="the run failed") if fails else nullcontext(),
        viewed(wanted) as spool,
    ):
        assert spool is not None
        append(spool.path, events)
        if fails:
            raise MidstreamError("the run failed")
    trace = json.loads((tmp_path / "trace").read_text(encoding="utf-8"))
    assert any(event["name"] == "boosted page 5" for event in trace["traceEvents"])
    assert "boosted" in (tmp_path / "html").read_text(encoding="utf-8")


def test_a_view_that_cannot_be_written_is_an_error_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It fails a run that was good; beside a failure it is only told."""
    with (
        pytest.raises(MidstreamError, match="cannot write /dev/full: No space left"),
        viewed(Outputs(perfetto="/dev/full")) as spool,
    ):
        assert spool is not None
    with (
        pytest.raises(MidstreamError, match="the run failed"),
        viewed(Outputs(perfetto="/dev/full")),
    ):
        raise MidstreamError("the run failed")
    assert capsys.readouterr().err == "midstream: cannot write /dev/full: No space left on device\n"
