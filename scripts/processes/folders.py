"""Temporary folders that do not outlive the command that uses them, even if it is killed."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from protocol.errors import MidstreamError
from scripts.processes.interrupts import SIGNALS

# Waits for the end of what it reads, which comes with the end of the process that has the other end
# open, and removes the folder.  Who still puts something into it is a child of that process, and
# ends with it: a moment later nobody does.
_BROOM = """
trap '' HUP INT QUIT TERM
read -r nothing
tries=0
until rm -rf -- "$1" || [ "$tries" -eq 50 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
"""


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Make a folder that is gone when the block is left, or this process is.

    Args:
        purpose: A word for its name, for who finds it meanwhile.

    Raises:
        MidstreamError: There is no place for one.
    """
    # A signal may raise an exception anywhere: not where nobody would know of the folder.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        folder = _make(purpose)
        broom = _start_broom(folder.name)
        try:
            with folder:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                yield Path(folder.name)
        finally:
            _dismiss(broom)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _make(purpose: str) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix=f"midstream-{purpose}-")
    except OSError as error:
        place = tempfile.gettempdir()
        raise MidstreamError(f"cannot make a folder in {place}: {error.strerror}") from error


def _start_broom(name: str) -> subprocess.Popen[bytes] | None:
    """Start a process that removes a folder when this one has ended; None where there is no shell.

    Without it only who is killed leaves something behind.
    """
    with suppress(OSError):
        return subprocess.Popen(
            ["/bin/sh", "-c", _BROOM, "sh", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            # What ends a terminal's processes, or a group of them, must not end it.
            start_new_session=True,
        )
    return None


def _dismiss(broom: subprocess.Popen[bytes] | None) -> None:
    if broom is not None:
        assert broom.stdin is not None
        broom.stdin.close()
        broom.wait()
