"""Fill a guest from a file, and save one to a file.

Both take files of any kind: regular ones, pipes (also a shell's process substitution), devices.
Both may block for as long as the other end of a pipe likes: drive them with `slices.in_thread`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from guest.memory import GuestMemory
from guest.slices import Job
from protocol.errors import GuestFailed, LocalProtocolError

_SLICE_BYTES = 4 << 20

# A stretch of zeros shorter than this is not worth a hole in the file.
_HOLE_BYTES = 64 << 10


def load_image(path: str | Path, memory: GuestMemory) -> Job[int]:
    """Fill the guest from a file, its blocks in order; what the file is too short for stays as is.

    A character device (/dev/urandom) has no end; it is read until the guest is full.

    Returns:
        A job that yields and in the end returns bytes read.

    Raises:
        LocalProtocolError: The file is missing, unreadable, a directory, or larger than the guest.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        _check_size(path, fd, memory)
        read_bytes = 0
        for part in _slices(memory):
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


def save_image(memory: GuestMemory, path: str | Path) -> Job[None]:
    """Write all blocks to a file, one after another; yields bytes.

    A regular file appears under its name when it is complete and on the disk, not before.  It has
    holes where the guest has zeros.

    Raises:
        GuestFailed: Writing failed; nothing half-written is left behind.
    """
    try:
        if _is_regular_target(path):
            yield from _save_beside(memory, Path(os.path.realpath(path)))
        else:
            yield from _write_through(memory, path)
    except OSError as error:
        raise GuestFailed(f"cannot save the guest to {path}: {error.strerror}") from error


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


def _slices(memory: GuestMemory) -> Iterator[memoryview]:
    for view in memory.views:
        for start in range(0, len(view), _SLICE_BYTES):
            yield view[start : start + _SLICE_BYTES]


def _is_regular_target(path: str | Path) -> bool:
    """Whether a regular file is, or would be made, at this path."""
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except FileNotFoundError:
        return True


def _save_beside(memory: GuestMemory, path: Path) -> Job[None]:
    """Write a temporary file in the same directory, then rename it."""
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(fd, stat.S_IMODE(path.stat().st_mode))
        for part in _slices(memory):
            with part:
                _write_sparse(fd, part)
                length_bytes = len(part)
            yield length_bytes
        os.ftruncate(fd, memory.geometry.length_bytes)
        os.fsync(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _write_through(memory: GuestMemory, path: str | Path) -> Job[None]:
    """Write to a pipe or device as it is."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for part in _slices(memory):
            with part:
                _write_all(fd, part)
                length_bytes = len(part)
            yield length_bytes
    finally:
        os.close(fd)


def _write_sparse(fd: int, part: memoryview) -> None:
    """Write what is not zero, and step over the rest."""
    for start in range(0, len(part), _HOLE_BYTES):
        with part[start : start + _HOLE_BYTES] as stretch:
            if np.frombuffer(stretch, dtype=np.uint64).any():
                _write_all(fd, stretch)
            else:
                os.lseek(fd, len(stretch), os.SEEK_CUR)


def _write_all(fd: int, part: memoryview) -> None:
    written_bytes = 0
    while written_bytes < len(part):
        with part[written_bytes:] as rest:
            written_bytes += os.write(fd, rest)
