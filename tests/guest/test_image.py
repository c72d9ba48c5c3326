"""A guest is filled from a file of any kind, or one line says why not."""

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from guest.image import load_image
from guest.memory import GuestMemory
from guest.slices import finish, in_thread
from protocol.errors import LocalProtocolError
from tests.guests import SAVED_GEOMETRY, bytes_of

GUEST_BYTES = SAVED_GEOMETRY.length_bytes


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
    empty: GuestMemory, tmp_path: Path, content: bytes, length: int
) -> None:
    """Files of any length up to the guest's, also such as end inside a block."""
    path = tmp_path / "image"
    path.write_bytes(content[:length])
    assert finish(load_image(path, empty)) == length
    assert b"".join(bytes_of(empty)) == content[:length] + bytes(GUEST_BYTES - length)


def test_a_fifo_is_read_to_its_end(empty: GuestMemory, tmp_path: Path, content: bytes) -> None:
    """A pipe gives what it has in small portions, and no size beforehand."""
    with written_fifo(tmp_path / "fifo", content) as fifo:
        assert finish(load_image(fifo, empty)) == GUEST_BYTES
    assert b"".join(bytes_of(empty)) == content


def test_devices_fill_the_guest(empty: GuestMemory) -> None:
    """/dev/null is empty; /dev/urandom has no end and fills all."""
    assert finish(load_image("/dev/null", empty)) == 0
    assert finish(load_image("/dev/urandom", empty)) == GUEST_BYTES
    assert empty.words(1).all()


def test_a_file_larger_than_the_guest_is_refused(empty: GuestMemory, tmp_path: Path) -> None:
    """Both sizes are named, and nothing is read."""
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, GUEST_BYTES + 1)
    with pytest.raises(LocalProtocolError, match=f"{GUEST_BYTES + 1} bytes.*{GUEST_BYTES} bytes"):
        finish(load_image(path, empty))


def test_a_fifo_longer_than_the_guest_is_refused(
    empty: GuestMemory, tmp_path: Path, content: bytes
) -> None:
    """What turns out too large only at the end is refused as well."""
    with (
        written_fifo(tmp_path / "fifo", content + b"x") as fifo,
        pytest.raises(LocalProtocolError, match="do not fit"),
    ):
        finish(load_image(fifo, empty))


def test_what_cannot_be_read_is_refused_in_one_line(empty: GuestMemory, tmp_path: Path) -> None:
    """A missing file, a directory, and a file that fails to be read are named."""
    for path in (tmp_path / "missing", tmp_path, Path("/proc/self/mem")):
        with pytest.raises(LocalProtocolError, match=f"image {path}: ") as refused:
            finish(load_image(path, empty))
        assert "\n" not in str(refused.value)


async def test_loading_from_a_silent_fifo_can_be_cancelled(
    empty: GuestMemory, tmp_path: Path
) -> None:
    """A pipe that nobody writes does not hold the program."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with trio.fail_after(5):
        with trio.move_on_after(0.05) as scope:
            await in_thread(load_image(fifo, empty))
        assert scope.cancelled_caught
    os.close(os.open(fifo, os.O_WRONLY))
