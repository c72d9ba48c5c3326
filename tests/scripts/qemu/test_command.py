"""The commands that have a QEMU on the other end, with a real one where there is one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from scripts import commands
from scripts.injection.scenario import read_scenario
from scripts.qemu.command import PROGRAM
from tests.huge_pages import huge_pages
from tests.processes import ROOT, Lab, has_state, until
from tests.reports import read_report

FOLDER = ROOT / "tests" / "scenarios" / "qemu"

# Of 2 MiB, for scenarios whose QEMU has its memory made of them.
HUGE_PAGES = {"half-sent-preempt": 8}


def need_qemu() -> None:
    """Skip a test where there is no QEMU."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")


def major_version() -> int:
    """Return the first number of QEMU's version."""
    told = subprocess.run([PROGRAM, "--version"], capture_output=True, check=True, text=True)
    match = re.search(r"version ([0-9]+)\.", told.stdout)
    assert match is not None
    return int(match[1])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_a_scenario_with_a_real_qemu(lab: Lab, path: Path) -> None:
    """A real QEMU migrates into a destination here, and every byte of its memory arrives."""
    need_qemu()
    if path.stem == "half-sent-preempt" and major_version() > 7:
        pytest.skip("QEMU 8.0 and later leave a half-sent page to their bulk stream")
    with ExitStack() as stack:
        if path.stem in HUGE_PAGES:
            stack.enter_context(huge_pages(HUGE_PAGES[path.stem]))
        process = lab.run("inject", path)
    assert (process.status, process.output) == (0, f"ok {read_scenario(path).name}\n")


def test_a_qemu_that_is_killed_is_told(lab: Lab) -> None:
    """Its user hears at once what became of it, and not its last warning."""
    need_qemu()
    events = lab.folder / "events.jsonl"
    dest = lab.fork(
        "dest", "--peer=qemu", "--listen=127.0.0.1:0", f"--events={events}", "--recover-timeout=0"
    )
    source = lab.start(
        "qemu", f"--connect={dest.listening()}", "--size=32MiB", "--page-size=4KiB",
        "--max-postcopy-bandwidth=100kB/s",
    )  # fmt: skip
    until(lambda: has_state(events, "postcopy-active"))
    (pid,) = (pid for pid in lab.living() if "qemu-system" in program_of(pid))
    os.kill(pid, signal.SIGKILL)
    source.fail(1, "QEMU was killed by SIGKILL")
    dest.fail(4, "memory of the guest is lost")


def program_of(pid: int) -> str:
    """Return the file that a process runs."""
    return str(Path(f"/proc/{pid}/exe").readlink())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_qemu_that_is_lost_in_postcopy(lab: Lab, number: signal.Signals) -> None:
    """Whatever ends the command ends its QEMU; the destination says that memory is lost."""
    need_qemu()
    events, report = lab.folder / "events.jsonl", lab.folder / "report.json"
    dest = lab.fork(
        "dest", "--peer=qemu", "--listen=127.0.0.1:0", f"--events={events}", f"--report={report}",
        "--recover-timeout=0",
    )  # fmt: skip
    source = lab.start(
        "qemu", f"--connect={dest.listening()}", "--size=32MiB", "--page-size=4KiB",
        "--max-postcopy-bandwidth=100kB/s",
    )  # fmt: skip
    until(lambda: has_state(events, "postcopy-active"))
    source.signal(number)
    assert source.wait() == {signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    dest.fail(4, "memory of the guest is lost")
    told = read_report(report)
    assert told["status"] == "failed"
    assert "memory of the guest is lost" in told["midstream"]["reason"]
    assert told["midstream"]["backing"] == "base"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("qemu", "--connect=127.0.0.1:0"), "--connect"),
        (("qemu", "--connect=:5", "--size=4KiB", "--page-size=4KiB"), "whole number of MiB"),
        (("qemu", "--connect=:5", "--size=a=4MiB"), "one RAMBlock, its name is ram"),
        (("qemu", "--connect=:5", "--max-bandwidth=fast"), "--max-bandwidth"),
        (("qemu", "--connect=:5", "--precopy=much"), "--precopy"),
        (("qemu", "--connect=:5", "--precopy=1MiB"), "--max-bandwidth"),
        (("qemu", "--connect=:5", "--image=/nowhere"), "No such file"),
        (("qemu", "--connect=:5", "--image=/"), "is a directory"),
        (("dest", "--listen=:0", "--program=zipf"), "the source says it"),
        (("dest", "--listen=:0", "--socket-buffer=64KiB"), "the source says it"),
        (("dest", "--listen=:0", "--peer=qemu", "--socket-buffer=1"), "--socket-buffer"),
        (("dest", "--listen=:0", "--allow-from=::1"), "the source says it"),
        (("dest", "--listen=:0", "--peer=qemu", "--allow-from=here"), "is no IP address"),
        (("dest", "--listen=:0", "--peer=qemu", "--secret-file=x"), "proves nothing"),
        (("dest", "--listen=:0", "--peer=qemu", "--tls-ca=x"), "--tls-ca"),
        (("dest", "--listen=:0", "--peer=qemu", "--keepalive-timeout=9s"), "--keepalive-timeout"),
        (("inject", str(FOLDER / "small-pages.toml"), "--breaks=1"), "--breaks"),
    ],
)
def test_wrong_command_lines(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    reason: str,
) -> None:
    """What cannot be is refused with exit status 2 and one line before anything is started."""
    # A command's end leaves this process's signals alone.
    monkeypatch.setattr(commands, "ignore_signals", lambda: None)
    assert commands.run(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_a_migration_that_fails_is_told(lab: Lab) -> None:
    """Where nobody listens QEMU gives up and lives on: its reason is told, and it is ended."""
    need_qemu()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        process = lab.run(
            "qemu", f"--connect=127.0.0.1:{taken.getsockname()[1]}", "--size=4MiB",
            "--page-size=4KiB",
        )  # fmt: skip
    process.fail(1, "QEMU's migration has failed: Failed to connect")


def test_a_qemu_that_does_not_start_is_told(lab: Lab) -> None:
    """A QEMU that cannot be started costs one line and exit status 1."""
    process = lab.run(
        "qemu", "--connect=127.0.0.1:9", "--qemu=/nowhere/qemu", "--size=1MiB", "--page-size=4KiB"
    )
    process.fail(1, "cannot start /nowhere/qemu: there is no such program")
