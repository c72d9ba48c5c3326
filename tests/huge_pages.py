"""Huge pages (hugetlb) for tests that need some.

Root may allow the kernel more than the administrator has set aside (nr_overcommit_hugepages, see
Documentation/admin-guide/mm/hugetlbpage.rst).  Such a page is taken when memory is made of it and
goes back with that memory, so that an allowance by itself costs nothing, whoever is killed.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from guest.backing import make_block
from protocol.errors import GuestFailed
from protocol.geometry import RamBlock
from tests.guests import HUGE

ALLOWANCE = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages")

# More than a test needs: while it is there, others that take what they get may get some of it.
_PAGES = 1024


@contextmanager
def allowed(pages: int = _PAGES, allowance: Path = ALLOWANCE) -> Iterator[None]:
    """Allow the kernel so many more.

    Raises:
        OSError: This is not root's process, or the kernel has none of this size.
    """
    _change(allowance, pages)
    try:
        yield
    finally:
        _change(allowance, -pages)


@contextmanager
def huge_pages(count: int) -> Iterator[None]:
    """Have so many pages of 2 MiB to be had at once, or skip the test with the reason."""
    with ExitStack() as stack:
        # Without the right to it, what is set aside already may do.
        with suppress(OSError):
            stack.enter_context(allowed())
        try:
            make_block(RamBlock("ram", count * HUGE, HUGE), "hugetlb").close()
        except GuestFailed as error:
            pytest.skip(f"huge pages: {error}")
        yield


def _change(allowance: Path, by: int) -> None:
    """Change the allowance; other processes that do so take turns."""
    with allowance.open("r+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        allowance.write_text(f"{max(int(file.read()) + by, 0)}\n", encoding="ascii")
