"""Files by name, and what this process has open by the names that Linux gives it."""

import os
from pathlib import Path

import pytest

from guest.descriptors import open_named, own_descriptor
from tests.helpers import nothing_left


@pytest.mark.parametrize(
    ("path", "fd"),
    [
        ("/dev/stdin", 0),
        ("/dev/stdout", 1),
        ("/dev/stderr", 2),
        ("/dev/fd/63", 63),
        ("/proc/self/fd/7", 7),
        ("/dev/fd/63/x", None),
        ("/dev/fd/", None),
        ("/dev/fd/-1", None),
        ("/dev/fd/²", None),
        ("/proc/1/fd/1", None),
        ("dev/stdin", None),
        ("/dev/null", None),
    ],
)
def test_names_of_own_descriptors(path: str, fd: int | None) -> None:
    """The names that every process has for its own descriptors are known, and no others."""
    assert own_descriptor(path) == own_descriptor(Path(path)) == fd


def test_a_descriptor_goes_on_where_it_stands(tmp_path: Path) -> None:
    """What is opened is the descriptor: its place in the file, whatever the file's rights are now.

    To open /dev/fd/N anew would begin at the start, and would need the rights.
    """
    path = tmp_path / "file"
    with path.open("wb") as file, nothing_left():
        file.write(b"one ")
        file.flush()
        path.chmod(0)
        fd = open_named(f"/dev/fd/{file.fileno()}", os.O_WRONLY | os.O_TRUNC)
        os.write(fd, b"two")
        assert not os.get_inheritable(fd)
        os.close(fd)
    assert path.read_bytes() == b"one two"


def test_a_file_is_opened_as_ever(tmp_path: Path) -> None:
    """Flags and mode are those of `os.open`; a descriptor that is not open is an error."""
    fd = open_named(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="Bad file descriptor"):
        open_named("/dev/fd/987654", os.O_RDONLY)
