"""Where the control sockets of this user's sources are: one a session, in folders of his alone.

A source takes the first folder that it can have; whoever looks for it may have another environment
(a service and a login differ in XDG_RUNTIME_DIR), so he looks in all that it may have taken.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

# Where the system keeps a user's runtime folder, whatever his environment says.
LOGINS = Path("/run/user")
FALLBACK = Path("/tmp")

SUFFIX = ".sock"

# What fits in a socket's address (`sun_path`), without the byte that ends it.
PATH_BYTES_MAX = 107

# How long a socket may be there before somebody listens on it.
_MAKING_SECONDS_MAX = 60.0


def folders_to_make() -> list[Path]:
    """Return the folders that a source tries for its socket, the best first."""
    given = _given_folder()
    return [*([given] if given is not None else []), _fallback()]


def folders_to_search() -> list[Path]:
    """Return the folders in which a source of this user may have its socket, each once."""
    login = LOGINS / str(os.geteuid()) / "midstream"
    given = _given_folder()
    return list(dict.fromkeys([*([given] if given is not None else []), login, _fallback()]))


def _given_folder() -> Path | None:
    given = os.environ.get("XDG_RUNTIME_DIR")
    return Path(given) / "midstream" if given and Path(given).is_dir() else None


def _fallback() -> Path:
    return FALLBACK / f"midstream-{os.geteuid()}"


def check_length(path: Path) -> None:
    """Check that a path can be a socket's.

    Raises:
        OSError: It is too long.
    """
    length_bytes = len(os.fsencode(path))
    if length_bytes > PATH_BYTES_MAX:
        reason = f"too long for a socket: {length_bytes} bytes, {PATH_BYTES_MAX} at most"
        raise OSError(errno.ENAMETOOLONG, reason, str(path))


def make_folder(path: Path) -> None:
    """Make a folder that is this user's alone, or see that it is.

    Raises:
        OSError: It is somebody else's, or others can enter it, or it cannot be made.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if not is_private(path):
        raise PermissionError(errno.EACCES, "not this user's alone", str(path))


def is_private(path: Path) -> bool:
    """Tell whether a folder is there, this user's, and nobody else's to enter."""
    try:
        status = path.lstat()
    except OSError:
        return False
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return mine and not stat.S_IMODE(status.st_mode) & 0o077


def sweep(folder: Path) -> None:
    """Remove the sockets of sources that were killed."""
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError):
            # One that is being made refuses, too.
            young = time.time() - path.stat().st_mtime < _MAKING_SECONDS_MAX
            if not young and not has_listener(path):
                path.unlink()


def has_listener(path: Path) -> bool:
    """Tell whether somebody listens on a socket, or may: only a refusal says that nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            return probe.connect_ex(str(path)) not in {errno.ECONNREFUSED, errno.ENOENT}
        except OSError:
            return False
