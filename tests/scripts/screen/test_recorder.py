"""The events file: whole lines of JSON, soon and in order, whoever else writes to it."""

import json
import os
import select
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from protocol import events
from protocol.errors import MidstreamError, MigrationCancelled
from scripts.screen.earlier import Earlier
from scripts.screen.recorder import Recorder
from tests.bounds import nothing_left
from tests.processes import until


def sent(page: int) -> events.PageSent:
    """Return the event of a page that was asked for."""
    return events.PageSent(
        block=0, page=page, channel="postcopy", urgent=True, boosted=False,
        channel_bytes=10, remaining_bytes=20,
    )  # fmt: skip


def test_an_event_is_a_line_with_time_and_side(tmp_path: Path) -> None:
    """Fields come under the names of the events file, after time, side and name of the event."""
    before_ns = time.monotonic_ns()
    with Recorder("source", tmp_path / "events") as recorder:
        recorder(sent(7))
        recorder(events.PassEnd(index=0, bytes=9, ms=1.5))
    text = (tmp_path / "events").read_text(encoding="utf-8")
    line, other = map(json.loads, text.splitlines())
    assert before_ns <= line.pop("t-ns") <= other.pop("t-ns") <= time.monotonic_ns()
    assert line == {
        "side": "source", "event": "page-sent", "block": 0, "page": 7, "channel": "postcopy",
        "urgent": True, "boosted": False, "channel-bytes": 10, "remaining-bytes": 20,
    }  # fmt: skip
    assert other == {"side": "source", "event": "pass-end", "index": 0, "bytes": 9, "ms": 1.5}


def test_a_line_is_written_as_it_always_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte: the head first, fields in the order of their definition, nothing between."""
    monkeypatch.setattr(time, "monotonic_ns", lambda: 12345)
    with Recorder('so"urce', tmp_path / "events") as recorder:
        recorder(sent(7))
        recorder(events.State(state="failed", reason='a "reason" \u00fcber all\x1f'))
        recorder(events.PagePlaced(block=1, page=2, pages=3, channel=None))
        recorder(events.PassEnd(index=0, bytes=9, ms=1e-7))
        recorder(events.GuestStop())
    head = b'{"t-ns":12345,"side":"so\\"urce","event":'
    assert (tmp_path / "events").read_bytes().splitlines() == [
        head + b'"page-sent","block":0,"page":7,"channel":"postcopy","urgent":true,'
        b'"boosted":false,"channel-bytes":10,"remaining-bytes":20}',
        head + '"state","state":"failed","reason":"a \\"reason\\" \u00fcber all\\u001f"}'.encode(),
        head + b'"page-placed","block":1,"page":2,"pages":3,"channel":null}',
        head + b'"pass-end","index":0,"bytes":9,"ms":1e-7}',
        head + b'"guest-stop"}',
    ]


def test_no_line_is_lost_and_none_is_out_of_order(tmp_path: Path) -> None:
    """More events than are written together arrive complete, a state's change at once."""
    path = tmp_path / "events"
    with Recorder("dest", path) as recorder:
        for page in range(1000):
            recorder(sent(page))
        recorder(events.State(state="completed"))
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [line.get("page") for line in lines] == [*range(1000), None]
        recorder(sent(1000))
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1002


async def test_a_reader_need_not_wait_for_the_next_event(tmp_path: Path) -> None:
    """While it keeps flushing, an event is in the file a moment later."""
    path = tmp_path / "events"
    with Recorder("dest", path) as recorder, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recorder.keep_flushing)
            recorder(sent(1))
            while not path.read_bytes():  # noqa: ASYNC110  (what becomes of a file, no event tells)
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


def test_two_sides_share_a_file(tmp_path: Path) -> None:
    """Where what is there is kept, neither truncates the file or overwrites the other's lines."""
    path = tmp_path / "events"
    path.write_text("of yesterday\n", encoding="utf-8")
    with Recorder("source", path) as one:
        one(events.State(state="setup"))
        with Recorder("dest", path, earlier=Earlier.KEPT) as two:
            for _ in range(2):
                two(events.State(state="active"))
                one(events.State(state="active"))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["side"] for line in lines] == ["source", "dest", "source", "dest", "source"]


def read_sides(path: Path) -> list[str]:
    """Return whose the lines of a file are, which are all events."""
    return [json.loads(line)["side"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_events_of_an_earlier_run_stay_until_this_has_begun(tmp_path: Path) -> None:
    """Then they are gone, and all that was told before is there; what never begins leaves them."""
    path = tmp_path / "events"
    path.write_text("of yesterday\n", encoding="utf-8")
    told = Recorder("source", path, earlier=Earlier.REPLACED)
    told(events.State(state="setup"))
    told(events.State(state="failed", reason="nobody listens"))
    told.__exit__(None, MidstreamError("nobody listens"), None)
    assert path.read_text(encoding="utf-8") == "of yesterday\n"
    assert told.is_held
    assert told.failure is None
    with Recorder("source", path, earlier=Earlier.REPLACED) as told:
        told(events.State(state="setup"))
        assert path.read_text(encoding="utf-8") == "of yesterday\n"
        told(events.State(state="active"))
        assert not told.is_held
        assert read_sides(path) == ["source", "source"]
        told(events.State(state="completed"))
        assert read_sides(path) == ["source", "source", "source"]


def test_what_ends_well_has_begun(tmp_path: Path) -> None:
    """Whatever it has told."""
    path = tmp_path / "events"
    path.write_text("of yesterday\n", encoding="utf-8")
    with Recorder("dest", path, earlier=Earlier.REPLACED) as told:
        told(sent(1))
    assert read_sides(path) == ["dest"]


@pytest.mark.parametrize("text", ["", None])
def test_a_new_file_has_events_at_once(tmp_path: Path, text: str | None) -> None:
    """There is nothing to lose, and somebody may follow it."""
    path = tmp_path / "events"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with Recorder("source", path, earlier=Earlier.REPLACED) as told:
        told(events.State(state="setup"))
        assert not told.is_held
        assert read_sides(path) == ["source"]


def test_of_two_sides_one_replaces_an_earlier_run(tmp_path: Path) -> None:
    """The destination, which begins first; the source waits, and its lines are added."""
    path = tmp_path / "events"
    path.write_text("of yesterday\n", encoding="utf-8")
    run = events.Run(policy="ordered", chunk_bytes=1, vcpus=1, program="uniform", blocks=1)
    with Recorder("source", path, earlier=Earlier.AWAITED) as one:
        one(run)
        with Recorder("dest", path, earlier=Earlier.REPLACED) as two:
            two(events.State(state="setup"))
            assert path.read_text(encoding="utf-8") == "of yesterday\n"
            two(run)
            assert read_sides(path) == ["dest"] * 2
            one(events.State(state="active"))
            assert read_sides(path) == ["dest"] * 2 + ["source"] * 2


def test_a_file_that_is_gone_by_then_is_made_anew(tmp_path: Path) -> None:
    """Whoever has put the earlier run aside meanwhile keeps it there."""
    path = tmp_path / "events"
    path.write_text("of yesterday\n", encoding="utf-8")
    with Recorder("source", path, earlier=Earlier.REPLACED) as told:
        path.rename(tmp_path / "kept")
        told(events.State(state="active"))
    assert read_sides(path) == ["source"]
    assert (tmp_path / "kept").read_text(encoding="utf-8") == "of yesterday\n"


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
            recorder(sent(page))
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
            recorder(events.State(state="active"))
    assert capsys.readouterr().err == (
        "source: from here on events are lost: No space left on device\n"
    )


def test_a_full_disk_is_a_failure_of_the_file_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the user asked for is not there: whoever ends the command has to say so."""
    with Recorder("source", Path("/dev/full")) as recorder:
        for page in range(3):
            recorder(sent(page))
        heard = [recorder.is_heard]
        recorder.flush()
        heard.append(recorder.is_heard)
        recorder(sent(3))
    assert heard == [True, False]
    assert recorder.dropped == 4
    assert str(recorder.failure) == "cannot write /dev/full: No space left on device"
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("is_opened", [False, True])
def test_a_reader_that_stops_reading_holds_nobody_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_opened: bool
) -> None:
    """What it does not take is counted, whether it has opened the pipe or not; lines are whole."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if is_opened else -1
    with suppress(MigrationCancelled), Recorder("dest", path) as recorder:
        for page in range(50_000):
            recorder(sent(page))
        # So that the reader is not waited for long.
        raise MigrationCancelled
    reader = reader if is_opened else os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    lines = b"".join(iter(lambda: os.read(reader, 1 << 16), b"")).splitlines()
    os.close(reader)
    assert [json.loads(line)["page"] for line in lines] == list(range(len(lines)))
    # The piece on which the thread sat may have gone when its reader was let go.
    assert 50_000 - recorder.dropped <= len(lines) < 50_000
    assert is_opened == bool(lines)
    # It is the reader's doing, not a failure of the run.
    assert recorder.failure is None
    assert capsys.readouterr().err == (
        f"dest: {recorder.dropped} events were dropped: {path} is not read fast enough\n"
    )


def test_a_reader_that_goes_away_is_told_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is no failure either: `head` has read what it wanted."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with Recorder("dest", tmp_path / "pipe") as recorder:
        recorder(events.State(state="setup"))
        until(lambda: select.select([reader], [], [], 0)[0])
        os.close(reader)
        recorder(events.State(state="active"))
    assert recorder.dropped == 1
    assert recorder.failure is None
    assert capsys.readouterr().err == "dest: from here on events are lost: Broken pipe\n"


def test_a_reader_that_is_relied_on_is_waited_for(tmp_path: Path) -> None:
    """With `at_once` each event is in the pipe before anything else happens."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with Recorder("dest", tmp_path / "pipe", at_once=True) as recorder:
        for page in range(3):
            recorder(sent(page))
            assert json.loads(os.read(reader, 1 << 16))["page"] == page
    os.close(reader)


def test_a_descriptor_of_this_process_is_written_where_it_stands(tmp_path: Path) -> None:
    """/dev/fd/N is that descriptor: what its file holds already stays."""
    with (tmp_path / "file").open("wb") as file:
        file.write(b"of before\n")
        file.flush()
        with Recorder("dest", Path(f"/dev/fd/{file.fileno()}")) as recorder:
            recorder(events.State(state="setup"))
    assert (tmp_path / "file").read_bytes().startswith(b'of before\n{"t-ns":')


def test_a_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """The error names the file and the reason."""
    with pytest.raises(MidstreamError, match=r"cannot write .*: No such file or directory"):
        Recorder("source", tmp_path / "missing" / "events")


def test_changes_of_state_are_told(tmp_path: Path) -> None:
    """A listener hears of each state, and of nothing else; no file is needed for that."""
    told: list[str] = []
    with Recorder("dest", None, on_state=told.append) as recorder:
        recorder(sent(1))
        recorder(events.State(state="device"))
    assert told == ["dest: device"]


def test_a_spool_is_bounded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spool that is as large as it may be is given up; the events file goes on."""
    monkeypatch.setattr("scripts.screen.recorder.SPOOL_BYTES_MAX", 100)
    with Recorder("source", tmp_path / "events", spool=tmp_path / "spool") as recorder:
        assert recorder.is_heard
        for state in ("setup", "active", "device"):
            recorder(events.State(state=state))
    assert len((tmp_path / "events").read_bytes().splitlines()) == 3
    assert 100 <= len((tmp_path / "spool").read_bytes()) < 200
    assert capsys.readouterr().err == "source: from here on events are lost: File too large\n"


def test_a_spool_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    """The error is the spool's, and the events file is closed again."""
    with nothing_left(), pytest.raises(MidstreamError, match=r"cannot write .*missing"):
        Recorder("source", tmp_path / "events", spool=tmp_path / "missing" / "spool")
