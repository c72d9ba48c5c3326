"""Guest memory is made whole or refused, and given back."""

import errno
import os

import numpy as np
import pytest

from guest import backing, libc
from guest.memory import GuestMemory
from guest.slices import finish
from protocol.errors import GuestFailed, LocalProtocolError
from protocol.geometry import Geometry, RamBlock
from tests.bounds import open_files
from tests.guests import HUGE, huge_mapped_bytes


def test_memory_is_zero_and_shared_with_its_fds(geometry: Geometry) -> None:
    """Views, words and memfds of a block are the same bytes, all zero at first."""
    with GuestMemory.create(geometry) as memory:
        assert [len(view) for view in memory.views] == [4 << 20, 64 << 10]
        assert not memory.words(0).any()
        memory.words(1)[3] = 0x0102030405060708
        assert memory.views[1][24:32] == bytes([8, 7, 6, 5, 4, 3, 2, 1])
        assert os.pread(memory.fds[1], 1, 24) == b"\x08"


def test_the_backing_is_told(geometry: Geometry) -> None:
    """What was really used is named once for each kind."""
    with GuestMemory.create(geometry, "base") as memory:
        assert memory.backing == "base"
    with GuestMemory.create(geometry) as memory:
        assert memory.backing in ("base", "thp,base", "hugetlb,base")


def test_an_unknown_backing_is_our_fault(geometry: Geometry) -> None:
    """The choices are named."""
    with pytest.raises(LocalProtocolError, match="auto, hugetlb, thp, base"):
        GuestMemory.create(geometry, "swap")


def test_populate_allocates_everything_in_slices(geometry: Geometry) -> None:
    """Afterwards no page is missing; no slice is long."""
    with GuestMemory.create(geometry, "base") as memory:
        slices = list(memory.populate())
        assert max(slices) <= 64 << 20
        assert sum(slices) == geometry.length_bytes
        assert slices == [span.length for span in memory.slices()]
        for fd, view in zip(memory.fds, memory.views, strict=True):
            assert os.fstat(fd).st_blocks * 512 == len(view)


def test_populate_keeps_what_is_there(memory: GuestMemory) -> None:
    """Populating filled memory changes nothing."""
    before = memory.words(0).copy()
    finish(memory.populate())
    assert np.array_equal(memory.words(0), before)


def test_populate_touches_every_page_on_an_older_kernel(
    geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel does not know the advice, a write that changes nothing does as well."""

    def refuse(*_arguments: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(libc, "madvise", refuse)
    with GuestMemory.create(geometry, "base") as memory:
        memory.words(1)[0] = 5
        finish(memory.populate())
        assert os.fstat(memory.fds[0]).st_blocks * 512 == 4 << 20
        assert memory.words(1)[0] == 5


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EFAULT, errno.ENOSPC])
def test_populate_says_when_memory_runs_out(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The kernel's refusal becomes one line that names the block."""

    def refuse(*_arguments: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(libc, "madvise", refuse)
    with pytest.raises(GuestFailed, match=r"'ram'.*cannot allocate"):
        finish(memory.populate())


def test_a_guest_larger_than_the_machine_is_refused() -> None:
    """A sparse memfd would be made without complaint, and end in the OOM killer."""
    with pytest.raises(GuestFailed, match="this machine has"):
        GuestMemory.create(Geometry((RamBlock("ram", 1 << 46, 4096),)))


def test_a_refused_guest_leaves_nothing(
    geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks that were made before the one that failed are given back."""
    before = open_files()
    monkeypatch.setattr(backing, "_machine_free_bytes", lambda: 0)
    with pytest.raises(GuestFailed):
        GuestMemory.create(geometry)
    assert open_files() - before == set()


def test_close_gives_everything_back_once(geometry: Geometry) -> None:
    """Closing twice is closing once, and no file stays open."""
    before = open_files()
    memory = GuestMemory.create(geometry)
    memory.close()
    memory.close()
    assert open_files() - before == set()
    assert memory.views == ()


def test_what_somebody_still_holds_stays_readable(geometry: Geometry) -> None:
    """Closing under a holder's feet is no crash."""
    memory = GuestMemory.create(geometry)
    words = memory.words(0)
    words[0] = 5
    memory.close()
    assert words[0] == 5


def test_transparent_huge_pages_are_used_throughout() -> None:
    """Where there are any, all of the memory is made of them once it is populated."""
    geometry = Geometry((RamBlock("ram", 4 * HUGE, HUGE),))
    try:
        made = GuestMemory.create(geometry, "thp")
    except GuestFailed as refused:
        pytest.skip(str(refused))
    with made as memory:
        memory.views[0][HUGE : HUGE + 5] = b"bytes"
        finish(memory.populate())
        assert huge_mapped_bytes(memory._blocks[0].address) == 4 * HUGE
        assert bytes(memory.views[0][HUGE : HUGE + 6]) == b"bytes\0"
