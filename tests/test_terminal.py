"""`midstream migrate` on a terminal: a picture while it runs, and nothing of it afterwards."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import SECONDS_MAX, environment_of

HIDE, SHOW, OTHER_SCREEN = b"\x1b[?25l", b"\x1b[?25h", b"\x1b[?1049h"
READ_BYTES = 1 << 16


class Migration:
    """A migration on a terminal."""

    def __init__(self, popen: subprocess.Popen[bytes], terminal: int) -> None:
        """Take the process and our end of its terminal."""
        self.popen = popen
        self.text = b""
        self._terminal = terminal

    def read_until(self, found: Callable[[bytes], bool]) -> None:
        """Read what it writes until that is as wanted."""
        deadline = time.monotonic() + SECONDS_MAX
        while not found(self.text):
            assert time.monotonic() < deadline, f"only {self.text!r} came"
            # Our own end of its side is open, so nothing tells when it has ended.
            if select.select([self._terminal], [], [], 0.01)[0]:
                self.text += os.read(self._terminal, READ_BYTES)

    def end(self) -> int:
        """Read to its end; return the exit status."""
        self.read_until(lambda _: self.popen.poll() is not None)
        while select.select([self._terminal], [], [], 0)[0]:
            self.text += os.read(self._terminal, READ_BYTES)
        return self.popen.wait()


@contextmanager
def on_terminal(folder: Path, *arguments: str) -> Iterator[Migration]:
    """Run a migration with standard output and error on a terminal of 80 columns and 24 rows."""
    ours, theirs = pty.openpty()
    try:
        termios.tcsetwinsize(theirs, (24, 80))
        before = termios.tcgetattr(theirs)
        popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "scripts", "migrate", "--size=8MiB", *arguments],
            cwd=folder,
            env=environment_of({"TERM": "xterm-256color"}),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        try:
            yield Migration(popen, ours)
            assert termios.tcgetattr(theirs) == before
        finally:
            popen.kill()
            popen.wait()
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_picture_is_shown_and_taken_away(tmp_path: Path) -> None:
    """While it runs there is a map; in the end the result stands there, and the cursor is back."""
    with on_terminal(tmp_path, "--vcpus=2") as migration:
        assert migration.end() == 0
        text = migration.text
    assert b"1 cell = 1 page (2 MiB)" in text
    assert text.count(HIDE) == text.count(SHOW) == 1
    assert OTHER_SCREEN not in text
    # The result comes when the picture is gone, once and whole.
    after = text[text.index(SHOW) :]
    assert after.count(b"completed, verified") == 1
    assert b"digests equal" in after
    assert b"1 cell =" not in after


def test_ctrl_c_leaves_the_terminal_sane(tmp_path: Path) -> None:
    """A cancelled migration shows the cursor again, and says its one line below the picture."""
    with on_terminal(tmp_path, "--max-bandwidth=10kB/s") as migration:
        migration.read_until(lambda text: b"precopy: pass" in text)
        os.kill(migration.popen.pid, signal.SIGINT)
        assert migration.end() == 130
        text = migration.text
    assert text.count(HIDE) == text.count(SHOW) == 1
    after = text[text.index(SHOW) :]
    line = b"midstream: cancelled by SIGINT; the guest stays at the source\r\n"
    assert after.count(line) == 1
    assert after.endswith(line)
