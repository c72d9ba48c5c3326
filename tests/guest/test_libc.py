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
