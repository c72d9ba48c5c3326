"""Looks at the files that a command line names before anything is started.

A migration takes its time; that its result cannot be written should be said before, not after it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from pathlib import Path

import click

from guest.save_names import partial_names, try_to_save
from guest.whole_file import own_descriptor


def check_readable(option: str, path: str) -> os.stat_result:
    """Return what kind of file it is, and how large.

    Raises:
        click.BadParameter: It is missing, a folder, or not ours to read.
    """
    _check_open(option, path)
    try:
        status = Path(path).stat()
    except OSError as error:
        raise unusable(option, path, error.strerror) from error
    if stat.S_ISDIR(status.st_mode):
        raise unusable(option, path, "is a directory")
    if not _may_use(path, os.R_OK):
        raise unusable(option, path, "Permission denied")
    return status


def check_twice_readable(option: str, path: str) -> None:
    """Refuse a pipe where two processes need what comes out of it.

    Raises:
        click.BadParameter: It is one, or cannot be read at all.
    """
    if not stat.S_ISREG(check_readable(option, path).st_mode):
        raise unusable(option, path, "is not a regular file, and must be read twice")


def check_writable(option: str, path: str, *, beside: bool = False) -> None:
    """Refuse what could not be written later.

    Args:
        option: For the message.
        path: An existing file, or where one is to be made.
        beside: A regular file is not written to, but replaced by one that is made in its folder.

    Raises:
        click.BadParameter: It is a folder, not ours to write, or in a folder that is missing.
    """
    _check_open(option, path)
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        # A link may point where no file is yet.
        folder = Path(os.path.realpath(path)).parent
        _check_folder(option, path, folder)
        return
    except OSError as error:
        raise unusable(option, path, error.strerror) from error
    if stat.S_ISDIR(mode):
        raise unusable(option, path, "is a directory")
    if beside and stat.S_ISREG(mode):
        _check_folder(option, path, Path(os.path.realpath(path)).parent)
    elif not _may_use(path, os.W_OK):
        raise unusable(option, path, "Permission denied")


def check_savable(option: str, path: str) -> None:
    """Refuse what a guest's memory could not be saved to, or the map beside it if some is missing.

    Raises:
        click.BadParameter: One of the names cannot be had, or there is no room at all.
    """
    check_writable(option, path, beside=True)
    for name in partial_names(path):
        check_writable(option, str(name), beside=True)
    try:
        try_to_save(path)
    except OSError as error:
        raise unusable(option, path, error.strerror) from error


def _check_open(option: str, path: str) -> None:
    """Refuse a standard stream that the shell has closed; something else may have its number."""
    own = own_descriptor(path)
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    if own is not None and own < len(streams) and streams[own] is None:
        raise unusable(option, path, "is closed")


def _may_use(path: str, wanted: int) -> bool:
    """Return whether a file can be read or written; one that is open by how it was opened."""
    own = own_descriptor(path)
    if own is None:
        return os.access(path, wanted)
    way = fcntl.fcntl(own, fcntl.F_GETFL) & os.O_ACCMODE
    return way in (os.O_RDWR, os.O_RDONLY if wanted == os.R_OK else os.O_WRONLY)


def check_fillable(option: str, path: str) -> None:
    """Refuse a folder that no files could be put into, or that could not be made.

    Raises:
        click.BadParameter: That is so.
    """
    folder = Path(path)
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
    except OSError as error:
        raise unusable(option, path, error.strerror) from error
    if not folder.is_dir():
        raise unusable(option, path, f"{str(folder)!r} is no directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise unusable(option, path, f"{str(folder)!r} is not writable")


def _check_folder(option: str, path: str, folder: Path) -> None:
    if not folder.is_dir():
        raise unusable(option, path, "its folder does not exist")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise unusable(option, path, "its folder is not writable")


def unusable(option: str, path: str, reason: str | None) -> click.BadParameter:
    """Return the complaint about a file that an option names."""
    return click.BadParameter(f"{path!r}: {reason}", param_hint=option)


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
