"""The lines of a sweep: a file that is only ever added to, a line of JSON a run.

What is in it is never run again.  A line is written at once and as a whole; one that was torn all
the same, as by a machine that lost its power, is cut off and its run made once more.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protocol.errors import MidstreamError
from scripts.reports import COMPLETED
from scripts.screen.outlet import write_all
from scripts.sweep.running import SCHEMA, Line

FILE_NAME = "runs.jsonl"


class Lines:
    """The file of one sweep, which is open, and this process's alone.

    Attributes:
        path: Where it is.
        mended: How many bytes of a torn line were cut off.
    """

    def __init__(self, path: Path, fd: int) -> None:
        """Read what is there, and mend its end.

        Raises:
            MidstreamError: It holds something else.
        """
        self.path = path
        self._fd = fd
        data = _read(fd)
        whole = data.rfind(b"\n") + 1
        self._by_key: dict[str, Line] = {}
        for number, text in enumerate(data[:whole].splitlines(), 1):
            line = _parsed(text, path, number)
            self._by_key[line["key"]] = line
        # Not before all of it is known to be ours.
        self.mended = len(data) - whole
        if self.mended:
            os.ftruncate(fd, whole)

    def get(self, key: str) -> Line | None:
        """Return the last line of a key, None if there is none."""
        return self._by_key.get(key)

    def has(self, key: str) -> bool:
        """Return whether a run is done; one that failed is not."""
        line = self._by_key.get(key)
        return line is not None and line["status"] == COMPLETED

    def add(self, line: Line) -> None:
        """Write a line.

        Raises:
            MidstreamError: It cannot be written.
        """
        try:
            write_all(self._fd, json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise MidstreamError(f"cannot write {self.path}: {error.strerror}") from error
        self._by_key[line["key"]] = line


@contextmanager
def open_lines(folder: Path) -> Iterator[Lines]:
    """Open a folder's lines; the folder is made if it is not there.

    Raises:
        MidstreamError: They cannot be had, or another sweep writes them.
    """
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise MidstreamError(f"cannot write {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MidstreamError(f"{path}: another sweep writes it") from error
        yield Lines(path, fd)
    finally:
        os.close(fd)


def _read(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def _parsed(text: bytes, path: Path, number: int) -> Line:
    try:
        line: Line = json.loads(text)
        if line["schema"] == SCHEMA and isinstance(line["key"], str) and line["status"]:
            return line
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise MidstreamError(f"{path}:{number}: this is no line of a sweep ({SCHEMA})")
