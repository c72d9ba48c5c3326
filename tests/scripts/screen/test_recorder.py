"""The events file: whole lines of JSON, soon and in order, whoever else writes to it."""

import json
import os
import time
from pathlib import Path

import pytest
import trio

from protocol.errors import MidstreamError
from protocol.events import PAGE_SENT, STATE
from scripts.screen.recorder import Recorder
from tests.helpers import nothing_left


def test_an_event_is_a_line_with_time_and_side(tmp_path: Path) -> None:
    """Fields come under the names of the events file, after time, side and name of the event."""
    before_ns = time.monotonic_ns()
    with Recorder("source", tmp_path / "events") as recorder:
        recorder(PAGE_SENT, block=0, page=7, channel="postcopy", urgent=True, latency_us=1.5)
    line = json.loads((tmp_path / "events").read_text(encoding="utf-8"))
    assert before_ns <= line.pop("t-ns") <= time.monotonic_ns()
    assert line == {
        "side": "source", "event": "page-sent", "block": 0, "page": 7, "channel": "postcopy",
        "urgent": True, "latency-us": 1.5,
    }  # fmt: skip


def test_no_line_is_lost_and_none_is_out_of_order(tmp_path: Path) -> None:
    """More events than are written together arrive complete, a state's change at once."""
    path = tmp_path / "events"
    with Recorder("dest", path) as recorder:
        for page in range(1000):
            recorder(PAGE_SENT, page=page)
        recorder(STATE, state="completed")
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [line.get("page") for line in lines] == [*range(1000), None]
        recorder(PAGE_SENT, page=1000)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1002


async def test_a_reader_need_not_wait_for_the_next_event(tmp_path: Path) -> None:
    """While it keeps flushing, an event is in the file a moment later."""
    path = tmp_path / "events"
    with Recorder("dest", path) as recorder, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recorder.keep_flushing)
            recorder(PAGE_SENT, page=1)
            while not path.read_bytes():  # noqa: ASYNC110  (what becomes of a file, no event tells)
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


def test_two_sides_share_a_file(tmp_path: Path) -> None:
    """With `append` neither truncates the file or overwrites the other's lines."""
    path = tmp_path / "events"
    path.write_text("of yesterday\n", encoding="utf-8")
    with Recorder("source", path) as one:
        one(STATE, state="setup")
        with Recorder("dest", path, append=True) as two:
            for _ in range(2):
                two(STATE, state="active")
                one(STATE, state="active")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["side"] for line in lines] == ["source", "dest", "source", "dest", "source"]


def test_a_pipe_gets_pieces_that_cannot_mix(tmp_path: Path) -> None:
    """What goes into a pipe at once is whole lines, and short enough to stay together."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    pieces: list[bytes] = []
    write = os.write

    def note(fd: int, data: bytes) -> int:
        pieces.append(bytes(data))
        return write(fd, data)

    with pytest.MonkeyPatch.context() as patch, Recorder("source", tmp_path / "pipe") as recorder:
        patch.setattr(os, "write", note)
        for page in range(200):
            recorder(PAGE_SENT, page=page)
        recorder.flush()
    data = os.read(reader, 1 << 16)
    os.close(reader)
    assert b"".join(pieces) == data
    assert len(data.splitlines()) == 200
    assert len(pieces) > 1
    assert all(piece.endswith(b"\n") and len(piece) <= 4096 for piece in pieces)


def test_a_full_disk_costs_the_events_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be written to is given up, once and with a line that says so."""
    with Recorder("source", Path("/dev/full")) as recorder:
        for _ in range(2):
            recorder(STATE, state="active")
    assert capsys.readouterr().err == (
        "source: from here on events are lost: No space left on device\n"
    )


def test_a_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """The error names the file and the reason."""
    with pytest.raises(MidstreamError, match=r"cannot write .*: No such file or directory"):
        Recorder("source", tmp_path / "missing" / "events")


def test_changes_of_state_are_told(tmp_path: Path) -> None:
    """A listener hears of each state, and of nothing else; no file is needed for that."""
    told: list[str] = []
    with Recorder("dest", None, on_state=told.append) as recorder:
        recorder(PAGE_SENT, page=1)
        recorder(STATE, state="device")
    assert told == ["dest: device"]


def test_a_spool_is_bounded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spool that is as large as it may be is given up; the events file goes on."""
    monkeypatch.setattr("scripts.screen.recorder.SPOOL_BYTES_MAX", 100)
    with Recorder("source", tmp_path / "events", spool=tmp_path / "spool") as recorder:
        assert recorder.is_heard
        for state in ("setup", "active", "device"):
            recorder(STATE, state=state)
    assert len((tmp_path / "events").read_bytes().splitlines()) == 3
    assert 100 <= len((tmp_path / "spool").read_bytes()) < 200
    assert capsys.readouterr().err == "source: from here on events are lost: File too large\n"


def test_a_spool_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    """The error is the spool's, and the events file is closed again."""
    with nothing_left(), pytest.raises(MidstreamError, match=r"cannot write .*missing"):
        Recorder("source", tmp_path / "events", spool=tmp_path / "missing" / "spool")
