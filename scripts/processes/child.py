"""Hears a side of a migration that is a child process, and sees to its end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import trio

from guest.exits import wait_exit
from protocol.errors import MigrationError
from scripts.runtime.spawn import Spawned, title_of

# What is kept of a side's standard error: its last lines are its reason.
_STDERR_BYTES_MAX = 64 * 1024

# How an interpreter that crashes begins to tell where its threads were (faulthandler).
_CRASH = "Fatal Python error: "

# What a pipe holds, so what a side that ended may have printed that nobody has read.
_STDOUT_BYTES_MAX = 64 * 1024


class Child:
    """A running side; `end` must be called in any case.

    Attributes:
        side: "source" or "dest".
        reason: Why it failed, in its own words, once `end` has returned.
        output: What it has printed and nobody has read, once `end` has returned.
        left: What it has left to this process, once `end` has returned.
        put_down: `kill` ended it, or `end` when it took too long, or `call_off`.
        has_crashed: Captured lines from here on tell where it, or its guest, was when it crashed.
    """

    def __init__(self, spawned: Spawned) -> None:
        """Wrap a side that `spawn` has started."""
        self.side = spawned.side
        self.reason = ""
        self.output = ""
        self.left = ""
        self.put_down = False
        self.has_crashed = False
        self._spawned = spawned
        self._process = spawned.process
        self._errors = b""
        self._output = b""

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal's number, None while it runs."""
        return self._process.poll()

    @property
    def is_captured(self) -> bool:
        """Whether what it says is read here."""
        return self._process.stderr is not None

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
        return title_of(self.side)

    def interrupt(self) -> None:
        """Do to it what Ctrl-C does."""
        self.send_signal(signal.SIGINT)

    def call_off(self) -> None:
        """Interrupt it as the other side has ended: what it says then is not why all failed."""
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
        return await wait_exit(self._process)

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
                for each in lines:
                    line = each.decode(errors="replace")
                    self.has_crashed = self.has_crashed or line.startswith(_CRASH)
                    on_line(line)

    async def end(self, seconds_max: float) -> None:
        """Wait for it to end by itself, kill it if it does not; always returns with it gone."""
        with trio.CancelScope(shield=True):
            with trio.move_on_after(seconds_max):
                await self.wait()
            self.kill()
            await self.wait()
        self._close()

    def _close(self) -> None:
        spawned, stdout = self._spawned, self._process.stdout
        if not spawned.reason.closed:
            self.reason = (spawned.reason.read(_STDERR_BYTES_MAX) or b"").decode(errors="replace")
        if spawned.left is not None and not spawned.left.closed:
            spawned.left.seek(0)
            self.left = spawned.left.read().decode(errors="replace")
        if stdout is not None and not stdout.closed:
            os.set_blocking(stdout.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                self.output = os.read(stdout.fileno(), _STDOUT_BYTES_MAX).decode(errors="replace")
        spawned.close()
