"""Real midstream processes for tests: started, watched, and never left behind.

Every wait here has a bound and watches for what it waits for.  What processes say goes to files, so
that none of them ever waits for its reader.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from scripts.runtime.parent import Orders

T = TypeVar("T")

ROOT = Path(__file__).parents[1]

# Far more than anything takes here, even on a machine that does ten other things with a third of a
# processor: it ends what hangs, and says nothing of what is slow.
SECONDS_MAX = 240.0
# What a process may take to be gone when the one that it belongs to is.
GONE_SECONDS_MAX = 60.0

_MARK = "MIDSTREAM_TEST_MARK"
_POLL_SECONDS = 0.004

LISTENING = "listening on "

# How much of each process and each file of events is told where a test has failed.
_STORY_LINES = 8
_STORY_COLUMNS = 300

# For a command whose events a test reads while it runs.
AT_ONCE = Orders(tells_at_once=True).to_environment()


def until(condition: Callable[[], T], seconds_max: float = SECONDS_MAX) -> T:
    """Return what a condition returns as soon as that is something; fail when it never is."""
    deadline = time.monotonic() + seconds_max
    while not (value := condition()):
        assert time.monotonic() < deadline, f"nothing came of {condition} in {seconds_max:g} s"
        time.sleep(_POLL_SECONDS)
    return value


# A line of `scripts.screen.progress`.
_PROGRESS = re.compile(
    r"^midstream: (?:filling memory|connecting\n|precopy: pass|switching over,|postcopy: memory|"
    r"connection lost, waiting,|resuming,|completed, \d).*\n?",
    re.MULTILINE,
)


class Zygote:
    """The process that forks commands (tests/zygote.py)."""

    def __init__(self) -> None:
        """Start it; it takes orders when it has loaded everything."""
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.zygote"],
            env=environment_of({"OPENBLAS_NUM_THREADS": "1"}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def order(self, order: dict[str, Any]) -> Any:  # noqa: ANN401 - what JSON holds
        """Give an order; return the answer."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(f"{json.dumps(order)}\n".encode())
        self._popen.stdin.flush()
        return json.loads(self._popen.stdout.readline())

    def close(self) -> None:
        """End it; what it has forked is not its business."""
        self._popen.communicate()


class Process:
    """A midstream command that runs, or has run."""

    def __init__(
        self, words: str, stem: Path, pid: int, status_of: Callable[[], int | None]
    ) -> None:
        """Take a command line whose output goes to files whose names begin with `stem`."""
        self.words = words
        self.pid = pid
        self._output = stem.with_suffix(".out")
        self._errors = stem.with_suffix(".err")
        self._status_of = status_of
        self._status: int | None = None

    @property
    def output(self) -> str:
        """What it has written to standard output so far."""
        return self._output.read_text(encoding="utf-8") if self._output.exists() else ""

    @property
    def errors(self) -> str:
        """What it has written to standard error so far, but for how far it was meanwhile.

        On a machine that is busy enough anything may take ten seconds, and then that is told.
        """
        text = self._errors.read_text(encoding="utf-8") if self._errors.exists() else ""
        return _PROGRESS.sub("", text)

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        if self._status is None:
            self._status = self._status_of()
        return self._status

    def wait(self, seconds_max: float = SECONDS_MAX) -> int:
        """Wait for its end; return the exit status."""
        until(lambda: self.status is not None, seconds_max)
        assert self.status is not None
        return self.status

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.status is None
        os.kill(self.pid, number)

    def listening(self) -> str:
        """Return the address that it says it listens on, once it does."""

        def address() -> str:
            assert self.status is None, f"it has ended: {self.errors}"
            lines = self.output.splitlines(keepends=True)
            found = [line for line in lines if line.startswith(LISTENING) and line.endswith("\n")]
            return found[0].removeprefix(LISTENING).strip() if found else ""

        return until(address)

    def succeed(self) -> Self:
        """Wait for its end, which must be a good one."""
        assert self.wait() == 0, self.errors
        assert self.errors == ""
        return self

    def fail(self, status: int, *words: str, seconds_max: float = SECONDS_MAX) -> None:
        """Wait for its end with a status, and one line on standard error that has all the words."""
        assert self.wait(seconds_max) == status, self.errors
        (line,) = self.errors.splitlines(keepends=True)
        assert line.startswith("midstream: ")
        assert line.endswith("\n")
        for word in words:
            assert word in line


class Lab:
    """Starts midstream processes for one test; on leaving it nothing may be left of them."""

    def __init__(self, folder: Path, zygote: Zygote) -> None:
        """Work in a folder of the test's own."""
        self.folder = folder
        self._zygote = zygote
        self._value = str(uuid.uuid4())
        self._processes: list[Process] = []

    def start(
        self,
        *arguments: str | Path,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "scripts"),
    ) -> Process:
        """Start `midstream ARGUMENTS` as a person would, perhaps with more variables.

        Or another program in Python, which starts midstream itself.
        """
        stem = self._stem()
        with stem.with_suffix(".out").open("wb") as out, stem.with_suffix(".err").open("wb") as err:
            popen = subprocess.Popen(
                [sys.executable, "-P", *program, *map(str, arguments)],
                cwd=self.folder,
                env=environment_of({**(environment or {}), _MARK: self._value}),
                stdin=stdin,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        words = " ".join(map(str, arguments))
        return self._add(Process(words, stem, popen.pid, popen.poll))

    def fork(
        self,
        *arguments: str | Path,
        rig: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a side that is at once; with something rigged if so wanted (tests/rigged.py)."""
        stem = self._stem()
        order = {
            "arguments": [str(argument) for argument in arguments],
            "environment": {**(environment or {}), _MARK: self._value},
            "stem": str(stem),
            "rig": rig,
        }
        pid = self._zygote.order(order)
        words = " ".join(map(str, arguments))
        return self._add(Process(words, stem, pid, lambda: self._zygote.order({"status": pid})))

    def _stem(self) -> Path:
        return self.folder / f"process-{len(self._processes)}"

    def _add(self, process: Process) -> Process:
        self._processes.append(process)
        return process

    def run(self, *arguments: str | Path) -> Process:
        """Start a midstream command and wait for its end."""
        process = self.start(*arguments)
        process.wait()
        return process

    def start_pair(
        self,
        *arguments: str | Path,
        dest_arguments: tuple[str | Path, ...] = (),
        source_rig: str = "",
        dest_rig: str = "",
        source_environment: Mapping[str, str] | None = None,
    ) -> tuple[Process, Process]:
        """Start a destination and a source, not by `migrate`; return (source, destination)."""
        dest = self.fork("dest", "--listen=127.0.0.1:0", *dest_arguments, rig=dest_rig)
        source = self.fork(
            "source", f"--connect={dest.listening()}", *arguments,
            rig=source_rig, environment=source_environment,
        )  # fmt: skip
        return source, dest

    def living(self) -> dict[int, str]:
        """Return the command lines of all processes of this lab that live, by their pids."""
        mark = f"{_MARK}={self._value}".encode()
        found = {process.pid: "forked" for process in self._processes if process.status is None}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    found[int(folder.name)] = b" ".join(words).decode().strip()
            except OSError:
                continue  # Another user's, or gone by now.
        return found

    def pid_of(self, words: str, parent: int | None = None) -> int:
        """Return the one living process whose command line has these words, once it is there."""

        def pid() -> int:
            found = [
                pid
                for pid, command in self.living().items()
                if words in command and (parent is None or parent_of(pid) == parent)
            ]
            assert len(found) < 2
            return found[0] if found else 0

        return until(pid)

    def story(self) -> str:
        """Return what each process has said and told last, for whoever reads of a failure."""
        lines = []
        for process in self._processes:
            lines.append(f"{process.words}: exit status {process.status}")
            lines += [f"  {line}" for line in process.errors.splitlines()[-_STORY_LINES:]]
        for path in sorted(self.folder.rglob("*.jsonl")):
            lines.append(f"{path.name}, its last lines:")
            text = path.read_text(encoding="utf-8", errors="replace")
            lines += [f"  {line[:_STORY_COLUMNS]}" for line in text.splitlines()[-_STORY_LINES:]]
        return "\n".join(lines)

    def expect_nobody(self) -> None:
        """Wait until no process of this lab lives."""
        until(lambda: not self.living(), GONE_SECONDS_MAX)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.expect_nobody()
        finally:
            for pid in self.living():
                kill(pid)
            for process in self._processes:
                process.wait()


def environment_of(more: dict[str, str]) -> dict[str, str]:
    """Return the environment of a process that finds this project, with more variables."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    # A test starts many interpreters; what one of them has compiled the next shall find.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # What a stream has buffered in the end is a part of what its user sees.
    environment.pop("PYTHONUNBUFFERED", None)
    return environment


def parent_of(pid: int) -> int:
    """Return a living process's parent, 0 if it does not live."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped by a signal."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return text.rpartition(")")[2].split()[0] == "T"


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process, which may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


# 127.0.0.1, as /proc/net/tcp writes it.
LOOPBACK = f"{int.from_bytes(socket.inet_aton('127.0.0.1'), sys.byteorder):08X}"


def connection_count(port: int) -> int:
    """Return how many TCP connections a local port has accepted and still holds."""
    return _sockets(port).count("01")


def is_listening(port: int) -> bool:
    """Tell whether anybody listens on a local port."""
    return "0A" in _sockets(port)


def _sockets(port: int) -> list[str]:
    """Return the states of all sockets on a port of 127.0.0.1, as the kernel writes them.

    What others of this machine do may have the same port at another address.
    """
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    rows = [line.split() for line in lines]
    return [row[3] for row in rows if row[1] == f"{LOOPBACK}:{port:04X}"]


def read_events(path: Path, event: str = "", side: str = "") -> list[dict[str, Any]]:
    """Return the events of a file so far, those of one name or side only if so wanted."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    # A line that is just being written counts when it is whole.
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in lines if event in ("", line["event"]) and side in ("", line["side"])]


def has_state(path: Path, state: str, side: str = "") -> bool:
    """Tell whether an events file says that a side has entered a state."""
    return any(event["state"] == state for event in read_events(path, "state", side))
