"""Fill a guest from a file of any kind: a regular one, a pipe (a shell's `<(...)`), a device.

A pipe may block for as long as its other end likes: drive this with `slices.in_thread`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from guest.memory import GuestMemory
from guest.slices import Job
from guest.whole_file import open_named
from protocol.errors import LocalProtocolError


def load_image(path: str | Path, memory: GuestMemory) -> Job[int]:
    """Fill the guest from a file, its blocks in order; what the file is too short for stays as is.

    A character device (/dev/urandom) has no end; it is read until the guest is full.

    Returns:
        A job that yields and in the end returns bytes read.

    Raises:
        LocalProtocolError: The file is missing, unreadable, a directory, or larger than the guest.
    """
    try:
        fd = open_named(path, os.O_RDONLY)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        _check_size(path, fd, memory)
        read_bytes = 0
        for part in memory.parts():
            with part:
                filled_bytes = _read_into(fd, part)
                is_end = filled_bytes < len(part)
            read_bytes += filled_bytes
            yield filled_bytes
            if is_end:
                break
        else:
            _check_end(path, fd, memory)
    except OSError as error:
        raise _unusable(path, error) from error
    else:
        return read_bytes
    finally:
        os.close(fd)


def _check_size(path: str | Path, fd: int, memory: GuestMemory) -> None:
    """Refuse what is too large or no file at all, as far as that can be told beforehand."""
    status = os.fstat(fd)
    size_bytes = status.st_size
    if stat.S_ISDIR(status.st_mode):
        raise LocalProtocolError(f"image {path}: is a directory")
    if stat.S_ISBLK(status.st_mode):
        size_bytes = os.lseek(fd, 0, os.SEEK_END)
        os.lseek(fd, 0, os.SEEK_SET)
    if size_bytes > memory.geometry.length_bytes:
        raise _too_large(path, size_bytes, memory)


def _check_end(path: str | Path, fd: int, memory: GuestMemory) -> None:
    """Refuse a file that goes on after the guest is full, unless it is one without an end."""
    if not stat.S_ISCHR(os.fstat(fd).st_mode) and os.read(fd, 1):
        raise _too_large(path, None, memory)


def _read_into(fd: int, part: memoryview) -> int:
    """Read until `part` is full or the file ends; return how many bytes that is."""
    filled_bytes = 0
    while filled_bytes < len(part):
        with part[filled_bytes:] as rest:
            count = os.readv(fd, [rest])
        if not count:
            break
        filled_bytes += count
    return filled_bytes


def _too_large(path: str | Path, size_bytes: int | None, memory: GuestMemory) -> LocalProtocolError:
    size = f"{size_bytes} bytes" if size_bytes is not None else "its bytes"
    return LocalProtocolError(
        f"image {path}: {size} do not fit in a guest of {memory.geometry.length_bytes} bytes"
    )


def _unusable(path: str | Path, error: OSError) -> LocalProtocolError:
    return LocalProtocolError(f"image {path}: {error.strerror}")
