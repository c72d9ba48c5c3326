"""Files that a command line names are looked at before anything starts."""

import os
import sys
from pathlib import Path

import click
import pytest

from scripts.files import check_readable, check_writable, read_bounded

IS_ROOT = os.geteuid() == 0


def test_a_readable_file_is_measured(tmp_path: Path) -> None:
    """A file that is there and ours to read is told with its size."""
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    assert check_readable("--image", str(file)).st_size == 3


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A file that is missing, or a directory, is refused in words that name it and the option."""
    for path, reason in ((tmp_path / "no", "No such file or directory"), (tmp_path, "directory")):
        with pytest.raises(click.BadParameter, match=reason) as caught:
            check_readable("--image", str(path))
        assert "--image" in caught.value.format_message()
        assert str(path) in caught.value.format_message()


def test_what_can_be_written_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file to be made, one to be replaced, a device, and a link to no file yet are all fine."""
    old = tmp_path / "old"
    old.write_bytes(b"kept")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "new")
    # A name without a folder is one in the present folder, which may be a read-only checkout.
    monkeypatch.chdir(tmp_path)
    for path in ("relative", str(tmp_path / "new"), str(old), str(link), "/dev/null"):
        check_writable("--report", path)
        check_writable("--save", path, beside=True)
    # Looking has changed nothing.
    assert old.read_bytes() == b"kept"
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A directory, a file in none, one under a file, and too long a name are refused."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    wrong = {
        str(tmp_path): "is a directory",
        str(tmp_path / "no" / "file"): "its folder does not exist",
        str(tmp_path / "file" / "file"): "Not a directory",
        str(tmp_path / ("x" * 300)): "File name too long",
        str(tmp_path / "loop"): "symbolic links",
    }
    for path, reason in wrong.items():
        with pytest.raises(click.BadParameter, match=reason):
            check_writable("--report", path)


@pytest.mark.skipif(IS_ROOT, reason="root may read and write everything")
def test_permissions_are_looked_at(tmp_path: Path) -> None:
    """What is there but not ours to read or write is refused."""
    file = tmp_path / "file"
    file.touch(0o000)
    with pytest.raises(click.BadParameter, match="Permission denied"):
        check_readable("--image", str(file))
    with pytest.raises(click.BadParameter, match="Permission denied"):
        check_writable("--report", str(file))
    tmp_path.chmod(0o500)
    with pytest.raises(click.BadParameter, match="its folder is not writable"):
        check_writable("--save", str(file), beside=True)
    tmp_path.chmod(0o700)


def test_what_is_open_is_used_as_it_was_opened() -> None:
    """What a process was given counts, and not what its user may open by that path."""
    reader, writer = os.pipe()
    try:
        check_readable("--image", f"/dev/fd/{reader}")
        check_writable("--save", f"/dev/fd/{writer}")
        with pytest.raises(click.BadParameter, match="Permission denied"):
            check_readable("--image", f"/dev/fd/{writer}")
        with pytest.raises(click.BadParameter, match="Permission denied"):
            check_writable("--save", f"/dev/fd/{reader}")
    finally:
        os.close(reader)
        os.close(writer)


def test_a_stream_that_the_shell_has_closed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be something else's by now."""
    for name in ("__stdin__", "__stdout__"):
        monkeypatch.setattr(sys, name, None)
    with pytest.raises(click.BadParameter, match="/dev/stdin': is closed"):
        check_readable("--image", "/dev/stdin")
    with pytest.raises(click.BadParameter, match="/dev/fd/1': is closed"):
        check_writable("--save", "/dev/fd/1")


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
