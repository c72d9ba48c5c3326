"""A userfaultfd over real memory: who touches a page that is not mapped stops, and is let go."""

import ctypes
import errno
import os
import select
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from guest import abi, libc, userfaultfd
from guest.userfaultfd import Userfaultfd
from protocol.errors import GuestFailed

PAGE = 4096
SECONDS_MAX = 10


class Memory:
    """Pages with their numbers in them, and a second mapping that a userfaultfd guards."""

    def __init__(self, page_count: int) -> None:
        """Make it; no page of the second mapping is mapped."""
        self.fd = os.memfd_create("test")
        os.ftruncate(self.fd, page_count * PAGE)
        for page in range(page_count):
            os.pwrite(self.fd, page.to_bytes(8, "little"), page * PAGE)
        self.length_bytes = page_count * PAGE
        self.address = libc.map_shared(self.fd, self.length_bytes)
        self.faults = Userfaultfd.open(abi.UFFD_FEATURE_THREAD_ID | abi.UFFD_FEATURE_MINOR_SHMEM)
        self.modes = abi.UFFDIO_REGISTER_MODE_MISSING | abi.UFFDIO_REGISTER_MODE_MINOR
        self.ioctls = self.faults.register(self.address, self.length_bytes, self.modes)

    def at(self, page: int) -> int:
        """Return a page's address."""
        return self.address + page * PAGE

    def close(self) -> None:
        """Wake who still waits, and give all back."""
        self.faults.close()
        os.close(self.fd)


class Toucher:
    """A thread that reads the number in a page."""

    def __init__(self, memory: Memory, page: int) -> None:
        """Start it."""
        self._word = ctypes.c_uint64(2**64 - 1)
        self._address = memory.at(page)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        libc.memcpy(ctypes.addressof(self._word), self._address, 8)

    def ends(self, seconds: float = SECONDS_MAX) -> bool:
        """Tell whether it ends in so many seconds."""
        self.thread.join(seconds)
        return not self.thread.is_alive()

    @property
    def number(self) -> int:
        """What it read."""
        return self._word.value


@pytest.fixture
def memory() -> Iterator[Memory]:
    """Sixteen pages."""
    try:
        made = Memory(16)
    except GuestFailed as error:
        pytest.skip(f"userfaultfd: {error}")
    yield made
    made.close()


def wait_faults(memory: Memory, count: int) -> list[userfaultfd.PageFault]:
    """Return the next faults, which must be soon."""
    faults: list[userfaultfd.PageFault] = []
    deadline = time.monotonic() + SECONDS_MAX
    while len(faults) < count:
        assert time.monotonic() < deadline, f"{len(faults)} of {count} faults came"
        select.select([memory.faults.fd], [], [], 1)
        faults += memory.faults.read_faults()
    return faults


def test_a_touch_stops_until_its_page_is_mapped(memory: Memory) -> None:
    """The fault says where and who; mapping the page lets the thread see its bytes."""
    assert memory.faults.read_faults() == []
    assert memory.ioctls & abi.UFFDIO_CONTINUE_BIT
    toucher = Toucher(memory, 5)
    (fault,) = wait_faults(memory, 1)
    assert (fault.address, fault.thread_id) == (memory.at(5), toucher.thread.native_id)
    assert fault.is_minor
    assert not toucher.ends(0.02)
    assert memory.faults.map_pages(memory.at(5), PAGE, PAGE) == 0
    assert toucher.ends()
    assert toucher.number == 5


def test_a_run_wakes_all_who_wait_in_it(memory: Memory) -> None:
    """One call maps many pages, and lets everybody go who waits for any of them."""
    touchers = [Toucher(memory, page) for page in (1, 3, 3, 7)]
    wait_faults(memory, 4)
    memory.faults.map_pages(memory.address, memory.length_bytes, PAGE)
    assert all(toucher.ends() for toucher in touchers)
    assert [toucher.number for toucher in touchers] == [1, 3, 3, 7]


def test_pages_that_are_mapped_already_are_passed_over(memory: Memory) -> None:
    """Nothing between and after them is left out, and what was there is counted."""
    for page in (0, 2, 3, 15):
        assert memory.faults.map_pages(memory.at(page), PAGE, PAGE) == 0
    assert memory.faults.map_pages(memory.address, memory.length_bytes, PAGE) == 4 * PAGE
    touchers = [Toucher(memory, page) for page in range(16)]
    assert all(toucher.ends() for toucher in touchers)
    assert memory.faults.read_faults() == []


def test_a_page_that_is_mapped_twice_wakes_its_waiter(memory: Memory) -> None:
    """Who was not woken when the page was mapped is, when it is mapped once more."""
    toucher = Toucher(memory, 4)
    wait_faults(memory, 1)
    memory.faults.map_pages(memory.at(4), PAGE, PAGE, wakes=False)
    assert not toucher.ends(0.05)
    assert memory.faults.map_pages(memory.at(4), PAGE, PAGE) == PAGE
    assert toucher.ends()
    assert toucher.number == 4


def test_a_wake_alone_brings_no_page(memory: Memory) -> None:
    """Who is woken and finds nothing faults again; a lost wake-up is made good by another."""
    toucher = Toucher(memory, 6)
    wait_faults(memory, 1)
    memory.faults.wake(memory.at(6), PAGE)
    (again,) = wait_faults(memory, 1)
    assert again.address == memory.at(6)
    memory.faults.map_pages(memory.at(6), PAGE, PAGE, wakes=False)
    memory.faults.wake(memory.at(6), PAGE)
    assert toucher.ends()


def test_a_page_without_bytes_is_not_mapped(memory: Memory) -> None:
    """What the file has no bytes for, and what is not registered, is an error of the caller."""
    for page_count in (8, 16):
        os.ftruncate(memory.fd, page_count * PAGE)
    with pytest.raises(OSError, match=os.strerror(errno.EFAULT)):
        memory.faults.map_pages(memory.at(8), PAGE, PAGE)
    memory.faults.unregister(memory.address, memory.length_bytes)
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        memory.faults.map_pages(memory.address, PAGE, PAGE)


def test_unregistering_lets_everybody_go(memory: Memory) -> None:
    """A range that is left alone is memory like any other."""
    toucher = Toucher(memory, 2)
    wait_faults(memory, 1)
    memory.faults.unregister(memory.address, memory.length_bytes)
    assert toucher.ends()
    assert toucher.number == 2


Answer = tuple[int, OSError]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Answer]], list[tuple[str, int]]]:
    """A function that has the kernel answer as told, and returns what it was then asked."""

    def script(answers: list[Answer]) -> list[tuple[str, int]]:
        asked: list[tuple[str, int]] = []

        def answer(_: Userfaultfd, address: int, length_bytes: int, **_more: bool) -> Answer:
            asked.append(("map", address))
            return answers.pop(0) if answers else (length_bytes, OSError())

        monkeypatch.setattr(Userfaultfd, "_continue", answer)
        monkeypatch.setattr(Userfaultfd, "wake", lambda _, at, __: asked.append(("wake", at)))
        return asked

    return script


def failed(number: int) -> Answer:
    """Return the kernel's answer that it did nothing."""
    return -number, OSError(number, os.strerror(number))


def test_what_is_broken_off_goes_on_where_it_stopped(
    scripted: Callable[[list[Answer]], list[tuple[str, int]]],
) -> None:
    """After partial progress, after "again" and after a page that is there, nothing is lost."""
    again, exists = failed(errno.EAGAIN), failed(errno.EEXIST)
    asked = scripted([(2 * PAGE, again[1]), again, exists, again, (PAGE, again[1])])
    assert Userfaultfd(-1).map_pages(0, 8 * PAGE, PAGE) == PAGE
    assert asked == [
        ("map", 0), ("map", 2 * PAGE), ("map", 2 * PAGE), ("wake", 2 * PAGE),
        ("map", 3 * PAGE), ("map", 3 * PAGE), ("map", 4 * PAGE),
    ]  # fmt: skip


def test_a_kernel_that_never_does_it_is_given_up(
    scripted: Callable[[list[Answer]], list[tuple[str, int]]],
) -> None:
    """A kernel that says "again" without end has failed."""
    scripted([failed(errno.EAGAIN)] * 20_000)
    with pytest.raises(OSError, match=os.strerror(errno.EAGAIN)):
        Userfaultfd(-1).map_pages(0, PAGE, PAGE)


@pytest.mark.parametrize("number", [errno.ESRCH, errno.ENOSPC])
def test_a_process_that_is_gone_is_told(
    scripted: Callable[[list[Answer]], list[tuple[str, int]]], number: int
) -> None:
    """Memory of which nobody is left is the guest's failure."""
    scripted([failed(number)])
    with pytest.raises(GuestFailed, match="gone"):
        Userfaultfd(-1).map_pages(0, PAGE, PAGE)


def test_features_that_the_kernel_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says which of the wanted features are missing."""
    monkeypatch.setattr(userfaultfd, "known_features", lambda: abi.UFFD_FEATURE_THREAD_ID)
    wanted = abi.UFFD_FEATURE_THREAD_ID | abi.UFFD_FEATURE_MINOR_SHMEM | abi.UFFD_FEATURE_WP_ASYNC
    with pytest.raises(GuestFailed, match="lacks MINOR_SHMEM, WP_ASYNC"):
        Userfaultfd.open(wanted)


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSYS, "has no"), (errno.EPERM, "allowed")])
def test_a_process_that_may_have_none_is_told_why(
    monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """No system call, no device and no fallback: the line says what is in the way."""

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(libc, "userfaultfd", refuse)
    monkeypatch.setattr(userfaultfd, "_DEVICE", "/dev/missing")
    with pytest.raises(GuestFailed, match=words) as refused:
        userfaultfd.known_features()
    assert "\n" not in str(refused.value)


def test_a_user_without_privilege_gets_one_for_its_own_touches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the full one is refused, the one that leaves the kernel's own faults alone is taken."""
    asked = []

    def only_user_mode(flags: int) -> int:
        asked.append(flags)
        if not flags & abi.UFFD_USER_MODE_ONLY:
            raise PermissionError(errno.EPERM, "no")
        return os.eventfd(0)

    monkeypatch.setattr(libc, "userfaultfd", only_user_mode)
    monkeypatch.setattr(userfaultfd, "_DEVICE", "/dev/missing")
    os.close(userfaultfd._open())
    assert [flags & abi.UFFD_USER_MODE_ONLY for flags in asked] == [0, abi.UFFD_USER_MODE_ONLY]
