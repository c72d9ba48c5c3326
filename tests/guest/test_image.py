"""A guest is filled from a file of any kind and saved to one, or one line says why not."""

import contextlib
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import trio

from guest.image import load_image, save_image
from guest.memory import GuestMemory
from guest.slices import finish, in_thread
from protocol.errors import GuestFailed, LocalProtocolError
from protocol.geometry import Geometry, RamBlock

GUEST = Geometry((RamBlock("ram", 8 << 20, 2 << 20), RamBlock("rom", 64 << 10, 4096)))
GUEST_BYTES = GUEST.length_bytes


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """An empty guest of two blocks."""
    with GuestMemory.create(GUEST, "base") as made:
        yield made


@pytest.fixture
def content() -> bytes:
    """As many pseudo-random bytes as the guest has."""
    return np.random.default_rng(3).bytes(GUEST_BYTES)


def bytes_of(memory: GuestMemory) -> bytes:
    """Return all blocks one after another."""
    return b"".join(memory.views)


@contextmanager
def written_fifo(path: Path, content: bytes) -> Iterator[Path]:
    """A FIFO that another thread writes to, as a shell's process substitution is."""
    os.mkfifo(path)

    def write() -> None:
        with contextlib.suppress(BrokenPipeError):
            path.write_bytes(content)

    writer = threading.Thread(target=write)
    writer.start()
    yield path
    writer.join(10)
    assert not writer.is_alive()


@pytest.mark.parametrize("length", [0, 1, 4097, 8 << 20, (8 << 20) + 5, GUEST_BYTES])
def test_blocks_are_filled_in_order_and_the_rest_stays_zero(
    memory: GuestMemory, tmp_path: Path, content: bytes, length: int
) -> None:
    """Files of any length up to the guest's, also such as end inside a block."""
    path = tmp_path / "image"
    path.write_bytes(content[:length])
    assert finish(load_image(path, memory)) == length
    assert bytes_of(memory) == content[:length] + bytes(GUEST_BYTES - length)


def test_a_fifo_is_read_to_its_end(memory: GuestMemory, tmp_path: Path, content: bytes) -> None:
    """A pipe gives what it has in small portions, and no size beforehand."""
    with written_fifo(tmp_path / "fifo", content) as fifo:
        assert finish(load_image(fifo, memory)) == GUEST_BYTES
    assert bytes_of(memory) == content


def test_devices_fill_the_guest(memory: GuestMemory) -> None:
    """/dev/null is empty; /dev/urandom has no end and fills all."""
    assert finish(load_image("/dev/null", memory)) == 0
    assert finish(load_image("/dev/urandom", memory)) == GUEST_BYTES
    assert memory.words(1).all()


def test_a_file_larger_than_the_guest_is_refused(memory: GuestMemory, tmp_path: Path) -> None:
    """Both sizes are named, and nothing is read."""
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, GUEST_BYTES + 1)
    with pytest.raises(LocalProtocolError, match=f"{GUEST_BYTES + 1} bytes.*{GUEST_BYTES} bytes"):
        finish(load_image(path, memory))


def test_a_fifo_longer_than_the_guest_is_refused(
    memory: GuestMemory, tmp_path: Path, content: bytes
) -> None:
    """What turns out too large only at the end is refused as well."""
    with (
        written_fifo(tmp_path / "fifo", content + b"x") as fifo,
        pytest.raises(LocalProtocolError, match="do not fit"),
    ):
        finish(load_image(fifo, memory))


def test_what_cannot_be_read_is_refused_in_one_line(memory: GuestMemory, tmp_path: Path) -> None:
    """A missing file, a directory, and a file that fails to be read are named."""
    for path in (tmp_path / "missing", tmp_path, Path("/proc/self/mem")):
        with pytest.raises(LocalProtocolError, match=f"image {path}: ") as refused:
            finish(load_image(path, memory))
        assert "\n" not in str(refused.value)


async def test_loading_from_a_silent_fifo_can_be_cancelled(
    memory: GuestMemory, tmp_path: Path
) -> None:
    """A pipe that nobody writes does not hold the program."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with trio.fail_after(5):
        with trio.move_on_after(0.05) as scope:
            await in_thread(load_image(fifo, memory))
        assert scope.cancelled_caught
    os.close(os.open(fifo, os.O_WRONLY))


def test_a_saved_guest_is_all_blocks(memory: GuestMemory, tmp_path: Path, content: bytes) -> None:
    """The file has the guest's bytes, and nothing lies beside it."""
    (tmp_path / "old").write_bytes(content)
    finish(load_image(tmp_path / "old", memory))
    assert sum(save_image(memory, tmp_path / "new")) == GUEST_BYTES
    assert (tmp_path / "new").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_zeros_are_holes(memory: GuestMemory, tmp_path: Path) -> None:
    """An empty guest takes no space, and has its length all the same."""
    memory.views[0][5 << 20] = 1
    finish(save_image(memory, tmp_path / "image"))
    assert (tmp_path / "image").stat().st_blocks * 512 < 1 << 20
    assert (tmp_path / "image").read_bytes() == bytes_of(memory)


def test_saving_over_a_file_keeps_its_mode_and_links(memory: GuestMemory, tmp_path: Path) -> None:
    """An existing file is replaced as a whole; a symbolic link to it stays one."""
    (tmp_path / "image").write_bytes(b"old")
    (tmp_path / "image").chmod(0o600)
    (tmp_path / "link").symlink_to("image")
    finish(save_image(memory, tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "image").stat().st_size == GUEST_BYTES
    assert (tmp_path / "image").stat().st_mode & 0o777 == 0o600


def test_a_pipe_is_written_straight(memory: GuestMemory, tmp_path: Path) -> None:
    """A reader of a FIFO gets every byte, zeros too."""
    memory.words(1)[:] = 7
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    reader.start()
    finish(save_image(memory, fifo))
    reader.join(10)
    assert received == [bytes_of(memory)]


def test_a_failed_save_leaves_nothing(memory: GuestMemory, tmp_path: Path, content: bytes) -> None:
    """When the file cannot grow, the old one is still there and no half of the new one."""
    memory.views[0][:] = content[: 8 << 20]
    (tmp_path / "image").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, hard))
    try:
        with pytest.raises(GuestFailed, match=r"cannot save.*image: File too large"):
            finish(save_image(memory, tmp_path / "image"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["image"]
    assert (tmp_path / "image").read_bytes() == b"old"


def test_a_save_that_is_broken_off_leaves_nothing(memory: GuestMemory, tmp_path: Path) -> None:
    """Closing the job between two slices takes the temporary file away."""
    job = save_image(memory, tmp_path / "image")
    next(job)
    assert len(list(tmp_path.iterdir())) == 1
    job.close()
    assert list(tmp_path.iterdir()) == []


def test_targets_that_cannot_be_written_are_named(memory: GuestMemory, tmp_path: Path) -> None:
    """A full device, a directory and a path that leads nowhere end in one line."""
    for path in (Path("/dev/full"), tmp_path, tmp_path / "missing" / "image", Path("/dev/null/x")):
        with pytest.raises(GuestFailed, match=f"{path}: "):
            finish(save_image(memory, path))
