"""Opens files by name; the names of this process's own descriptors mean those, not what is behind.

To open /dev/stdin or /dev/fd/63 is to open anew what is behind the descriptor, which takes rights
that who was given the descriptor need not have (a pipe or terminal of another user), cannot be done
with a socket, and begins a regular file from its start.  The descriptor itself always works.
"""

from __future__ import annotations

import os
import re

_OWN = re.compile(r"/(?:dev/std(?P<name>in|out|err)|(?:dev|proc/self)/fd/(?P<fd>[0-9]{1,9}))")


def own_descriptor(path: str | os.PathLike[str]) -> int | None:
    """Return which of this process's descriptors a path names, None if it names a file."""
    match = _OWN.fullmatch(os.fspath(path))
    if match is None:
        return None
    return int(match["fd"] or ("in", "out", "err").index(match["name"]))


def open_named(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """Return a descriptor of one's own for a path, closed when another program is executed.

    Raises:
        OSError: It cannot be opened.
    """
    own = own_descriptor(path)
    # A terminal that is opened must not become the one whose Ctrl-C ends this process.
    flags |= os.O_CLOEXEC | os.O_NOCTTY
    return os.open(path, flags, mode) if own is None else os.dup(own)
