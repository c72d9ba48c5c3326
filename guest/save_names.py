"""Names of the files that saving a guest makes, and whether they can be made.

A whole guest is in FILE.  A part of one has a map of what it lacks beside it, FILE.missing.json;
where a whole one has the name already, they are FILE.partial and FILE.partial.missing.json.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from guest.whole_file import WholeFile, is_regular_target, write_all
from protocol.geometry import TARGET_PAGE_BYTES

# What a map begins with, so that no other file is taken for one.
_MAP_BEGIN = b'{"schema": "midstream-missing/'


def map_path(path: str | Path) -> Path:
    """Return where the map of what a saved guest lacks lies."""
    return Path(f"{_beside(path)}.missing.json")


def names(path: str | Path) -> list[Path]:
    """Return every name under which saving to `path` may write a file."""
    aside = _aside(path)
    return [Path(path), map_path(path), aside, map_path(aside)]


def partial_names(path: str | Path) -> list[Path]:
    """Return the names under which a partial save would write now: the memory's and the map's."""
    target = partial_target(path)
    return [target, map_path(target)] if has_map(target) else [target]


def partial_target(path: str | Path) -> Path:
    """Return where a part may go: not where a file stands that may be a whole guest."""
    try:
        status = Path(path).stat()
    except OSError:
        return Path(path)
    is_kept = stat.S_ISREG(status.st_mode) and status.st_size and not is_map(map_path(path))
    return _aside(path) if is_kept else Path(path)


def has_map(target: Path) -> bool:
    """Whether a map may lie beside: where devices and descriptors have names is no place for it."""
    try:
        mode = target.stat().st_mode
    except OSError:
        return True
    return stat.S_ISREG(mode) or (stat.S_ISFIFO(mode) and not _is_of_system(target))


def is_map(path: Path) -> bool:
    """Tell whether a file is a map that a partial save has left."""
    try:
        # Whatever else has that name is not waited for.
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(len(_MAP_BEGIN)) == _MAP_BEGIN
    except OSError:
        return False


def try_to_save(path: str | Path) -> None:
    """Find out now what would keep a guest from being saved later; leaves everything as it was.

    Raises:
        OSError: No file can be made there, or the disk is full.
    """
    if is_regular_target(path):
        with WholeFile(path, private=True) as file:
            write_all(file.fd, bytes(TARGET_PAGE_BYTES))
            # Some file systems look for the room only now.
            os.fsync(file.fd)


def _aside(path: str | Path) -> Path:
    return Path(f"{_beside(path)}.partial")


def _beside(path: str | Path) -> Path:
    """Return the name that others stand beside; `/dev/stdout` may be a file that is elsewhere."""
    return Path(os.path.realpath(path)) if _is_of_system(Path(path)) else Path(path)


def _is_of_system(path: Path) -> bool:
    return Path(os.path.realpath(path.parent)).parts[1:2] in {("dev",), ("proc",)}
