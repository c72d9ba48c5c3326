"""A side of a migration as a child process of `midstream migrate`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from protocol.errors import MigrationError
from scripts.processes.interrupts import SIGNALS
from scripts.processes.parent import PARENT_VARIABLE, REASON_VARIABLE

__all__ = ["PARENT_VARIABLE", "Child", "package_environment"]

# What is kept of a side's standard error: its last lines are its reason.
_STDERR_BYTES_MAX = 64 * 1024

# What a pipe holds, so what a side that ended may have printed that nobody has read.
_STDOUT_BYTES_MAX = 64 * 1024

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A running side; `end` must be called in any case.

    Attributes:
        side: "source" or "dest".
        reason: Why it failed, in its own words, once `end` has returned.
        output: What it has printed and nobody has read, once `end` has returned.
        put_down: `kill` ended it, or `end` when it took too long, or `call_off`.
    """

    def __init__(
        self,
        side: str,
        arguments: list[str],
        *,
        capture: bool,
        prefix: Sequence[str] = (),
        module: str = "scripts",
        secret: bytes | None = None,
    ) -> None:
        """Start `python -m MODULE SIDE ARGUMENTS`, which is `midstream SIDE ARGUMENTS`.

        The process leaves the terminal's group, so that Ctrl-C reaches only its parent.  It is
        started from the main thread: the kernel ends it when the thread that started it ends.

        Args:
            side: "source" or "dest".
            arguments: Its command line.
            capture: Read its standard output and error here instead of letting them through.
            prefix: The command line that brings a process to where it is to run.
            module: What has sides too, if it is not midstream itself.
            secret: Given to it through a pipe, which nobody else sees.

        Raises:
            MigrationError: The system refused to start a process.
        """
        self.side = side
        self.reason = ""
        self.output = ""
        self.put_down = False
        self._errors = b""
        self._output = b""
        # What the side says of why it fails.
        self._reason, far_reason = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        inherited = [far_reason]
        if secret is not None:
            inherited.append(_pipe_with(secret))
            arguments = [*arguments, f"--secret-file=/dev/fd/{inherited[-1]}"]
        environment = {PARENT_VARIABLE: str(os.getpid()), REASON_VARIABLE: str(far_reason)}
        pipe = subprocess.PIPE if capture else None
        # An interpreter that is interrupted while it starts prints a traceback.  The process
        # unblocks the signals as soon as it can answer them in its own words.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-P", "-m", module, side, *arguments],
                env={**package_environment(), **environment},
                stdin=subprocess.PIPE,
                stdout=pipe,
                stderr=pipe,
                pass_fds=inherited,
                process_group=0,
            )
        except OSError as error:
            os.close(self._reason)
            raise MigrationError(f"cannot start the {self.title}: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for fd in inherited:
                os.close(fd)

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal's number, None while it runs."""
        return self._process.poll()

    @property
    def last_words(self) -> str:
        """Why it failed, or how it ended, once it has ended."""
        if self.reason:
            return self.reason
        status = self.status
        if status is not None and status < 0:
            return f"the {self.title} was killed by {signal.Signals(-status).name}"
        # Perhaps its interpreter had something to say.
        lines = self._errors.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the {self.title} ended with exit status {status}"

    @property
    def title(self) -> str:
        """The side's name in a sentence."""
        return "destination" if self.side == "dest" else self.side

    def interrupt(self) -> None:
        """Do to it what Ctrl-C does."""
        self.send_signal(signal.SIGINT)

    def call_off(self) -> None:
        """Have it end because the other side has: what it says then is not why all failed."""
        if self.status is None:
            self.put_down = True
            self.interrupt()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal; harmless when it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once; harmless when it has ended."""
        if self.status is None:
            self.put_down = True
            self._process.kill()

    async def wait(self) -> int:
        """Wait until it ends; return the exit status."""
        while (status := self._process.poll()) is None:
            pidfd = os.pidfd_open(self._process.pid)
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)
        return status

    def write_line(self, line: str) -> None:
        """Write a line to its standard input, which ends with that; harmless when it has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(f"{line}\n".encode())

    async def read_line(self, prefix: str) -> str:
        """Return what follows a prefix in the first line of captured output that begins with it.

        Raises:
            MigrationError: The output ended without one.
        """
        assert self._process.stdout is not None
        async with trio.lowlevel.FdStream(os.dup(self._process.stdout.fileno())) as stream:
            while data := await stream.receive_some():
                self._output += data
                for line in self._output.split(b"\n")[:-1]:
                    text = line.decode(errors="replace")
                    if text.startswith(prefix):
                        return text.removeprefix(prefix)
        raise MigrationError(f"the {self.title} ended before it said {prefix.strip()!r}")

    async def collect_errors(self, on_line: Callable[[str], None]) -> None:
        """Read captured standard error to its end, keeping the last of it.

        Args:
            on_line: Called with each whole line as it comes.
        """
        assert self._process.stderr is not None
        rest = b""
        async with trio.lowlevel.FdStream(os.dup(self._process.stderr.fileno())) as stream:
            while data := await stream.receive_some():
                self._errors = (self._errors + data)[-_STDERR_BYTES_MAX:]
                *lines, rest = (rest + data)[-_STDERR_BYTES_MAX:].split(b"\n")
                for line in lines:
                    on_line(line.decode(errors="replace"))

    async def end(self, seconds_max: float) -> None:
        """Wait for it to end by itself, kill it if it does not; always returns with it gone."""
        with trio.CancelScope(shield=True):
            with trio.move_on_after(seconds_max):
                await self.wait()
            self.kill()
            await self.wait()
        self._close()

    def _close(self) -> None:
        if self._reason >= 0:
            with contextlib.suppress(BlockingIOError):
                self.reason = os.read(self._reason, _STDERR_BYTES_MAX).decode(errors="replace")
            os.close(self._reason)
            self._reason = -1
        if self._process.stdout is not None and not self._process.stdout.closed:
            fd = self._process.stdout.fileno()
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                self.output = os.read(fd, _STDOUT_BYTES_MAX).decode(errors="replace")
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def _pipe_with(data: bytes) -> int:
    """Return the reading end of a pipe that holds these bytes and no more."""
    near, far = os.pipe2(os.O_CLOEXEC)
    # Far less than any pipe takes.
    os.write(far, data)
    os.close(far)
    return near


def package_environment() -> dict[str, str]:
    """Return an environment in which a child finds this very package, wherever it is started."""
    path = os.pathsep.join([str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}
