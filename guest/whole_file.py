"""Files by name: this process's own descriptors, and files that appear when they are whole.

To open /dev/stdin or /dev/fd/63 is to open anew what is behind the descriptor, which takes rights
that who was given the descriptor need not have (a pipe or terminal of another user), cannot be done
with a socket, and begins a regular file from its start.  The descriptor itself always works.

Of a file that never becomes whole, nothing is left.  While it is written it has no name
(O_TMPFILE), so the kernel frees it with its process, however that ends: SIGKILL, a crash, a power
cut.  A file system without such files (NFS, FUSE, some overlays) gives it a hidden name in the same
folder, `.NAME.XXXXXXXX.part`: who fails removes it, but of who is killed it stays.  The same holds
for the moment in which a whole file takes another's place: an unnamed file can only be linked where
nothing is, so it is hidden for two system calls.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

# What is kept of a long name in a hidden one, which may have 255 bytes like any other.
_NAME_BYTES_MAX = 200

# What is copied at once.
_COPIED_BYTES = 1 << 20

_PRIVATE_MODE = 0o600
_PUBLIC_MODE = 0o666

# How kernels and file systems say that they have no files without names.
_NO_UNNAMED = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS, errno.ENOENT})


class WholeFile:
    """A file to be; `publish` gives it its name.  Leaving the block without that drops it.

    Attributes:
        fd: For writing; at its beginning.
        path: Where it will be: symbolic links are followed, and stay.
    """

    def __init__(self, path: str | Path, *, private: bool = False) -> None:
        """Open a file in the folder of `path`; what stands under that name is not touched.

        A file that is to be replaced hands on its mode.

        Args:
            path: Names a regular file, or nothing yet.
            private: A new file is its owner's alone, whatever the umask says.

        Raises:
            OSError: No file can be made in that folder.
        """
        self.path = Path(os.path.realpath(path))
        self._hidden: Path | None = None
        self._is_private = private
        self.fd = self._open()

    def publish(self, *, lasting: bool = True) -> None:
        """Give the file its name, in the place of what may have had it before.

        Args:
            lasting: Have it on the disk first, so that no power cut leaves half of it.

        Raises:
            OSError: It cannot be written, or not be named.
        """
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(self.fd, stat.S_IMODE(self.path.stat().st_mode))
        if lasting:
            os.fsync(self.fd)
        if self._hidden is None:
            try:
                self._link(self.path)
            except FileExistsError:
                hidden = self._hidden_path()
                self._link(hidden)
                self._hidden = hidden
        if self._hidden is not None:
            self._hidden.replace(self.path)
            self._hidden = None
        if lasting:
            _sync_folder(self.path.parent)

    def close(self) -> None:
        """Drop it, unless it has its name."""
        os.close(self.fd)
        if self._hidden is not None:
            self._hidden.unlink(missing_ok=True)

    def _open(self) -> int:
        mode = _PRIVATE_MODE if self._is_private else _PUBLIC_MODE
        fd = _open_unnamed(self.path.parent, mode)
        if fd < 0:
            self._hidden = self._hidden_path()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(self._hidden, flags, mode)
        if self._is_private:
            os.fchmod(fd, _PRIVATE_MODE)
        return fd

    def _link(self, name: Path) -> None:
        """Give the unnamed file a name; by its descriptor's path, which takes no privilege."""
        folder = os.open(name.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Without a folder's descriptor Python would link the symbolic link itself.
            os.link(f"/proc/self/fd/{self.fd}", name.name, dst_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)

    def _hidden_path(self) -> Path:
        name = os.fsencode(self.path.name)[:_NAME_BYTES_MAX].decode(errors="ignore")
        return self.path.with_name(f".{name}.{secrets.token_hex(4)}.part")

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()


def is_regular_target(path: str | Path) -> bool:
    """Whether a regular file is, or would be made, at this path."""
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except FileNotFoundError:
        return True


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file; what stands under the other name is replaced when all of it is there.

    Raises:
        OSError: It cannot be read, or not be written.
    """
    with source.open("rb") as file, WholeFile(target) as copy:
        while data := file.read(_COPIED_BYTES):
            write_all(copy.fd, data)
        copy.publish(lasting=False)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte.

    Raises:
        OSError: They cannot be written.
    """
    with memoryview(data) as view:
        written_bytes = 0
        while written_bytes < len(view):
            with view[written_bytes:] as rest:
                written_bytes += os.write(fd, rest)


def _open_unnamed(folder: Path, mode: int) -> int:
    """Return a file without a name, -1 where there are none.

    Raises:
        OSError: No file can be made in that folder.
    """
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno in _NO_UNNAMED:
            return -1
        raise
    # Without /proc it could not be given a name.
    if Path(f"/proc/self/fd/{fd}").exists():
        return fd
    os.close(fd)
    return -1


def _sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk, where the file system knows how."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)


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
