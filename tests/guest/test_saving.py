"""A guest is saved whole or in part, to a file of any kind, never in the place of a better one."""

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from guest.image import load_image
from guest.memory import GuestMemory
from guest.saving import Partial, check_room, save_image, save_partial
from guest.slices import finish
from protocol.errors import GuestFailed
from tests.guests import SAVED_GEOMETRY, bytes_of
from tests.processes import ROOT

GUEST_BYTES = SAVED_GEOMETRY.length_bytes
LACKING = b'{"schema": "midstream-missing/1", "blocks": []}\n'


def names(folder: Path) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_saved_guest_is_all_blocks(empty: GuestMemory, tmp_path: Path, content: bytes) -> None:
    """The file has the guest's bytes, and nothing lies beside it."""
    (tmp_path / "old").write_bytes(content)
    finish(load_image(tmp_path / "old", empty))
    assert sum(save_image(empty, tmp_path / "new")) == GUEST_BYTES
    assert (tmp_path / "new").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_zeros_are_holes(empty: GuestMemory, tmp_path: Path) -> None:
    """An empty guest takes no space, and has its length all the same."""
    empty.views[0][5 << 20] = 1
    finish(save_image(empty, tmp_path / "image"))
    assert (tmp_path / "image").stat().st_blocks * 512 < 1 << 20
    assert (tmp_path / "image").read_bytes() == b"".join(bytes_of(empty))


def test_saving_over_a_file_keeps_its_mode_and_links(empty: GuestMemory, tmp_path: Path) -> None:
    """An existing file is replaced as a whole; a symbolic link to it stays one."""
    (tmp_path / "image").write_bytes(b"old")
    (tmp_path / "image").chmod(0o600)
    (tmp_path / "link").symlink_to("image")
    finish(save_image(empty, tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "image").stat().st_size == GUEST_BYTES
    assert (tmp_path / "image").stat().st_mode & 0o777 == 0o600


def test_a_pipe_is_written_straight(empty: GuestMemory, tmp_path: Path) -> None:
    """A reader of a FIFO gets every byte, zeros too."""
    empty.words(1)[:] = 7
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    reader.start()
    finish(save_image(empty, fifo))
    reader.join(10)
    assert received == [b"".join(bytes_of(empty))]


def test_a_failed_save_leaves_nothing(empty: GuestMemory, tmp_path: Path, content: bytes) -> None:
    """When the file cannot grow, the old one is still there and no half of the new one."""
    empty.views[0][:] = content[: 8 << 20]
    (tmp_path / "image").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, hard))
    try:
        with pytest.raises(GuestFailed, match=r"cannot save.*image: File too large"):
            finish(save_image(empty, tmp_path / "image"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["image"]
    assert (tmp_path / "image").read_bytes() == b"old"


def test_a_save_that_is_broken_off_leaves_nothing(empty: GuestMemory, tmp_path: Path) -> None:
    """Closing the job between two slices leaves no file, and there was none on the way."""
    job = save_image(empty, tmp_path / "image")
    next(job)
    assert names(tmp_path) == []
    job.close()
    assert names(tmp_path) == []


def test_a_saved_guest_is_its_owners_alone(empty: GuestMemory, tmp_path: Path) -> None:
    """Whatever the umask says, nobody else may read a guest's memory, nor its owner not."""
    before = os.umask(0)
    try:
        for number, umask in enumerate((0o000, 0o022, 0o077, 0o777)):
            os.umask(umask)
            finish(save_image(empty, tmp_path / f"{number}"))
            finish(save_partial(empty, tmp_path / f"{number}-part", LACKING))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 12
    assert set(modes.values()) == {0o600}


def test_who_is_killed_while_it_saves_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL between two slices: there is no file of any name, and a good one is as it was."""
    (tmp_path / "image").write_bytes(b"old")
    code = (
        "import os, signal\n"
        "from guest.memory import GuestMemory\n"
        "from guest.saving import save_image\n"
        "from tests.guest.test_saving import SAVED_GEOMETRY\n"
        "memory = GuestMemory.create(SAVED_GEOMETRY, 'base')\n"
        "memory.words(0)[:] = 7\n"
        "next(save_image(memory, 'image'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == ["image"]
    assert (tmp_path / "image").read_bytes() == b"old"


def test_a_part_has_its_map(empty: GuestMemory, tmp_path: Path) -> None:
    """What is there has the guest's length, and what is not stands in the map beside it."""
    empty.views[0][5 << 20] = 1
    assert finish(save_partial(empty, tmp_path / "guest", LACKING)) == Partial(
        tmp_path / "guest", tmp_path / "guest.missing.json"
    )
    assert (tmp_path / "guest").read_bytes() == b"".join(bytes_of(empty))
    assert (tmp_path / "guest.missing.json").read_bytes() == LACKING


def test_a_part_never_replaces_a_whole_guest(empty: GuestMemory, tmp_path: Path) -> None:
    """It goes beside it; one part takes another's place, and a whole guest takes a part's."""
    guest, part = tmp_path / "guest", tmp_path / "guest.partial"
    guest.write_bytes(b"whole")
    for _ in range(2):
        saved = finish(save_partial(empty, guest, LACKING))
        assert saved == Partial(part, tmp_path / "guest.partial.missing.json")
        assert guest.read_bytes() == b"whole"
        assert part.read_bytes() == b"".join(bytes_of(empty))
    # What has a map is a part, whatever it is called.
    guest.with_name("guest.missing.json").write_bytes(LACKING)
    assert finish(save_partial(empty, guest, LACKING)).path == guest
    assert guest.read_bytes() == b"".join(bytes_of(empty))


def test_a_whole_guest_has_no_map(empty: GuestMemory, tmp_path: Path) -> None:
    """The map of a part that it replaces goes; a file of that name that is none stays."""
    finish(save_partial(empty, tmp_path / "guest", LACKING))
    finish(save_image(empty, tmp_path / "guest"))
    assert names(tmp_path) == ["guest"]
    other = tmp_path / "guest.missing.json"
    other.write_bytes(b"{}")
    finish(save_image(empty, tmp_path / "guest"))
    assert other.read_bytes() == b"{}"


def test_a_part_without_its_map_is_not_saved(empty: GuestMemory, tmp_path: Path) -> None:
    """Where the map cannot be written, no memory takes the name of a guest."""
    (tmp_path / "guest.missing.json").mkdir()
    with pytest.raises(GuestFailed, match=r"guest\.missing\.json: Is a directory"):
        finish(save_partial(empty, tmp_path / "guest", LACKING))
    assert names(tmp_path) == ["guest.missing.json"]


def test_a_disk_that_fills_up_keeps_what_was_there(empty: GuestMemory, tmp_path: Path) -> None:
    """Neither the memory nor the map of a part that does not fit is left."""
    empty.words(0)[:] = 7
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, hard))
    try:
        with pytest.raises(GuestFailed, match="guest: File too large"):
            finish(save_partial(empty, tmp_path / "guest", LACKING))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


def test_room_is_looked_for_before_a_guest_comes(tmp_path: Path) -> None:
    """A guest larger than what is free is refused with both sizes; a device has no size."""
    free_bytes = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    check_room(tmp_path / "guest", 1 << 20)
    check_room("/dev/null", 1 << 60)
    with pytest.raises(GuestFailed, match=r"TiB are free there|GiB are free there"):
        check_room(tmp_path / "guest", (1 << 60) + free_bytes)


def test_targets_that_cannot_be_written_are_named(empty: GuestMemory, tmp_path: Path) -> None:
    """A full device, a directory and a path that leads nowhere end in one line."""
    for path in (Path("/dev/full"), tmp_path, tmp_path / "missing" / "image", Path("/dev/null/x")):
        with pytest.raises(GuestFailed, match=f"{path}: "):
            finish(save_image(empty, path))
