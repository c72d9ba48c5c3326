"""Temporary folders that do not outlive the command that uses them, even if it is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from protocol.errors import MidstreamError
from scripts.runtime.interrupts import SIGNALS

# Makes the folder, so that there is never one that it does not know of, and says so.  Then it waits
# for the end of what it reads, which comes with the end of the process that has the other end open,
# and removes the folder.  Who still puts something into it is a child of that process, and ends
# with it: a moment later nobody does.
_BROOM = """
trap '' HUP INT QUIT TERM PIPE
mkdir -m 700 -- "$1" || exit
echo made
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
        folder, broom = _make(purpose)
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            yield folder
        finally:
            try:
                with suppress(FileNotFoundError):
                    shutil.rmtree(folder)
            finally:
                _dismiss(broom)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _make(purpose: str) -> tuple[Path, subprocess.Popen[bytes] | None]:
    """Return a new folder, and who removes it when this process has ended."""
    try:
        folder = Path(tempfile.gettempdir(), f"midstream-{purpose}-{os.urandom(8).hex()}")
        broom = _start_broom(folder)
        if broom is None:
            folder.mkdir(0o700)
    except OSError as error:
        place = tempfile.gettempdir()
        raise MidstreamError(f"cannot make a folder in {place}: {error.strerror}") from error
    return folder, broom


def _start_broom(folder: Path) -> subprocess.Popen[bytes] | None:
    """Start a process that makes a folder, and removes it when this one has ended.

    None where there is no shell, or it cannot make the folder: without it only who is killed leaves
    something behind.
    """
    try:
        broom = subprocess.Popen(
            ["/bin/sh", "-c", _BROOM, "sh", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            # What ends a terminal's processes, or a group of them, must not end it.
            start_new_session=True,
        )
    except OSError:
        return None
    assert broom.stdout is not None
    with broom.stdout:
        is_made = broom.stdout.readline() != b""
    if is_made:
        return broom
    _dismiss(broom)
    return None


def _dismiss(broom: subprocess.Popen[bytes] | None) -> None:
    if broom is not None:
        assert broom.stdin is not None
        broom.stdin.close()
        broom.wait()
