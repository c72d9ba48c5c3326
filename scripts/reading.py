"""Reads files that a command line names, of any kind, never more of them than there may be."""

from __future__ import annotations

import os
from pathlib import Path


def read_bounded(path: str | Path, bytes_max: int) -> bytes:
    """Return what a file, pipe or device holds, but no more than one byte over a bound.

    A named pipe that nobody writes to is empty, and no reason to wait for ever.

    Raises:
        OSError: It cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.set_blocking(fd, True)
        data = bytearray()
        while len(data) <= bytes_max and (more := os.read(fd, bytes_max + 1 - len(data))):
            data += more
        return bytes(data)
    finally:
        os.close(fd)
