"""The door to libc: failures are OSErrors, and a child does not outlive its parent."""

import ctypes
import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guest import abi, libc


@contextmanager
def shared_memory(length_bytes: int) -> Iterator[tuple[int, int]]:
    """Give a memfd and the address of a mapping of it."""
    fd = os.memfd_create("test")
    try:
        os.ftruncate(fd, length_bytes)
        yield fd, libc.map_shared(fd, length_bytes)
    finally:
        os.close(fd)


def test_memcpy_copies_between_addresses() -> None:
    """What is copied to a shared mapping stands in its file."""
    with shared_memory(4096) as (fd, address):
        word = ctypes.c_uint64(0x1122334455667788)
        libc.memcpy(address + 16, ctypes.addressof(word), 8)
        assert os.pread(fd, 8, 16) == bytes(word)


def test_a_failed_mapping_is_an_oserror() -> None:
    """The error says which call failed and why."""
    with pytest.raises(OSError, match="mmap") as failed:
        libc.map_shared(-1, 4096)
    assert failed.value.errno == errno.EBADF


MIB = 1 << 20


def test_a_mapping_begins_where_a_huge_page_can() -> None:
    """At a multiple of what is asked for, whatever lies beside it; and all of it is the file's."""
    with shared_memory(2 * MIB) as (fd, _):
        for align_bytes in (MIB, 4 * MIB):
            address = libc.map_shared(fd, 2 * MIB, align_bytes)
            assert address % align_bytes == 0
            word = ctypes.c_uint64(align_bytes)
            libc.memcpy(address + 2 * MIB - 8, ctypes.addressof(word), 8)
            assert os.pread(fd, 8, 2 * MIB - 8) == bytes(word)
            libc.unmap(address, 2 * MIB)


class Neighbour:
    """Another thread, which maps a page wherever `map_shared` is about to map a file.

    Attributes:
        pages: The addresses of its pages.
        refuses: Whether the file is refused then, as huge pages are where none is free: whatever
            was to be mapped over is gone by that time (mmap(2)).
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, refuses: bool, count_max: int) -> None:
        self.pages: list[int] = []
        self._refuses = refuses
        self._count_max = count_max
        self._mmap = libc._mmap
        monkeypatch.setattr(libc, "_mmap", self._map)

    def _map(
        self, address: int | None, length: int, protection: int, flags: int, fd: int, offset: int
    ) -> int:
        if fd >= 0 and len(self.pages) < self._count_max:
            assert address is not None
            if not flags & libc.MAP_FIXED_NOREPLACE:
                libc.unmap(address, length)
            how = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | libc.MAP_FIXED_NOREPLACE
            writable = libc.PROT_READ | libc.PROT_WRITE
            self.pages.append(self._mmap(address, mmap.PAGESIZE, writable, how, -1, 0))
            libc.memcpy(address, ctypes.addressof(ctypes.c_uint64(address)), 8)
            if self._refuses:
                raise OSError(errno.ENOMEM, "mmap: refused")
        return self._mmap(address, length, protection, flags, fd, offset)

    def leave(self) -> None:
        """Check that every page is there and holds what was written to it, and unmap them."""
        for page in self.pages:
            # Of what is not mapped the kernel says so, and nobody is killed.
            libc.madvise(page, mmap.PAGESIZE, abi.MADV_POPULATE_WRITE)
            word = ctypes.c_uint64()
            libc.memcpy(ctypes.addressof(word), page, 8)
            assert word.value == page
            libc.unmap(page, mmap.PAGESIZE)


def test_a_refused_mapping_takes_nobody_elses_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came to lie where it was to be stays there: an interpreter's own objects, once."""
    with shared_memory(2 * MIB) as (fd, _):
        neighbour = Neighbour(monkeypatch, refuses=True, count_max=1)
        with pytest.raises(OSError, match="refused"):
            libc.map_shared(fd, 2 * MIB, 2 * MIB)
        neighbour.leave()


def test_a_place_that_is_taken_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another is found; and if none is left in peace the mapping fails, and takes nothing away."""
    with shared_memory(2 * MIB) as (fd, _):
        neighbour = Neighbour(monkeypatch, refuses=False, count_max=3)
        address = libc.map_shared(fd, 2 * MIB, 2 * MIB)
        assert address not in neighbour.pages
        neighbour.leave()
        libc.unmap(address, 2 * MIB)
        neighbour = Neighbour(monkeypatch, refuses=False, count_max=1000)
        with pytest.raises(OSError, match="mmap") as failed:
            libc.map_shared(fd, 2 * MIB, 2 * MIB)
        assert failed.value.errno == errno.ENOMEM
        neighbour.leave()


# Which huge pages there are, not how many are free: nobody has a tebibyte of them.
HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
# The kernel refuses, and the next object does not fit into what memory the interpreter has.
REFUSED = """
import os
from pathlib import Path
from guest import libc

def pages():
    return int(Path("/proc/self/statm").read_text().split()[0])

def words_in_new_memory(number, words=os.strerror):
    global kept
    before, more = pages(), 1000
    while more:
        kept = OSError(), kept
        more -= pages() > before
    return words(number)

kept = None
fd = os.memfd_create("huge", os.MFD_HUGETLB | 21 << 26)
os.ftruncate(fd, 1 << 40)
os.strerror = words_in_new_memory
try:
    libc.map_shared(fd, 1 << 40, 2 << 20)
except OSError as error:
    print(error.errno)
"""


@pytest.mark.skipif(not HUGE_PAGES.is_dir(), reason="this kernel has no huge pages of 2 MiB")
def test_a_refusal_survives_its_own_telling() -> None:
    """The exception that tells of it may lie just where the mapping was to be."""
    done = subprocess.run(
        [sys.executable, "-c", REFUSED], stdout=subprocess.PIPE, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"%d\n" % errno.ENOMEM)


def test_a_failed_advice_is_an_oserror() -> None:
    """An address that is no page's is refused by the kernel, not ignored."""
    with shared_memory(4096) as (_, address), pytest.raises(OSError, match="madvise") as failed:
        libc.madvise(address + 1, 4096, abi.MADV_POPULATE_WRITE)
    assert failed.value.errno == errno.EINVAL


def test_madvise_populates() -> None:
    """The advice that this project lives on does what it says."""
    with shared_memory(1 << 20) as (fd, address):
        libc.madvise(address, 1 << 20, abi.MADV_POPULATE_WRITE)
        assert os.fstat(fd).st_blocks * 512 == 1 << 20


CHILD = """
import os, signal, sys
from guest import abi, libc
libc.die_with_parent(int(sys.argv[1]), signal.Signals(int(sys.argv[2])))
os.write(1, b"alive\\n")
signal.pause()
"""
PARENT = """
import os, signal, subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]])
signal.pause()
"""


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_dies_with_its_parent(signal_number: signal.Signals) -> None:
    """However the parent ends, the kernel ends the child."""
    arguments = [sys.executable, "-c", PARENT, CHILD, str(int(signal_number))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"alive\n"
        parent.kill()
        # Only the child holds the pipe now.  Its end is the end of the child.
        assert parent.stdout.read() == b""


def test_a_child_whose_parent_is_gone_exits() -> None:
    """When the parent ended before the kernel was asked, the child notices by itself."""
    arguments = [sys.executable, "-c", CHILD, "1", "9"]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stdout == b""


def test_precise_timeouts_can_be_asked_for() -> None:
    """The kernel takes the timer slack that vCPUs ask for."""
    libc.use_precise_timeouts()


def test_mapping_hands_out_no_buffer() -> None:
    """A mapping for vCPUs is a number: nothing that could be sliced with the GIL held."""
    with shared_memory(mmap.PAGESIZE) as (_, address):
        assert type(address) is int


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number is x86-64's")
def test_a_signal_goes_to_one_thread() -> None:
    """It is pending for that thread and no other; one that is not there is told."""
    number = signal.SIGUSR1
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        libc.tgkill(os.getpid(), threading.get_native_id(), number)
        assert number in signal.sigpending()
        assert signal.sigwait({number}) == number
        with pytest.raises(ProcessLookupError):
            libc.tgkill(os.getpid(), 1 << 22, number)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
