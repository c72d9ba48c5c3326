"""The kernel's names for what memory is tracked, faulted and mapped with, each told once.

Request codes are computed as the kernel's headers do and asserted against the number that they come
to on x86-64 and arm64.  Who calls is guest/libc.py and guest/userfaultfd.py.

Sources: <linux/userfaultfd.h>, <linux/fs.h>, <linux/memfd.h>, <asm-generic/mman-common.h>,
<asm-generic/ioctl.h>, Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst.
"""

from __future__ import annotations

import struct

# <asm-generic/ioctl.h>: direction, size of the argument, the driver's letter, number.
_NONE, _WRITE, _READ = 0, 1, 2


def _request(direction: int, driver: int, number: int, size_bytes: int) -> int:
    return direction << 30 | size_bytes << 16 | driver << 8 | number


# madvise(2).
MADV_DONTNEED = 4
MADV_HUGEPAGE = 14
# Since Linux 5.14.
MADV_POPULATE_WRITE = 23
# Since Linux 6.1: make huge pages of a range now.  Sets aside what
# /sys/kernel/mm/transparent_hugepage says, except "deny" of shared memory.
MADV_COLLAPSE = 25

# memfd_create(2): the huge page size stands in the flags as its base-2 logarithm.
MFD_HUGE_SHIFT = 26

# userfaultfd(2) by machine, as `os.uname` names it; newer machines share one table.
SYS_USERFAULTFD = {
    "x86_64": 323,
    "aarch64": 282,
    "riscv64": 282,
    "loongarch64": 282,
    "ppc64le": 364,
    "s390x": 355,
}

# pidfd_getfd(2), on every machine; since Linux 5.6.
SYS_PIDFD_GETFD = 438

# tgkill(2) on x86-64, where virtual machines are.
SYS_TGKILL = 234

# Faults of the kernel's own (a read into the memory, a KVM vCPU) are not handled: all that an
# ordinary user may have where vm.unprivileged_userfaultfd is 0.  Since Linux 5.11.
UFFD_USER_MODE_ONLY = 1

UFFD_API = 0xAA

UFFD_FEATURE_PAGEFAULT_FLAG_WP = 1 << 0
UFFD_FEATURE_MISSING_HUGETLBFS = 1 << 4
UFFD_FEATURE_MISSING_SHMEM = 1 << 5
UFFD_FEATURE_THREAD_ID = 1 << 8
UFFD_FEATURE_MINOR_HUGETLBFS = 1 << 9
UFFD_FEATURE_MINOR_SHMEM = 1 << 10
UFFD_FEATURE_EXACT_ADDRESS = 1 << 11
UFFD_FEATURE_WP_HUGETLBFS_SHMEM = 1 << 12
UFFD_FEATURE_WP_UNPOPULATED = 1 << 13
UFFD_FEATURE_WP_ASYNC = 1 << 15

FEATURE_NAMES = {
    value: name.removeprefix("UFFD_FEATURE_")
    for name, value in globals().items()
    if name.startswith("UFFD_FEATURE_")
}

UFFDIO_REGISTER_MODE_MISSING = 1 << 0
UFFDIO_REGISTER_MODE_WP = 1 << 1
UFFDIO_REGISTER_MODE_MINOR = 1 << 2

UFFDIO_CONTINUE_MODE_DONTWAKE = 1 << 0
UFFDIO_WRITEPROTECT_MODE_WP = 1 << 0

UFFD_EVENT_PAGEFAULT = 0x12
UFFD_PAGEFAULT_FLAG_WRITE = 1 << 0
UFFD_PAGEFAULT_FLAG_WP = 1 << 1
UFFD_PAGEFAULT_FLAG_MINOR = 1 << 2

# struct uffdio_api: api, features, ioctls.
UFFDIO_API_STRUCT = struct.Struct("=QQQ")
# struct uffdio_range: start, len.
UFFDIO_RANGE_STRUCT = struct.Struct("=QQ")
# struct uffdio_register: range, mode, ioctls.
UFFDIO_REGISTER_STRUCT = struct.Struct("=QQQQ")
# struct uffdio_writeprotect: range, mode.
UFFDIO_WRITEPROTECT_STRUCT = struct.Struct("=QQQ")
# struct uffdio_continue: range, mode, mapped.
UFFDIO_CONTINUE_STRUCT = struct.Struct("=QQQq")
# struct uffd_msg of a page fault: event, flags, address, thread id.
UFFD_MSG_STRUCT = struct.Struct("=B7xQQI4x")

USERFAULTFD_IOC_NEW = _request(_NONE, UFFD_API, 0x00, 0)
UFFDIO_API = _request(_WRITE | _READ, UFFD_API, 0x3F, UFFDIO_API_STRUCT.size)
UFFDIO_REGISTER = _request(_WRITE | _READ, UFFD_API, 0x00, UFFDIO_REGISTER_STRUCT.size)
UFFDIO_UNREGISTER = _request(_READ, UFFD_API, 0x01, UFFDIO_RANGE_STRUCT.size)
UFFDIO_WAKE = _request(_READ, UFFD_API, 0x02, UFFDIO_RANGE_STRUCT.size)
UFFDIO_WRITEPROTECT = _request(_WRITE | _READ, UFFD_API, 0x06, UFFDIO_WRITEPROTECT_STRUCT.size)
UFFDIO_CONTINUE = _request(_WRITE | _READ, UFFD_API, 0x07, UFFDIO_CONTINUE_STRUCT.size)

# What a registered range can take, as bits of uffdio_register.ioctls.
UFFDIO_CONTINUE_BIT = 1 << 0x07
UFFDIO_WRITEPROTECT_BIT = 1 << 0x06

# struct pm_scan_arg: size, flags, start, end, walk_end, vec, vec_len, max_pages,
# category_inverted, category_mask, category_anyof_mask, return_mask.  Since Linux 6.7.
PM_SCAN_ARG_STRUCT = struct.Struct("=12Q")
# struct page_region: start, end, categories.
PAGE_REGION_STRUCT = struct.Struct("=QQQ")

PAGEMAP_SCAN = _request(_WRITE | _READ, ord("f"), 16, PM_SCAN_ARG_STRUCT.size)

PM_SCAN_WP_MATCHING = 1 << 0
PM_SCAN_CHECK_WPASYNC = 1 << 1

PAGE_IS_WPALLOWED = 1 << 0
PAGE_IS_WRITTEN = 1 << 1
PAGE_IS_FILE = 1 << 2
PAGE_IS_PRESENT = 1 << 3
PAGE_IS_SWAPPED = 1 << 4
PAGE_IS_PFNZERO = 1 << 5
PAGE_IS_HUGE = 1 << 6
PAGE_IS_SOFT_DIRTY = 1 << 7

assert USERFAULTFD_IOC_NEW == 0xAA00
assert UFFDIO_API == 0xC018AA3F
assert UFFDIO_REGISTER == 0xC020AA00
assert UFFDIO_UNREGISTER == 0x8010AA01
assert UFFDIO_WAKE == 0x8010AA02
assert UFFDIO_WRITEPROTECT == 0xC018AA06
assert UFFDIO_CONTINUE == 0xC020AA07
assert PAGEMAP_SCAN == 0xC0606610
assert UFFD_MSG_STRUCT.size == 32
assert PM_SCAN_ARG_STRUCT.size == 96
