"""Runs of `midstream migrate` by other commands."""

import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import MigrationError
from scripts.figures.runs import RunFailed, run_migration
from tests.processes import Lab


def test_a_run_returns_its_report(tmp_path: Path) -> None:
    """A migration that completes gives its report."""
    report = run_migration({"size": "8MiB", "program": "scripted", "start-paused": ""}, tmp_path)

    assert report["status"] == "completed"
    assert report["ram"]["total"] == 8 << 20


def test_a_run_is_this_threads_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by a thread that ends before it, it would be killed when that does."""
    starts: list[threading.Thread] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            starts.append(threading.current_thread())
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    run_migration({"size": "8MiB", "program": "scripted", "start-paused": ""}, tmp_path)
    assert starts == [threading.main_thread()]


def test_a_failing_run_gives_its_reason(tmp_path: Path) -> None:
    """A migration that fails raises with the line that it printed, and its exit status."""
    # Of another run, which is not taken for this one's.
    (tmp_path / "report.json").write_text('{"midstream": {}}', encoding="utf-8")
    with pytest.raises(MigrationError, match="no-such-policy") as raised:
        run_migration({"size": "8MiB", "policy": "no-such-policy"}, tmp_path)
    assert isinstance(raised.value, RunFailed)
    assert (raised.value.exit_status, raised.value.report) == (2, None)
    assert raised.value.reason.endswith(raised.value.reason.removeprefix("a run failed: "))


def test_a_failing_run_gives_its_report(tmp_path: Path) -> None:
    """What it has reported until it failed is not lost."""
    options = {
        "size": "8MiB",
        "give-up-after": "1ms",
        "postcopy-after": "never",
        "program": "uniform",
    }
    with pytest.raises(RunFailed) as raised:
        run_migration({**options, "max-bandwidth": "1MB/s"}, tmp_path)
    assert raised.value.exit_status == 1
    assert not raised.value.cancelled
    assert raised.value.report is not None
    assert raised.value.report["midstream"]["reason"] in raised.value.reason


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_comparison(lab: Lab, number: signal.Signals) -> None:
    """However it is ended, the run that it is at ends too; told to end, it removes its files."""
    folder = lab.folder / "temporary"
    folder.mkdir()
    process = lab.start(
        "compare", "--size=64MiB", "--link=1MB/s", environment={"TMPDIR": str(folder)}
    )
    lab.pid_of("scripts source")
    process.signal(number)
    if number is signal.SIGINT:
        process.wait()
        assert process.errors.splitlines()[-1] == "midstream: cancelled by SIGINT"
        assert process.status == 130
        assert not list(folder.glob("midstream-compare-*"))
    lab.expect_nobody()
