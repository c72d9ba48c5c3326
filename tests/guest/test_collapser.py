"""Ranges are joined before the kernel is asked, and what came of it is told."""

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest import abi, libc
from guest.collapser import Collapser, joined
from guest.messages import MESSAGE_BYTES_MAX, Collapsed, decode_event, socket_pair
from tests.guests import HUGE, huge_mapped_bytes


@given(st.sets(st.integers(0, 30), max_size=20))
def test_neighbours_are_joined(places: set[int]) -> None:
    """The same memory in as few ranges as can be."""
    ranges = joined([(place * HUGE, HUGE) for place in sorted(places, reverse=True)])
    held = [at for begin, length in ranges for at in range(begin, begin + length, HUGE)]
    assert held == [place * HUGE for place in sorted(places)]
    assert all(one[0] + one[1] < other[0] for one, other in itertools.pairwise(ranges))


def test_what_came_of_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges that the kernel refuses are counted, and do not keep the others from being done."""
    asked = []

    def madvise(address: int, length_bytes: int, advice: int) -> None:
        asked.append((address, length_bytes, advice))
        if address == 8 * HUGE:
            raise OSError

    monkeypatch.setattr(libc, "madvise", madvise)
    ours, theirs = socket_pair()
    with ours, theirs:
        ours.settimeout(10)
        Collapser(theirs).collapse([(8 * HUGE, HUGE), (HUGE, HUGE), (0, HUGE)])
        assert decode_event(ours.recv(MESSAGE_BYTES_MAX)) == Collapsed(3, 1)
    assert asked == [(0, 2 * HUGE, abi.MADV_COLLAPSE), (8 * HUGE, HUGE, abi.MADV_COLLAPSE)]


def test_the_kernel_maps_a_huge_page() -> None:
    """Memory that was mapped by 4 KiB is mapped at once afterwards, where the kernel can."""
    fd = os.memfd_create("test")
    os.ftruncate(fd, HUGE)
    address = libc.map_shared(fd, HUGE, HUGE)
    libc.madvise(address, HUGE, abi.MADV_POPULATE_WRITE)
    ours, theirs = socket_pair()
    with ours, theirs:
        ours.settimeout(10)
        Collapser(theirs).collapse([(address, HUGE)])
        collapsed = decode_event(ours.recv(MESSAGE_BYTES_MAX))
    mapped = huge_mapped_bytes(address)
    libc.unmap(address, HUGE)
    os.close(fd)
    if collapsed == Collapsed(1, 1):
        pytest.skip("no transparent huge pages for shared memory here")
    assert mapped == HUGE
