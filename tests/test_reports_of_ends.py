"""A report tells how its command ended, whatever ended it: never an earlier one, and never none."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.reports import NOT_FINISHED
from tests.processes import Lab, Process, has_state, kill, until
from tests.reports import expect_valid, read_report

# One that takes longer than any wait here.
SLOW = (
    "--size=12MiB", "--program=sequential", "--access-rate=1", "--max-bandwidth=10kB/s",
    "--vcpus=1", "--quiet",
)  # fmt: skip
QUICK = ("--size=4MiB", "--page-size=4KiB", "--vcpus=1", "--access-rate=100", "--quiet")

# Commands that write a report, and go on for longer than a test.
LONG: dict[str, tuple[str, ...]] = {
    "migrate": ("migrate", *SLOW),
    "dest": ("dest", "--listen=127.0.0.1:0"),
    "compare": ("compare", "--size=32MiB", "--link=1Mbit/s"),
    "bench": ("bench", "--quick", "--only=stream", "--runs=100"),
}
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


OLD: dict[str, Any] = {"status": "completed", "midstream": {"schema": "x"}}


def status_and_reason(path: Path) -> tuple[str, str]:
    """Return what a report says of the end."""
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if report != OLD:
        expect_valid(report)
    own = report.get("midstream", report)
    return report["status"], own.get("reason", "")


def old_report(path: Path) -> Path:
    """Leave a report of an earlier run, which went well."""
    path.write_text(json.dumps(OLD), encoding="utf-8")
    return path


def catches(process: Process, number: signal.Signals) -> Callable[[], bool]:
    """Return what tells whether a process has a handler for a signal."""

    def has_handler() -> bool:
        for line in Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines():
            name, _, mask = line.partition(":")
            if name == "SigCgt":
                return bool(int(mask, 16) >> (number - 1) & 1)
        return False

    return has_handler


def folders(lab: Lab) -> list[str]:
    """Return what temporary folders there are."""
    return sorted(path.name for path in (lab.folder / "tmp").iterdir())


def start(lab: Lab, name: str, report: Path) -> Process:
    """Start a command that would take long, with a place of its own for what is temporary."""
    (lab.folder / "tmp").mkdir(exist_ok=True)
    environment = {"TMPDIR": str(lab.folder / "tmp")}
    return lab.start(*LONG[name], f"--report={report}", environment=environment)


@pytest.mark.parametrize("name", LONG)
def test_a_signal_at_the_very_beginning(lab: Lab, tmp_path: Path, name: str) -> None:
    """While modules load nobody knows of a report; the signal is answered when somebody does."""
    report = old_report(tmp_path / "report.json")
    process = start(lab, name, report)
    until(catches(process, signal.SIGTERM))
    process.signal(signal.SIGINT)
    process.fail(130, "cancelled by SIGINT")
    assert status_and_reason(report) == ("cancelled", "cancelled by SIGINT")
    until(lambda: not folders(lab))


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
@pytest.mark.parametrize("name", LONG)
def test_a_signal_in_the_middle(
    lab: Lab, tmp_path: Path, name: str, number: signal.Signals
) -> None:
    """Report, exit status and line agree, and nothing temporary is left."""
    report = old_report(tmp_path / "report.json")
    process = start(lab, name, report)
    until(lambda: status_and_reason(report)[1] == NOT_FINISHED)
    process.signal(number)
    assert process.wait() == 130, process.errors
    status, reason = status_and_reason(report)
    assert process.errors.splitlines()[-1] == f"midstream: {reason}"
    assert (status, reason.partition(";")[0]) == ("cancelled", f"cancelled by {number.name}")
    # Where the guest is, of what has one guest.
    assert ("guest" in reason) == (name in {"migrate", "dest"})
    until(lambda: not folders(lab))


@pytest.mark.parametrize("name", ["migrate", "compare"])
def test_a_kill_in_the_middle(lab: Lab, tmp_path: Path, name: str) -> None:
    """Who could say nothing has a report that says so; processes and folders are gone."""
    report = old_report(tmp_path / "report.json")
    process = start(lab, name, report)
    until(lambda: status_and_reason(report)[1] == NOT_FINISHED)
    kill(process.pid)
    assert process.wait() == -signal.SIGKILL
    assert status_and_reason(report) == ("setup", NOT_FINISHED)
    lab.expect_nobody()
    until(lambda: not folders(lab))


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGKILL], ids=lambda each: each.name)
def test_scenarios_leave_nothing(lab: Lab, tmp_path: Path, number: signal.Signals) -> None:
    """An injection that is ended in its midst takes its folder and its processes with it."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "long.toml").write_text(
        "timeout = '60min'\n[migration]\nsize = '4MiB'\nmax-bandwidth = '10kB/s'\n"
        "[expect]\nstatus = 'completed'\n",
        encoding="utf-8",
    )
    environment = {"TMPDIR": str(tmp_path / "tmp")}
    process = lab.start("inject", "long.toml", environment=environment)
    lab.pid_of("scripts source", process.pid)
    assert folders(lab)
    kill(process.pid, number)
    assert process.wait() == (-number if number is signal.SIGKILL else 130)
    lab.expect_nobody()
    until(lambda: not folders(lab))


def test_a_side_that_is_killed_leaves_no_old_report(lab: Lab, tmp_path: Path) -> None:
    """Its report says that it never came to its end; the other side's says why it failed."""
    reports = {side: old_report(tmp_path / f"{side}.json") for side in ("source", "dest")}
    source, dest = lab.start_pair(
        *SLOW, f"--report={reports['source']}",
        dest_arguments=(f"--report={reports['dest']}", "--quiet", "--events=dest.jsonl"),
    )  # fmt: skip
    until(lambda: has_state(tmp_path / "dest.jsonl", "active"))
    kill(dest.pid)
    source.fail(1, "connection")
    assert status_and_reason(reports["dest"]) == ("setup", NOT_FINISHED)
    assert status_and_reason(reports["source"])[0] == "failed"


@pytest.mark.parametrize("output", ["html", "perfetto"])
def test_a_view_that_cannot_be_written(lab: Lab, tmp_path: Path, output: str) -> None:
    """The command fails, so its report says that, and has the figures of the migration."""
    report = old_report(tmp_path / "report.json")
    options = (f"--{output}=/dev/full", f"--report={report}")
    lab.run("migrate", *QUICK, *options).fail(1, "cannot write /dev/full")
    status, reason = status_and_reason(report)
    assert (status, reason) == ("failed", "cannot write /dev/full: No space left on device")
    figures = read_report(report)
    assert figures["midstream"]["verified"]["digest-equal"]
    report = old_report(tmp_path / "dest.json")
    source, dest = lab.start_pair(
        *QUICK, dest_arguments=("--quiet", f"--{output}=/dev/full", f"--report={report}")
    )
    dest.fail(1, "cannot write /dev/full")
    assert source.wait() == 0
    assert status_and_reason(report)[0] == "failed"
    assert json.loads(report.read_text(encoding="utf-8"))["midstream"]["verified"]["digest-equal"]


def test_a_report_is_never_half_written(lab: Lab, tmp_path: Path) -> None:
    """Whoever reads it, whenever, reads a whole one: first that it goes on, then how it ended."""
    report = tmp_path / "report.json"
    process = lab.start("migrate", *QUICK, f"--report={report}")
    until(lambda: report.exists() or process.status is not None)
    seen: list[str] = []
    while process.status is None:
        status = json.loads(report.read_text(encoding="utf-8"))["status"]
        if status not in seen:
            seen.append(status)
    process.succeed()
    assert seen[0] == "setup"
    assert set(seen) <= {"setup", "completed"}
    assert json.loads(report.read_text(encoding="utf-8"))["status"] == "completed"
    assert not list(tmp_path.glob(".*.part"))
