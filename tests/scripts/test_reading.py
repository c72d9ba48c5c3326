"""Files of any kind are read up to a bound."""

import os
from pathlib import Path

import pytest

from scripts.reading import read_bounded


@pytest.mark.parametrize(("size", "read"), [(0, 0), (9, 9), (10, 10), (11, 11), (5000, 11)])
def test_no_more_than_a_byte_over_the_bound_is_read(tmp_path: Path, size: int, read: int) -> None:
    """Who asks for so much learns whether there is more."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    assert read_bounded(path, 10) == b"x" * read


def test_what_has_no_end() -> None:
    """A device is read like a file, and no further."""
    assert read_bounded("/dev/zero", 10) == bytes(11)


def test_pipes(tmp_path: Path) -> None:
    """A pipe is read in its pieces to its end; a named one that nobody writes to is empty."""
    near, far = os.pipe()
    os.write(far, b"one")
    pid = os.fork()
    if not pid:
        os.write(far, b"two")
        os._exit(0)
    os.close(far)
    try:
        assert read_bounded(f"/dev/fd/{near}", 100) == b"onetwo"
    finally:
        os.close(near)
        os.waitpid(pid, 0)
    os.mkfifo(tmp_path / "pipe")
    assert read_bounded(tmp_path / "pipe", 100) == b""


@pytest.mark.parametrize("path", ["", "missing"])
def test_what_cannot_be_read(tmp_path: Path, path: str) -> None:
    """A missing file and a directory are the system's errors, and leave nothing open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match=r"directory|No such"):
        read_bounded(tmp_path / path, 10)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
