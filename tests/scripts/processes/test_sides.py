"""Running a side: signals cancel it, and what came of it is printed and written."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from protocol import events
from protocol.errors import (
    ConnectionLost,
    MidstreamError,
    MigrationCancelled,
    PeerAborted,
    WrongMemory,
)
from protocol.report import DestPart, SourcePart, assemble
from scripts.processes.sides import Outcome, run_side, until_signalled
from scripts.reports import Outputs
from scripts.runtime.interrupts import SIGNALS
from scripts.runtime.parent import LinkNote, Orders, obey
from scripts.screen.recorder import Recorder
from scripts.screen.verdict import put_verdict


def report() -> dict[str, Any]:
    """Return a report in which every number is 1."""
    numbers: dict[str, Any] = dict.fromkeys(SourcePart.__annotations__, 1)
    part = SourcePart(**{
        **numbers, "policy": "ordered", "backing": "base", "dirty_log": "none",
        "guest_kind": "python", "guest_reason": "", "prefetch": None, "policy_failure": "",
    })  # fmt: skip
    own = DestPart(
        placement="simulated", backing="base", reads=1, reads_unchecked=0, mismatches=0,
        cpu_seconds=0.0,
    )  # fmt: skip
    whole = assemble("completed", part, own)
    whole["midstream"]["dropped"] = {"events": 0, "messages": 0, "viewers": 0}
    return put_verdict(whole)


@pytest.fixture
def ordered() -> Iterator[Callable[[Orders], None]]:
    """A function that gives this process orders, which it has no more after the test."""
    yield obey
    obey(Orders())


async def wait_for_ever() -> Outcome:
    """Never come to an end."""
    await trio.sleep_forever()


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_signal_cancels(number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end what runs, in order, and say which it was."""
    cleaned_up = False

    async def run() -> Outcome:
        nonlocal cleaned_up
        # The first checkpoint: whoever listens for signals does so by now.
        await trio.lowlevel.checkpoint()
        os.kill(os.getpid(), number)
        try:
            return await wait_for_ever()
        finally:
            cleaned_up = True

    with trio.fail_after(10), pytest.raises(MigrationCancelled, match=number.name):
        await until_signalled(run)
    assert cleaned_up


async def test_what_fails_while_it_is_cancelled_was_cancelled() -> None:
    """A connection that breaks during a cancellation is not the reason of the end."""

    async def run() -> Outcome:
        await trio.lowlevel.checkpoint()
        os.kill(os.getpid(), signal.SIGINT)
        try:
            return await wait_for_ever()
        finally:
            raise ConnectionLost("the peer was faster")

    with trio.fail_after(10), pytest.raises(MigrationCancelled):
        await until_signalled(run)


async def test_a_bug_is_not_hidden_by_a_signal() -> None:
    """What nobody foresaw is told even if the user cancelled."""

    async def run() -> Outcome:
        await trio.lowlevel.checkpoint()
        os.kill(os.getpid(), signal.SIGINT)
        try:
            return await wait_for_ever()
        finally:
            raise KeyError("x")

    with trio.fail_after(10), pytest.raises(KeyError):
        await until_signalled(run)


async def test_one_error_is_left_of_many() -> None:
    """Of all that failed, the error that says most comes out, by itself."""

    async def fail(error: Exception) -> None:
        raise error

    async def run() -> Outcome:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, ConnectionLost("cut"))
            nursery.start_soon(fail, PeerAborted("no room"))
        raise AssertionError("not reached")

    with trio.fail_after(10), pytest.raises(PeerAborted, match="no room"):
        await until_signalled(run)


def test_a_side_prints_writes_and_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table goes to standard output, report and events into their files."""
    given = Outputs(report=str(tmp_path / "report"), events=str(tmp_path / "events"))

    async def run(recorder: Recorder) -> Outcome:
        recorder(events.State(state="completed"))
        await trio.lowlevel.checkpoint()
        return report(), None

    run_side("dest", given, run)
    assert "\n\nstatus          completed" in capsys.readouterr().out
    assert json.loads((tmp_path / "report").read_text(encoding="utf-8")) == report()
    assert json.loads((tmp_path / "events").read_text(encoding="utf-8"))["side"] == "dest"


@pytest.mark.parametrize("quiet", [False, True])
def test_a_report_has_standard_output_for_itself(
    capsys: pytest.CaptureFixture[str], *, quiet: bool
) -> None:
    """With `--report -` there is nothing but JSON, quiet or not."""

    async def run(_: Recorder) -> Outcome:
        await trio.lowlevel.checkpoint()
        return report(), None

    run_side("source", Outputs(report="-", quiet=quiet), run)
    assert json.loads(capsys.readouterr().out) == report()


def test_a_report_tells_of_the_link(
    capsys: pytest.CaptureFixture[str], ordered: Callable[[Orders], None]
) -> None:
    """What a launcher has put between the sides stands in the report; nothing without it."""

    async def run(_: Recorder) -> Outcome:
        await trio.lowlevel.checkpoint()
        return report(), None

    note = LinkNote(kind="namespaces", bytes_per_second=125_000_000, queue="pfifo_fast")
    ordered(Orders(link=note))
    run_side("source", Outputs(report="-"), run)
    told = json.loads(capsys.readouterr().out)["midstream"]["link"]
    assert told == {
        "kind": "namespaces", "bytes-per-second": 125_000_000, "queue": "pfifo_fast"
    }  # fmt: skip
    assert "link" not in report()["midstream"]


def test_wrong_memory_comes_after_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where memory is wrong a person needs the report; it is there, and so is the error."""

    async def run(_: Recorder) -> Outcome:
        await trio.lowlevel.checkpoint()
        return report(), WrongMemory("page 5")

    with pytest.raises(WrongMemory, match="page 5"):
        run_side("source", Outputs(report=str(tmp_path / "report")), run)
    assert (tmp_path / "report").exists()
    assert capsys.readouterr().out.startswith("WRONG MEMORY: ")


def test_a_report_that_cannot_be_written_is_an_error() -> None:
    """A disk that has filled up meanwhile is told by file and reason."""

    async def run(_: Recorder) -> Outcome:
        await trio.lowlevel.checkpoint()
        return report(), None

    with pytest.raises(MidstreamError, match="cannot write /dev/full: No space left on device"):
        run_side("source", Outputs(report="/dev/full"), run)


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConnectionLost("cut\nhere"), "failed"), (MigrationCancelled("by you"), "cancelled")],
)
def test_what_fails_has_a_report_too(
    tmp_path: Path, error: MidstreamError, status: str, ordered: Callable[[Orders], None]
) -> None:
    """It says how it ended and why, in one line, and what the side has counted by then."""

    async def run(_: Recorder) -> Outcome:
        await trio.lowlevel.checkpoint()
        raise error

    def report_failure(status: str, reason: str) -> dict[str, Any]:
        return {"status": status, "midstream": {"reason": reason, "passes": 7}}

    ordered(Orders(link=LinkNote(kind="proxy", bytes_per_second=1000)))
    given = Outputs(report=str(tmp_path / "report"))
    with pytest.raises(type(error)):
        run_side("source", given, run, report_failure)
    told = json.loads((tmp_path / "report").read_text(encoding="utf-8"))
    reason = str(error).replace("\n", " ")
    assert told["midstream"].pop("verdict")["sentences"] == [f"{status.upper()}: {reason}."]
    assert told == {
        "status": status,
        "midstream": {
            "reason": reason,
            "passes": 7,
            "dropped": {"events": 0, "messages": 0, "viewers": 0},
            "link": {"kind": "proxy", "bytes-per-second": 1000, "queue": "fifo"},
        },
    }


def test_events_that_a_disk_did_not_take_are_an_error_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The result is printed all the same; wrong memory would be graver."""

    async def run(recorder: Recorder) -> Outcome:
        recorder(events.State(state="completed"))
        await trio.lowlevel.checkpoint()
        return report(), problem

    problem: MidstreamError | None = None
    with pytest.raises(MidstreamError, match="cannot write /dev/full: No space left on device"):
        run_side("source", Outputs(events="/dev/full"), run)
    assert "\n\nstatus          completed" in capsys.readouterr().out
    problem = WrongMemory("page 5")
    with pytest.raises(WrongMemory):
        run_side("source", Outputs(events="/dev/full"), run)


def test_a_report_that_cannot_be_written_hides_no_failure() -> None:
    """Why the migration failed is what has to be told."""

    async def run(_: Recorder) -> Outcome:
        await trio.lowlevel.checkpoint()
        raise ConnectionLost("cut")

    with pytest.raises(ConnectionLost):
        run_side("source", Outputs(report="/dev/full"), run)
