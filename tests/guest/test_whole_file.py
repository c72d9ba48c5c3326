"""A file appears whole or not at all, with names for files without names and without."""

import errno
import os
from pathlib import Path

import pytest

from guest import whole_file
from guest.whole_file import WholeFile, copy_whole, open_named, own_descriptor, write_all
from tests.bounds import nothing_left


@pytest.fixture(params=["unnamed", "hidden"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a file is kept until it is whole: as the file system here can, and as others can."""
    kind: str = request.param
    if kind == "hidden":
        monkeypatch.setattr(whole_file, "_open_unnamed", lambda *_: -1)
    return kind


def names(folder: Path) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_published(tmp_path: Path, kind: str) -> None:
    """Until then what had the name before is there, and afterwards nothing else is."""
    for content in (b"first", b"second"):
        before = names(tmp_path)
        with WholeFile(tmp_path / "file") as file:
            write_all(file.fd, content)
            hidden = set(names(tmp_path)) - set(before)
            assert len(hidden) == (kind == "hidden")
            assert all(name.startswith(".file.") and name.endswith(".part") for name in hidden)
            file.publish()
        assert names(tmp_path) == ["file"]
        assert (tmp_path / "file").read_bytes() == content


def fill_disk(fd: int) -> None:
    """Write some, and fail."""
    write_all(fd, b"new")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.usefixtures("kind")
def test_a_file_that_is_dropped_leaves_nothing(tmp_path: Path) -> None:
    """Whoever fails before it is published has made nothing and changed nothing."""
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"), WholeFile(tmp_path / "file") as file:
        fill_disk(file.fd)
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.usefixtures("kind")
def test_a_copy_appears_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it replaces stays where the disk is full."""
    (tmp_path / "from").write_bytes(b"new" * 1_000_000)
    (tmp_path / "file").write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(whole_file, "write_all", lambda fd, _: fill_disk(fd))
        with pytest.raises(OSError, match="No space left"):
            copy_whole(tmp_path / "from", tmp_path / "file")
    assert names(tmp_path) == ["file", "from"]
    assert (tmp_path / "file").read_bytes() == b"old"
    copy_whole(tmp_path / "from", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"new" * 1_000_000


@pytest.mark.usefixtures("kind")
def test_a_name_that_cannot_be_had_leaves_nothing(tmp_path: Path) -> None:
    """A folder of that name stays, and no hidden file beside it."""
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match=r"[dD]irectory"), WholeFile(tmp_path / "file") as file:
        file.publish()
    assert names(tmp_path) == ["file"]


@pytest.mark.usefixtures("kind")
def test_a_long_name_may_be_as_long_as_any(tmp_path: Path) -> None:
    """Whatever is hidden beside it has a name that fits; letters of several bytes are cut whole."""
    for name in ("x" * 255, "ü" * 127):
        for _ in range(2):
            with WholeFile(tmp_path / name) as file:
                file.publish()
        assert names(tmp_path) == [name]
        (tmp_path / name).unlink()


@pytest.mark.usefixtures("kind")
def test_modes(tmp_path: Path) -> None:
    """A new file has what the umask leaves, or is private; one that is replaced hands its on."""
    before = os.umask(0o027)
    try:
        for name, private in (("public", False), ("private", True)):
            with WholeFile(tmp_path / name, private=private) as file:
                file.publish()
    finally:
        os.umask(before)
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    (tmp_path / "private").chmod(0o604)
    with WholeFile(tmp_path / "private", private=True) as file:
        file.publish()
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o604


@pytest.mark.usefixtures("kind")
def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    """What it leads to is replaced, there or not yet."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    for _ in range(2):
        with WholeFile(tmp_path / "link") as file:
            file.publish(lasting=False)
        assert (tmp_path / "link").is_symlink()
        assert names(tmp_path / "folder") == ["file"]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def test_a_file_system_without_unnamed_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whatever it says to that, a hidden name does."""
    real = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    with WholeFile(tmp_path / "file") as file:
        assert [name[:6] for name in names(tmp_path)] == [".file."]
        file.publish()
    assert names(tmp_path) == ["file"]


def test_a_folder_that_takes_no_files(tmp_path: Path) -> None:
    """What the system says of it is the error."""
    with pytest.raises(FileNotFoundError):
        WholeFile(tmp_path / "no" / "file")


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
    path.chmod(0o600)
    assert path.read_bytes() == b"one two"


def test_a_file_is_opened_as_ever(tmp_path: Path) -> None:
    """Flags and mode are those of `os.open`; a descriptor that is not open is an error."""
    fd = open_named(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="Bad file descriptor"):
        open_named("/dev/fd/987654", os.O_RDONLY)
