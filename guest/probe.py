"""What this machine lets this process do with memory: each answered by trying it, with a reason.

A kernel's version says little: distributions carry patches, containers forbid calls, administrators
set limits.  What is tried here is given back at once.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable
from typing import NamedTuple

from guest import abi, libc, services
from guest.backing import make_block
from guest.mapping import GuestMapping
from guest.userfaultfd import Userfaultfd, known_features
from protocol.errors import GuestFailed
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock

_HUGE_BYTES = 2 << 20


class Finding(NamedTuple):
    """Whether something can be had, and if not why; one line."""

    ok: bool
    reason: str = ""


def can_open_userfaultfd() -> Finding:
    """Tell whether this process can have a userfaultfd of any kind."""
    return _tried(known_features)


def can_stop_at_faults(kind: str = "base", page_bytes: int = TARGET_PAGE_BYTES) -> Finding:
    """Tell whether the kernel stops vCPUs at missing pages of a kind of memory.

    Args:
        kind: "hugetlb", "thp" or "base" (guest/backing.py).
        page_bytes: The page size, for "hugetlb".
    """
    return _tried(lambda: _provide(services.USERFAULT, kind, page_bytes))


def can_log_writes(kind: str = "base", page_bytes: int = TARGET_PAGE_BYTES) -> Finding:
    """Tell whether the kernel marks written pages: asynchronous write protection, PAGEMAP_SCAN."""

    def scan() -> None:
        _provide(services.DIRTY_LOG, kind, page_bytes)
        _scan_nothing()

    return _tried(scan)


def can_back(kind: str, page_bytes: int = _HUGE_BYTES) -> Finding:
    """Tell whether one page of a size can be backed with a kind of memory now."""
    return _tried(lambda: make_block(RamBlock("probe", page_bytes, page_bytes), kind).close())


def has_userfaultfd_features(features: int) -> Finding:
    """Tell whether a userfaultfd with these features (abi.UFFD_FEATURE_*) can be had."""
    return _tried(lambda: Userfaultfd.open(features).close())


def can_scan_pagemap() -> Finding:
    """Tell whether written pages can be asked for and protected again in one call."""
    return _tried(_scan_nothing)


def can_collapse() -> Finding:
    """Tell whether base pages of shared memory can be made one huge page."""
    return _tried(_collapse_one)


def _provide(service: str, kind: str, page_bytes: int) -> None:
    block = RamBlock("probe", page_bytes, page_bytes)
    made = make_block(block, kind)
    try:
        mapping = GuestMapping.attach(Geometry((block,)), (os.dup(made.fd),))
        try:
            with services.provided(service, mapping, (made.kind,)) as (reason, _):
                if reason:
                    raise GuestFailed(reason)
        finally:
            mapping.detach()
    finally:
        made.close()


def _scan_nothing() -> None:
    """Scan an empty stretch of this process's memory."""
    fields = [0] * 12
    fields[0] = abi.PM_SCAN_ARG_STRUCT.size
    with mmap.mmap(-1, TARGET_PAGE_BYTES):
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, abi.PAGEMAP_SCAN, bytearray(abi.PM_SCAN_ARG_STRUCT.pack(*fields)))
        except OSError as error:
            raise GuestFailed(
                f"this kernel has no PAGEMAP_SCAN ({error.strerror}): it is in Linux 6.7 and later"
            ) from error
        finally:
            os.close(fd)


def _collapse_one() -> None:
    """Make a huge page of what was filled page by page."""
    block = RamBlock("probe", _HUGE_BYTES, _HUGE_BYTES)
    made = make_block(block, "base")
    try:
        mapping = GuestMapping.attach(Geometry((block,)), (os.dup(made.fd),))
        try:
            libc.madvise(mapping.address(0), _HUGE_BYTES, abi.MADV_POPULATE_WRITE)
            libc.madvise(mapping.address(0), _HUGE_BYTES, abi.MADV_COLLAPSE)
        finally:
            mapping.detach()
    finally:
        made.close()


def _tried(attempt: Callable[[], object]) -> Finding:
    try:
        attempt()
    except GuestFailed as error:
        return Finding(ok=False, reason=str(error))
    except OSError as error:
        return Finding(ok=False, reason=error.strerror or str(error))
    return Finding(ok=True)
