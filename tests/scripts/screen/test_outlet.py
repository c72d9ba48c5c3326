"""An outlet keeps nobody waiting, drops what does not fit, and counts it."""

import errno
import fcntl
import os
import pty
import select
import socket
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.screen.outlet import PIECE_BYTES_MAX, Outlet, may_block, write_all, write_output
from tests.bounds import nothing_left
from tests.processes import until

# What a reader that reads is waited for, on the slowest of machines.
PATIENT = (60.0, 60.0)
LINE = b"%07d\n"


@contextmanager
def small_pipe(*, owned: bool = True) -> Iterator[tuple[int, int]]:
    """Yield a pipe that holds one page; `owned` is the end to write to by an outlet."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIECE_BYTES_MAX)
    try:
        yield reader, writer
    finally:
        # A thread that is stuck ends with that.
        os.close(reader)
        if not owned:
            os.close(writer)


def read_all(reader: int) -> bytes:
    """Return all that is there, and all that comes until it ends."""
    data = b""
    while piece := os.read(reader, 1 << 16):
        data += piece
    return data


def test_what_is_read_comes_whole_and_in_order() -> None:
    """A reader that is only slower than the writer gets every line."""
    with nothing_left(), small_pipe() as (reader, writer):
        outlet = Outlet(writer, owned=True)
        for number in range(10_000):
            outlet.put(LINE % number)
        got: list[bytes] = []
        thread = threading.Thread(target=lambda: got.append(read_all(reader)))
        thread.start()
        outlet.finish(*PATIENT)
        thread.join()
        assert got[0].splitlines(keepends=True) == [LINE % number for number in range(10_000)]
        assert outlet.dropped == 0
        assert not outlet.is_behind


def unread_bytes(fd: int) -> int:
    """Return how many bytes lie in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_who_reads_nothing_holds_nobody_up() -> None:
    """Every line is in the pipe, or is counted; the pipe's flags are as they were."""
    with small_pipe() as (reader, writer):
        flags = fcntl.fcntl(writer, fcntl.F_GETFL)
        outlet = Outlet(writer, owned=True, bytes_max=4096)
        for number in range(10_000):
            outlet.put(LINE % number)
        assert outlet.is_behind
        assert fcntl.fcntl(writer, fcntl.F_GETFL) == flags
        # What is in the pipe is; the thread cannot get more of it there.  What poll() says is no
        # help: lines are added to a page that counts as full.
        room_bytes = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) - len(LINE % 0)
        until(lambda: unread_bytes(reader) > room_bytes)
        outlet.finish(0, 60)
        count = len(os.read(reader, 1 << 16)) // len(LINE % 0)
        assert outlet.dropped + count == 10_000
        outlet.put(b"too late\n")
        assert outlet.dropped + count == 10_001


def test_a_gap_is_told_where_it_is() -> None:
    """A reader that goes on learns how many lines it has missed; with these none is missing."""
    with small_pipe() as (reader, writer):
        outlet = Outlet(writer, owned=True, bytes_max=4096, tell_gap=lambda count: b"-%d\n" % count)
        for number in range(10_000):
            outlet.put(LINE % number)
        first = os.read(reader, 1 << 16)
        # The thread goes on as soon as there is room, and then so does who puts lines in.
        until(lambda: not outlet.is_behind)
        for number in range(10_000, 10_100):
            outlet.put(LINE % number)
        thread = threading.Thread(target=outlet.finish, args=PATIENT)
        thread.start()
        lines = (first + read_all(reader)).splitlines()
        thread.join()
    gaps = [-int(line) for line in lines if line.startswith(b"-")]
    numbers = [int(line) for line in lines if not line.startswith(b"-")]
    assert sum(gaps) == outlet.dropped > 0
    assert len(numbers) + sum(gaps) == 10_100
    place = lines.index(b"-%d" % gaps[0])
    assert int(lines[place + 1]) - int(lines[place - 1]) == gaps[0] + 1


def test_a_gap_at_the_end_is_told_too() -> None:
    """A reader that only comes for the end hears what it has missed."""
    with small_pipe() as (reader, writer):
        outlet = Outlet(writer, owned=True, bytes_max=1, tell_gap=lambda count: b"-%d\n" % count)
        for _ in range(3):
            outlet.put(b"x" * PIECE_BYTES_MAX)
        thread = threading.Thread(target=outlet.finish, args=PATIENT)
        thread.start()
        data = read_all(reader)
        thread.join()
    assert outlet.dropped > 0
    assert data.endswith(b"-%d\n" % outlet.dropped)


def test_a_reader_that_is_gone_is_an_error_that_is_kept() -> None:
    """All that comes then is dropped."""
    with nothing_left():
        with small_pipe() as (_, writer):
            outlet = Outlet(writer, owned=True)
        outlet.put(b"one\n")
        until(lambda: outlet.error is not None)
        assert isinstance(outlet.error, BrokenPipeError)
        outlet.put(b"two\n")
        outlet.finish(*PATIENT)
        assert outlet.dropped == 2


def test_a_fifo_that_nobody_opens_is_not_waited_for(tmp_path: Path) -> None:
    """Its opening waits in the thread; who comes late gets what has waited."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    outlet = Outlet(lambda: os.open(path, os.O_WRONLY), owned=True)
    outlet.put(b"one\n")
    reader = os.open(path, os.O_RDONLY)
    outlet.finish(*PATIENT)
    assert read_all(reader) == b"one\n"
    os.close(reader)

    outlet = Outlet(lambda: os.open(path, os.O_WRONLY), owned=True)
    outlet.put(b"two\n")
    outlet.finish(0, 60)
    assert outlet.dropped == 1
    # Let the thread go.
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


def test_what_is_not_used_is_closed() -> None:
    """An outlet that nothing was put into has no thread, and leaves nothing open."""
    with small_pipe() as (reader, writer):
        before = threading.enumerate()
        outlet = Outlet(writer, owned=True)
        # Threads of others may end meanwhile.
        assert set(threading.enumerate()) <= set(before)
        outlet.finish(*PATIENT)
        assert os.read(reader, 1) == b""


def test_somebody_else_s_non_blocking_pipe_gets_all() -> None:
    """Whoever shares a pipe may have made it non-blocking; nothing is lost to that."""
    with small_pipe(owned=False) as (reader, writer):
        os.set_blocking(writer, False)
        thread = threading.Thread(target=write_all, args=(writer, b"x" * 100_000))
        thread.start()
        count = 0
        while count < 100_000:
            count += len(os.read(reader, 1 << 16))
        thread.join()
        assert count == 100_000


def test_without_threads_what_blocks_nobody_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may have no more threads still reads what is said, as long as he reads."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with small_pipe(owned=False) as (reader, writer):
        outlet = Outlet(writer, owned=False)
        outlet.put(b"x" * PIECE_BYTES_MAX)
        outlet.put(b"dropped\n")
        assert len(os.read(reader, 1 << 16)) == PIECE_BYTES_MAX
        assert (outlet.dropped, outlet.error) == (1, None)
        outlet = Outlet(lambda: writer, owned=False)
        outlet.put(b"one\n")
        assert outlet.dropped == 1
        assert isinstance(outlet.error, BlockingIOError)


def test_a_stopped_terminal_holds_nobody_up() -> None:
    """Under Ctrl-S nothing is taken; after Ctrl-Q all of it is."""
    ours, theirs = pty.openpty()
    try:
        termios.tcflow(theirs, termios.TCOOFF)
        outlet = Outlet(theirs, owned=False)
        outlet.put(b"one\n")
        outlet.put(b"two\n")
        assert not outlet.wait(0.05)
        assert not select.select([ours], [], [], 0)[0]
        termios.tcflow(theirs, termios.TCOON)
        assert outlet.wait(*PATIENT)
        outlet.finish(*PATIENT)
        # A terminal hands out what it was given in pieces of its own.
        text = b""
        while len(text) < len(b"one\r\ntwo\r\n"):
            text += os.read(ours, 1 << 16)
        assert text == b"one\r\ntwo\r\n"
    finally:
        os.close(ours)
        os.close(theirs)


def test_what_may_block(tmp_path: Path) -> None:
    """A pipe, a socket and a terminal may; a file and a null device do not."""
    near, far = socket.socketpair()
    ours, theirs = pty.openpty()
    with small_pipe(owned=False) as (_, writer), near, far, (tmp_path / "file").open("wb") as file:
        assert all(may_block(fd) for fd in (writer, near.fileno(), theirs))
        assert not may_block(file.fileno())
        with Path(os.devnull).open("wb") as null, Path("/dev/full").open("wb") as full:
            assert not may_block(null.fileno())
            assert not may_block(full.fileno())
    os.close(ours)
    os.close(theirs)


def test_what_is_not_whole_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that gets full in the midst of a page leaves that of the run before, and no part."""
    path = tmp_path / "page"
    write_output(path, b"new")
    assert path.read_bytes() == b"new"

    def fill_up(fd: int, data: bytes) -> None:
        os.write(fd, data[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("scripts.screen.outlet.write_all", fill_up)
    with pytest.raises(OSError, match="No space left"):
        write_output(path, b"newer")
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["page"]
