"""Who watches a migration and stops: the migration goes on, and a signal ends what it always ends.

Real processes, each with a reader that has an output open and takes nothing of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.processes import SECONDS_MAX, environment_of, kill, until

# More events than any pipe or socket holds.
BUSY = (
    "--size=8MiB", "--page-size=4KiB", "--vcpus=2", "--access-rate=0", "--postcopy-after=0",
)  # fmt: skip
# One that takes longer than any wait here.
SLOW = ("--size=8MiB", "--page-size=4KiB", "--max-bandwidth=10kB/s", "--vcpus=1")
READ_BYTES = 1 << 16


@dataclass
class Stopped:
    """An output that its reader has stopped reading; the other end may be read again."""

    theirs: int
    ours: int

    def read(self) -> bytes:
        """Return what has come, without waiting for more."""
        data = b""
        while select.select([self.ours], [], [], 0)[0]:
            try:
                piece = os.read(self.ours, READ_BYTES)
            except OSError:
                # The last who had a terminal open is gone.
                break
            if not piece:
                break
            data += piece
        return data


def stopped_pipe() -> Stopped:
    """Return a pipe of the smallest size."""
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
    return Stopped(theirs, ours)


def full_pipe() -> Stopped:
    """Return a pipe that takes nothing any more."""
    pipe = stopped_pipe()
    os.write(pipe.theirs, b" " * (select.PIPE_BUF - 1) + b"\n")
    return pipe


def stopped_socket() -> Stopped:
    """Return a socket with small buffers."""
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return Stopped(theirs.detach(), ours.detach())


def stopped_terminal() -> Stopped:
    """Return a terminal under Ctrl-S."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    termios.tcflow(theirs, termios.TCOOFF)
    return Stopped(theirs, ours)


KINDS: dict[str, Callable[[], Stopped]] = {
    "pipe": stopped_pipe,
    "socket": stopped_socket,
    "terminal": stopped_terminal,
}


class Command:
    """A midstream process, its standard streams where a test wants them."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        """Take the process."""
        self._popen = popen
        self.pid = popen.pid

    def wait(self) -> int:
        """Wait for its end; return the exit status."""
        return self._popen.wait(SECONDS_MAX)

    def is_running(self) -> bool:
        """Tell whether it has not ended."""
        return self._popen.poll() is None

    def cancel(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send it a signal, and wait for its end."""
        os.kill(self.pid, number)
        return self.wait()


class Stage:
    """Starts commands in a folder; none is left in the end."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """Work in a folder of the test's own."""
        self.folder = folder
        self._stack = stack

    def stopped(self, kind: str) -> Stopped:
        """Return an output whose reader has stopped."""
        output = KINDS[kind]()
        self._stack.callback(os.close, output.ours)
        self._stack.callback(os.close, output.theirs)
        return output

    def start(self, *arguments: str, out: int | None = None, err: int | None = None) -> Command:
        """Start `midstream ARGUMENTS` with these as its standard output and error."""
        popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "scripts", *arguments],
            cwd=self.folder,
            env=environment_of({"TERM": "xterm-256color"}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if out is None else out,
            stderr=subprocess.DEVNULL if err is None else err,
            start_new_session=True,
        )
        self._stack.callback(popen.wait)
        self._stack.callback(kill, popen.pid)
        return Command(popen)

    def start_dest(self, *arguments: str, err: int | None = None) -> tuple[Command, str]:
        """Start a destination; return it and its address."""
        path = self.folder / "dest.out"
        with path.open("wb") as out:
            dest = self.start("dest", "--listen=127.0.0.1:0", *arguments, out=out.fileno(), err=err)

        def address() -> str:
            assert dest.is_running(), "it has ended"
            text = path.read_text(encoding="utf-8")
            return text.removeprefix("listening on ").strip() if text.endswith("\n") else ""

        return dest, until(address)

    def report(self, name: str = "report.json") -> dict[str, Any]:
        """Return a report that was written."""
        report: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return report

    def dropped(self, name: str = "report.json") -> dict[str, int]:
        """Return what a report of a good end says was dropped."""
        report = self.report(name)
        assert report["status"] == "completed"
        dropped: dict[str, int] = report["midstream"]["dropped"]
        return dropped


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage for one test."""
    with ExitStack() as stack:
        yield Stage(tmp_path, stack)


def expect_events(data: bytes) -> None:
    """Check that what a reader got are whole lines, but perhaps for the last."""
    lines = data.splitlines()
    for line in lines[:-1]:
        assert "event" in json.loads(line)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["source", "dest", "migrate"])
def test_events_that_nobody_reads(stage: Stage, side: str, kind: str) -> None:
    """Both sides come to their good end, whoever of them has the reader that has stopped."""
    output = stage.stopped(kind)
    if side == "migrate":
        migrate = stage.start(
            "migrate", *BUSY, "--events=/dev/stdout", "--report=report.json", "--quiet",
            out=output.theirs,
        )  # fmt: skip
        assert migrate.wait() == 0
    elif side == "dest":
        dest, address = stage.start_dest(
            "--events=/dev/stderr", "--report=dest.json", err=output.theirs
        )
        source = stage.start("source", f"--connect={address}", *BUSY, "--report=report.json")
        assert (source.wait(), dest.wait()) == (0, 0)
    else:
        dest, address = stage.start_dest()
        source = stage.start(
            "source", f"--connect={address}", *BUSY, "--events=/dev/stdout",
            "--report=report.json", "--quiet", out=output.theirs,
        )  # fmt: skip
        assert (source.wait(), dest.wait()) == (0, 0)
    dropped = stage.dropped("dest.json" if side == "dest" else "report.json")
    assert dropped["events"] > 0
    expect_events(output.read())


@pytest.mark.parametrize("kind", KINDS)
def test_messages_that_nobody_reads(stage: Stage, kind: str) -> None:
    """A destination refuses a crowd of strangers, cannot tell anybody, and does its job."""
    output = stage.stopped(kind)
    (stage.folder / "secret").write_bytes(b"0123456789abcdef")
    (stage.folder / "secret").chmod(0o600)
    secret = "--secret-file=secret"
    dest, address = stage.start_dest(secret, "--verbose", "--report=dest.json", err=output.theirs)
    host, _, port = address.rpartition(":")
    for _ in range(100):
        with socket.create_connection((host, int(port)), SECONDS_MAX) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            # Until it is sent away.
            while stranger.recv(READ_BYTES):
                pass
    source = stage.start("source", f"--connect={address}", secret, *BUSY, "--report=report.json")
    assert (source.wait(), dest.wait()) == (0, 0)
    assert stage.dropped() == {"events": 0, "messages": 0, "viewers": 0}
    assert stage.dropped("dest.json")["events"] == 0


def test_messages_are_counted(stage: Stage) -> None:
    """Into a pipe that is full nothing goes; both sides' changes of state are lost messages."""
    pipe = full_pipe()
    migrate = stage.start("migrate", *BUSY, "--verbose", "--report=report.json", err=pipe.theirs)
    assert migrate.wait() == 0
    os.close(pipe.ours)
    os.close(pipe.theirs)
    # The source has a standard error of its own, which is the same pipe.
    assert stage.dropped()["messages"] >= 5


def test_every_event_is_there_or_counted(stage: Stage) -> None:
    """What both sides tell is what a reader gets and what it is told that it has missed."""
    whole = stage.folder / "whole"
    pipe = stopped_pipe()
    migrate = stage.start(
        "migrate", *BUSY, f"--html={whole}", "--events=/dev/stdout", "--report=report.json",
        "--quiet", out=pipe.theirs,
    )  # fmt: skip
    assert migrate.wait() == 0
    got = pipe.read().count(b"\n")
    os.close(pipe.ours)
    os.close(pipe.theirs)
    assert got > 0
    assert stage.dropped()["events"] > got


@pytest.mark.parametrize("option", ["events", "report", "html", "perfetto"])
@pytest.mark.parametrize("command", ["migrate", "source", "dest"])
def test_a_full_disk_costs_that_output_and_the_exit_status(
    stage: Stage, command: str, option: str
) -> None:
    """The guest is moved all the same, to its save, and all other outputs are there."""
    full, errors = f"--{option}=/dev/full", stage.folder / "errors"
    others = {name: f"--{name}={name}.out" for name in ("events", "report", "html", "perfetto")}
    own = (full, *(text for name, text in others.items() if name != option))
    with errors.open("wb") as err:
        if command == "migrate":
            failing = stage.start("migrate", *BUSY, *own, "--save=memory", err=err.fileno())
        elif command == "source":
            dest, address = stage.start_dest("--save=memory")
            failing = stage.start("source", f"--connect={address}", *BUSY, *own, err=err.fileno())
            assert dest.wait() == 0
        else:
            failing, address = stage.start_dest("--save=memory", *own, err=err.fileno())
            assert stage.start("source", f"--connect={address}", *BUSY).wait() == 0
        assert failing.wait() == 1
    reason = "midstream: cannot write /dev/full: No space left on device\n"
    lines = errors.read_text(encoding="utf-8").splitlines(keepends=True)
    assert lines[-1] == reason
    assert (stage.folder / "memory").stat().st_size == 8 << 20
    for name in others:
        assert name == option or (stage.folder / f"{name}.out").stat().st_size > 1000
    if option != "report":
        assert stage.report("report.out")["midstream"]["reason"] in reason


@pytest.mark.parametrize("kind", ["pipe", "fifo"])
def test_a_report_into_a_pipe_that_is_read(stage: Stage, kind: str) -> None:
    """It comes whole, with what both sides and `migrate` itself have to say."""
    path = stage.folder / "pipe"
    os.mkfifo(path)
    pipe = stopped_pipe()
    target = "/dev/stdout" if kind == "pipe" else str(path)
    migrate = stage.start("migrate", "--size=8MiB", f"--report={target}", out=pipe.theirs)
    ours = pipe.ours if kind == "pipe" else os.open(path, os.O_RDONLY)
    os.close(pipe.theirs)
    with os.fdopen(ours, "rb") as reader:
        report = json.loads(reader.read())
    assert migrate.wait() == 0
    assert report["status"] == "completed"
    assert report["midstream"]["dropped"] == {"events": 0, "messages": 0, "viewers": 0}
    if kind == "fifo":
        os.close(pipe.ours)


def test_a_fifo_that_nobody_opens(stage: Stage) -> None:
    """Its opening is waited for by nobody; there is a report of a good end."""
    os.mkfifo(stage.folder / "fifo")
    migrate = stage.start("migrate", *BUSY, "--events=fifo", "--report=report.json")
    assert migrate.wait() == 0
    assert stage.report()["status"] == "completed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["migrate", "source"])
def test_a_signal_ends_what_nobody_reads(
    stage: Stage, command: str, kind: str, number: signal.Signals
) -> None:
    """With all of its outputs stuck a command is cancelled as ever."""
    output, events = stage.stopped(kind), stage.stopped("pipe")
    own: tuple[str, ...] = ()
    dest = None
    if command == "source":
        dest, address = stage.start_dest()
        own = (f"--connect={address}",)
    running = stage.start(
        command, *own, *SLOW, f"--events=/proc/{os.getpid()}/fd/{events.theirs}", "--verbose",
        out=output.theirs, err=output.theirs,
    )  # fmt: skip
    # It has met its peer, and is full of things to say.
    until(lambda: b'"active"' in events.read())
    assert running.cancel(number) == 130
    assert dest is None or dest.wait() == 1


def test_a_terminal_under_ctrl_s(stage: Stage) -> None:
    """The picture stands still and the guest does not; the result comes with Ctrl-Q."""
    terminal = stage.stopped("terminal")
    migrate = stage.start(
        "migrate", *BUSY, "--report=report.json", out=terminal.theirs, err=terminal.theirs
    )
    path = stage.folder / "report.json"
    until(lambda: path.exists() and stage.report()["status"] == "completed")
    assert migrate.is_running()
    assert terminal.read() == b""
    termios.tcflow(terminal.theirs, termios.TCOON)
    text = b""

    def has_ended() -> bool:
        nonlocal text
        text += terminal.read()
        return not migrate.is_running()

    until(has_ended)
    text += terminal.read()
    assert migrate.wait() == 0
    assert b"completed, verified" in text
    assert text.count(b"\x1b[?25l") == text.count(b"\x1b[?25h")


def test_a_source_in_a_terminal_under_ctrl_s(stage: Stage) -> None:
    """Its progress line is stuck; its destination has the guest, and Ctrl-C ends the source."""
    terminal = stage.stopped("terminal")
    dest, address = stage.start_dest()
    source = stage.start(
        "source", f"--connect={address}", *BUSY, out=terminal.theirs, err=terminal.theirs
    )
    assert dest.wait() == 0
    # It waits to print its result; there is nothing left that could be cancelled.
    assert source.cancel() == 130


def test_a_result_that_nobody_reads(stage: Stage) -> None:
    """It is not waited for for ever: the run was good, but its report is not there."""
    pipe = full_pipe()
    errors = stage.folder / "errors"
    with errors.open("wb") as file:
        migrate = stage.start(
            "migrate", "--size=8MiB", "--report=-", "--quiet", out=pipe.theirs, err=file.fileno()
        )
        assert migrate.wait() == 1
    os.close(pipe.ours)
    os.close(pipe.theirs)
    reason = "midstream: cannot write standard output: nobody reads it\n"
    assert errors.read_text(encoding="utf-8") == reason
