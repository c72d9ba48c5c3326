"""vCPUs reach every target page at its address."""

import ctypes
import os

import numpy as np
import pytest

from guest import libc
from guest.mapping import GuestMapping
from guest.memory import GuestMemory
from protocol.errors import GuestFailed
from protocol.geometry import Geometry
from tests.bounds import open_files


def attach(memory: GuestMemory) -> GuestMapping:
    """Map the memory as a guest process does."""
    return GuestMapping.attach(memory.geometry, tuple(os.dup(fd) for fd in memory.fds))


def test_pages_of_all_blocks_are_found(memory: GuestMemory) -> None:
    """The address of a flat target page leads to its bytes, in whichever block."""
    mapping = attach(memory)
    pages = np.array([0, 1, 1023, 1024, 1039], dtype=np.uint64)
    word = ctypes.c_uint64()
    seen = []
    for address in mapping.page_addresses(pages).tolist():
        libc.memcpy(ctypes.addressof(word), address, 8)
        seen.append(word.value)
    words = np.concatenate([memory.words(0), memory.words(1)])
    assert seen == [int(words[page * 512]) for page in pages.tolist()]


def test_blocks_begin_at_their_address(memory: GuestMemory) -> None:
    """A block's address is that of its first target page."""
    mapping = attach(memory)
    first_pages = np.array(memory.geometry.target_page_bases, dtype=np.uint64)
    addresses = mapping.page_addresses(first_pages).tolist()
    assert addresses == [mapping.address(0), mapping.address(1)]


def test_fds_are_taken_over(memory: GuestMemory) -> None:
    """The mapping keeps the memory; its descriptors are closed."""
    before = open_files()
    attach(memory)
    assert open_files() - before == set()


def test_a_refusal_names_the_block(geometry: Geometry) -> None:
    """What cannot be mapped is said in one line."""
    read_end, write_end = os.pipe()
    with pytest.raises(GuestFailed, match="'ram'"):
        GuestMapping.attach(geometry, (read_end, write_end))
    os.close(read_end)
    os.close(write_end)
