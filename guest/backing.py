"""Make the memory of one RAMBlock with the kind of pages that was asked for, or say why not.

Three kinds exist: "hugetlb" (pages set aside by the administrator, the size of the block's page),
"thp" (transparent huge pages: the kernel uses some when it can) and "base" (4 KiB).  What cannot be
had must come out here: later, a missing page would be a SIGBUS.

Where /sys/kernel/mm/transparent_hugepage/shmem_enabled does not give huge pages to shared memory at
a touch, the kernel still makes them when it is asked to, page by page (MADV_COLLAPSE).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from guest import abi, libc
from protocol.errors import GuestFailed
from protocol.geometry import TARGET_PAGE_BYTES, RamBlock

# A machine that is filled to the last page starts to kill processes rather than to refuse memory.
_SPARE_BYTES = 64 << 20

# What the kernel collapses at once, on machines with base pages of 4 KiB.
COLLAPSED_BYTES = 2 << 20

_HUGE_PAGES = Path("/sys/kernel/mm/hugepages")
_SHMEM_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")


@dataclass(frozen=True)
class BackedBlock:
    """The memory of one RAMBlock.

    Attributes:
        fd: Its memfd.
        kind: The kind of its pages.
        view: A mapping of it, writable bytes, at a multiple of the block's page size.
        address: Where that is.
        collapses: Whether huge pages have to be asked for, with MADV_COLLAPSE.
    """

    fd: int
    kind: str
    view: memoryview
    address: int
    collapses: bool = False

    def close(self) -> None:
        """Give the memory back; what somebody still looks at stays mapped until it is dropped."""
        os.close(self.fd)
        with contextlib.suppress(BufferError):
            self.view.release()


def make_block(block: RamBlock, backing: str, *, hugetlb: bool = True) -> BackedBlock:
    """Make the memory of one RAMBlock, all zero.

    Args:
        block: Its name, length and page size.
        backing: One of guest.spec.BACKING_CHOICES; "auto" takes the largest pages that can be had.
        hugetlb: Whether "auto" may take hugetlb pages.

    Raises:
        GuestFailed: It cannot be had; says in one line what to do.
    """
    if block.page_bytes == TARGET_PAGE_BYTES or backing == "base":
        return _make(block, "base", 0)
    if backing == "hugetlb" or (backing == "auto" and hugetlb):
        try:
            return _make_hugetlb(block)
        except GuestFailed:
            if backing == "hugetlb":
                raise
    return _make_transparent(block, required=backing == "thp")


def check_room(bytes_by_kind: Iterable[tuple[str, int]]) -> None:
    """Refuse what this machine cannot hold, which the kernel would find out only page by page.

    Args:
        bytes_by_kind: Kind and size of each block.  Huge pages are set aside already.

    Raises:
        GuestFailed: There is not enough memory.
    """
    needed_bytes = sum(size for kind, size in bytes_by_kind if kind != "hugetlb")
    free_bytes = spare_bytes()
    if needed_bytes > free_bytes:
        raise GuestFailed(
            f"the guest needs {_mib(needed_bytes)} of memory, this machine has {_mib(free_bytes)} "
            "to spare; take a smaller --size"
        )


def spare_bytes() -> int:
    """Return how much memory this machine, and this process's cgroups, have for guests."""
    return min(_machine_free_bytes(), _cgroup_free_bytes()) - _SPARE_BYTES


def _make_hugetlb(block: RamBlock) -> BackedBlock:
    size_log2 = block.page_bytes.bit_length() - 1
    try:
        return _make(block, "hugetlb", os.MFD_HUGETLB | size_log2 << abi.MFD_HUGE_SHIFT)
    except GuestFailed as error:
        folder = _HUGE_PAGES / f"hugepages-{block.page_bytes >> 10}kB"
        if not folder.is_dir():
            raise GuestFailed(
                f"RAMBlock {block.name!r}: this machine has no huge pages of "
                f"{_mib(block.page_bytes)}; use --backing auto"
            ) from error
        free_count = _read_count(folder / "free_hugepages")
        raise GuestFailed(
            f"RAMBlock {block.name!r} needs {block.page_count} free huge pages of "
            f"{_mib(block.page_bytes)}, {free_count} are free; set aside more of them in "
            f"{folder / 'nr_hugepages'}, or use --backing auto"
        ) from error


def _make_transparent(block: RamBlock, *, required: bool) -> BackedBlock:
    """Try whether a huge page can be had: settings and kernels are too many to tell."""
    made = _make(block, "thp", 0)
    # A kernel that knows no transparent huge pages refuses the advice.
    with contextlib.suppress(OSError):
        libc.madvise(made.address, block.length_bytes, abi.MADV_HUGEPAGE)
    made.view[0] = 0
    if os.fstat(made.fd).st_blocks * 512 > TARGET_PAGE_BYTES:
        return made
    with contextlib.suppress(OSError):
        libc.madvise(made.address, COLLAPSED_BYTES, abi.MADV_COLLAPSE)
        return replace(made, collapses=True)
    if not required:
        return replace(made, kind="base")
    made.close()
    raise GuestFailed(
        f"RAMBlock {block.name!r}: the kernel gives no transparent huge pages to shared memory; "
        f"write advise to {_SHMEM_ENABLED}, or use --backing auto"
    )


def _make(block: RamBlock, kind: str, flags: int) -> BackedBlock:
    """Make and map a memfd.  Mapping hugetlb memory sets its pages aside, or fails."""
    length_bytes = block.length_bytes
    fd = -1
    try:
        fd = os.memfd_create(f"midstream-{block.name}", os.MFD_CLOEXEC | flags)
        os.ftruncate(fd, length_bytes)
        address = libc.map_shared(fd, length_bytes, block.page_bytes)
        return BackedBlock(fd, kind, _view(address, length_bytes), address)
    except (OSError, OverflowError) as error:
        if fd >= 0:
            os.close(fd)
        reason = "too large for this machine"
        if isinstance(error, OSError) and error.errno is not None:
            reason = os.strerror(error.errno)
        raise GuestFailed(
            f"RAMBlock {block.name!r}: cannot make {_mib(length_bytes)} of memory: {reason}"
        ) from error


def _view(address: int, length_bytes: int) -> memoryview:
    """Return a view of a mapping, which is unmapped when the last view of it is dropped."""
    array = (ctypes.c_ubyte * length_bytes).from_address(address)
    # What still looks at it when the interpreter ends may go on doing so.
    weakref.finalize(array, libc.unmap, address, length_bytes).atexit = False
    return memoryview(array).cast("B")


def memory_info(meminfo: Path = Path("/proc/meminfo")) -> dict[str, int]:
    """Return what the kernel says of the machine's memory, in bytes by its own names (proc(5))."""
    fields = {}
    for line in meminfo.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        number, *unit = value.split()
        fields[name] = int(number) << 10 if unit == ["kB"] else int(number)
    return fields


def _machine_free_bytes() -> int:
    """What may be used without driving the machine out of memory."""
    fields = memory_info()
    return fields["MemAvailable"] + fields["SwapFree"]


def _cgroup_free_bytes(
    membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int:
    """What the tightest of this process's memory cgroups (version 2) still allows.

    File pages that were read and can be read again do not count as used.
    """
    free_bytes = 1 << 62
    try:
        entries = membership.read_text(encoding="utf-8").splitlines()
        own = next(entry[3:] for entry in entries if entry.startswith("0::"))
    except (OSError, StopIteration):
        return free_bytes
    folder = root / own.lstrip("/")
    for group in (folder, *folder.parents):
        try:
            limit_bytes = int((group / "memory.max").read_text(encoding="ascii"))
            used_bytes = int((group / "memory.current").read_text(encoding="ascii"))
            stat = (group / "memory.stat").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            continue  # No such group, or its limit is "max".
        cache_bytes = sum(
            int(stat[stat.index(name) + 1]) for name in ("inactive_file", "active_file")
        )
        free_bytes = min(free_bytes, limit_bytes - used_bytes + cache_bytes)
    return free_bytes


def _read_count(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except OSError:
        return 0


def _mib(length_bytes: int) -> str:
    return f"{max(length_bytes, 0) >> 20} MiB"
