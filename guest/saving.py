"""Save a guest to a file, whole, or as much of it as is there with a map of what is missing.

A regular file appears under its name when it is complete and on the disk (`whole_file`), and is its
owner's alone.  A pipe or a device is written as it is, and blocks for as long as its other end
likes.  Drive the jobs with `slices.in_thread`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guest.memory import GuestMemory
from guest.save_names import has_map, is_map, map_path, partial_target
from guest.slices import Job
from guest.whole_file import WholeFile, is_regular_target, open_named, write_all
from protocol.errors import GuestFailed
from protocol.units import format_bytes

# A stretch of zeros shorter than this is not worth a hole in the file.
_HOLE_BYTES = 64 << 10


@dataclass(frozen=True)
class Partial:
    """Where what there is of a guest has been saved.

    Attributes:
        path: Its memory, zeros where it is missing.
        map_path: What is missing; None where no file can lie beside the memory, as for a device.
    """

    path: Path
    map_path: Path | None


def check_room(path: str | Path, length_bytes: int) -> None:
    """Refuse a guest for which the disk has no room, as long as it is somewhere else.

    Its zeros would take none, but nobody knows how many there will be.

    Raises:
        GuestFailed: It does not fit.
    """
    if not is_regular_target(path):
        return
    with _named(path):
        room = os.statvfs(Path(os.path.realpath(path)).parent)
    free_bytes = room.f_bavail * room.f_frsize
    # What counts nothing (some network file systems) has no blocks at all.
    if room.f_blocks and free_bytes < length_bytes:
        raise GuestFailed(
            f"cannot save the guest to {path}: {format_bytes(free_bytes)} are free there, and it "
            f"has {format_bytes(length_bytes)}"
        )


def save_image(memory: GuestMemory, path: str | Path) -> Job[None]:
    """Write all blocks to a file, one after another; yields bytes.

    It has holes where the guest has zeros.  A map that a partial save has left beside it goes.

    Raises:
        GuestFailed: Writing failed; what stood there before still does.
    """
    with _named(path):
        if not is_regular_target(path):
            yield from _write_through(memory, path)
            return
        with WholeFile(path, private=True) as file:
            yield from _write(memory, file.fd)
            file.publish()
        if is_map(map_path(path)):
            map_path(path).unlink()


def save_partial(memory: GuestMemory, path: str | Path, lacking: bytes) -> Job[Partial]:
    """Write what there is of a guest, and what there is not; yields bytes.

    What a whole save has left under that name is worth more: it stays, and the part goes to
    `PATH.partial`.  The map is on the disk and has its name before the memory has its own.

    Args:
        memory: The guest's; zeros stand for what is missing.
        path: As for `save_image`.
        lacking: The map, as it is to be written.

    Raises:
        GuestFailed: Writing failed; what stood there before still does.
    """
    target = partial_target(path)
    beside = map_path(target) if has_map(target) else None
    with ExitStack() as stack:
        lack: WholeFile | None = None
        if beside is not None:
            with _named(beside):
                lack = stack.enter_context(WholeFile(beside, private=True))
                write_all(lack.fd, lacking)
        file: WholeFile | None = None
        if is_regular_target(target):
            with _named(target):
                file = stack.enter_context(WholeFile(target, private=True))
                yield from _write(memory, file.fd)
        if lack is not None and beside is not None:
            with _named(beside):
                lack.publish()
        with _named(target):
            if file is not None:
                file.publish()
            else:
                yield from _write_through(memory, target)
    return Partial(target, beside)


def _write(memory: GuestMemory, fd: int) -> Job[None]:
    """Write to a new regular file, and have its bytes on the disk."""
    for part in memory.parts():
        with part:
            _write_sparse(fd, part)
            length_bytes = len(part)
        yield length_bytes
    os.ftruncate(fd, memory.geometry.length_bytes)
    os.fsync(fd)


def _write_through(memory: GuestMemory, path: str | Path) -> Job[None]:
    """Write to a pipe or device as it is."""
    fd = open_named(path, os.O_WRONLY)
    try:
        for part in memory.parts():
            with part:
                write_all(fd, part)
                length_bytes = len(part)
            yield length_bytes
    finally:
        os.close(fd)


def _write_sparse(fd: int, part: memoryview) -> None:
    """Write what is not zero, and step over the rest."""
    for start in range(0, len(part), _HOLE_BYTES):
        with part[start : start + _HOLE_BYTES] as stretch:
            if np.frombuffer(stretch, dtype=np.uint64).any():
                write_all(fd, stretch)
            else:
                os.lseek(fd, len(stretch), os.SEEK_CUR)


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Turn an error of the system into one that says what could not be written.

    Raises:
        GuestFailed: There was one.
    """
    try:
        yield
    except OSError as error:
        raise GuestFailed(f"cannot save the guest to {path}: {error.strerror}") from error
