"""Memory as the kernel lets this user have it: page faults, write logs, huge pages."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from pathlib import Path

from guest import abi, libc, probe
from guest.backing import spare_bytes
from guest.probe import Finding
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.units import format_bytes
from scripts.doctor.feature import Question

UFFD_DEVICE = Path("/dev/userfaultfd")
HUGE_PAGES = Path("/sys/kernel/mm/hugepages")
SHMEM_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")

_MIB2, _GIB1 = 2 << 20, 1 << 30
# What the default guest needs, on both sides of `midstream migrate`.
_DEFAULT_BYTES = 2 * (256 << 20)

_SIMULATED = "placement is simulated: vCPUs look at a map before they touch a page"
_SOFTWARE_LOG = "vCPUs log their own writes (dirty log: software)"


def questions() -> list[Question]:
    """Return all questions about memory, in the order in which they are told."""
    return [
        Question(
            "memory for guests", _memfd,
            "run where /proc, memfd_create and a little memory are allowed", "nothing runs",
            is_needed=True,
        ),
        Question(
            "256 MiB on both sides", _room, "end what uses memory, or raise the container's limit",
            "smaller guests: --size 64MiB",
        ),
        Question(
            "userfaultfd, all faults", _userfaultfd_syscall, "sysctl vm.unprivileged_userfaultfd=1",
            "the device or user mode is used; a KVM guest would need this or the device",
        ),
        Question(
            "/dev/userfaultfd", _userfaultfd_device, _device_remedy,
            "the system call is used",
        ),
        Question(
            "userfaultfd, user mode only", _userfaultfd_user_mode,
            "a kernel with CONFIG_USERFAULTFD, and a container that allows the call", _SIMULATED,
        ),
        Question(
            "real page faults (MINOR_SHMEM)", lambda: _told(probe.can_stop_at_faults()),
            "one of the three above, and Linux 5.14 or later", _SIMULATED,
        ),
        Question(
            "real faults on hugetlb", _hugetlb_faults, "see userfaultfd, and hugetlb of 2 MiB",
            f"with --backing hugetlb {_SIMULATED}",
        ),
        Question(
            "write log (WP_ASYNC)", _wp_async, "a userfaultfd, and Linux 6.7 or later",
            _SOFTWARE_LOG,
        ),
        Question(
            "PAGEMAP_SCAN", lambda: _told(probe.can_scan_pagemap()), "Linux 6.7 or later",
            _SOFTWARE_LOG,
        ),
        _hugetlb_question(_MIB2, 256, "transparent huge pages, or base pages"),
        _hugetlb_question(_GIB1, 2, "--page-size 1GiB uses smaller pages of the kernel's"),
        Question(
            "huge pages of shared memory", _shmem_thp, f"echo advise > {SHMEM_ENABLED}",
            "base pages under each page; the guest's page stays 2 MiB",
        ),
        Question(
            "MADV_COLLAPSE", lambda: _told(probe.can_collapse()), "Linux 6.1 or later",
            "pages that came in pieces stay base pages",
        ),
    ]  # fmt: skip


def _memfd() -> tuple[bool, str]:
    return _told(probe.can_back("base", TARGET_PAGE_BYTES), "memfds, base pages of 4 KiB")


def _room() -> tuple[bool, str]:
    count = spare_bytes()
    return count >= _DEFAULT_BYTES, f"{format_bytes(max(count, 0))} to spare"


def _userfaultfd_syscall() -> tuple[bool, str]:
    os.close(libc.userfaultfd(os.O_CLOEXEC | os.O_NONBLOCK))
    return True, "the system call, faults of the kernel's own too"


def _userfaultfd_device() -> tuple[bool, str]:
    fd = os.open(UFFD_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.close(fcntl.ioctl(fd, abi.USERFAULTFD_IOC_NEW, os.O_CLOEXEC | os.O_NONBLOCK))
    finally:
        os.close(fd)
    return True, "faults of the kernel's own too"


def _device_remedy(detail: str) -> str:
    if detail == os.strerror(errno.ENOENT):
        return "Linux 6.1 or later; in a container: --device /dev/userfaultfd"
    return f"setfacl -m u:{os.geteuid()}:rw {UFFD_DEVICE}"


def _userfaultfd_user_mode() -> tuple[bool, str]:
    os.close(libc.userfaultfd(os.O_CLOEXEC | os.O_NONBLOCK | abi.UFFD_USER_MODE_ONLY))
    return True, "enough for vCPUs that are threads"


def _hugetlb_faults() -> tuple[bool, str]:
    known = probe.has_userfaultfd_features(abi.UFFD_FEATURE_MINOR_HUGETLBFS)
    if not known.ok:
        return False, known.reason
    if not probe.can_back("hugetlb", _MIB2).ok:
        return True, "the kernel knows MINOR_HUGETLBFS; no huge page was free to try it on"
    return _told(probe.can_stop_at_faults("hugetlb", _MIB2), "tried on a page of 2 MiB")


def _wp_async() -> tuple[bool, str]:
    return _told(
        probe.has_userfaultfd_features(
            abi.UFFD_FEATURE_WP_ASYNC | abi.UFFD_FEATURE_WP_HUGETLBFS_SHMEM
        )
    )


def _hugetlb_question(page_bytes: int, wanted: int, without: str) -> Question:
    folder = HUGE_PAGES / f"hugepages-{page_bytes >> 10}kB"
    title = f"hugetlb pages of {page_bytes >> 20} MiB" if page_bytes < _GIB1 else "hugetlb of 1 GiB"

    def ask() -> tuple[bool, str]:
        if not folder.is_dir():
            return False, "this machine has no pages of this size"
        total, free, promised = (
            int((folder / name).read_text(encoding="ascii"))
            for name in ("nr_hugepages", "free_hugepages", "resv_hugepages")
        )
        detail = f"{free} of {total} are free, {promised} of them promised"
        return probe.can_back("hugetlb", page_bytes).ok, detail

    def remedy(_: str) -> str:
        if not folder.is_dir():
            return "a processor, or a kernel, that has them"
        return f"echo {wanted} > {folder / 'nr_hugepages'}"

    return Question(title, ask, remedy, without)


def _shmem_thp() -> tuple[bool, str]:
    setting = "?"
    if SHMEM_ENABLED.exists():
        chosen = re.search(r"\[(\w+)\]", SHMEM_ENABLED.read_text(encoding="ascii"))
        setting = chosen[1] if chosen else "?"
    return probe.can_back("thp", _MIB2).ok, f"shmem_enabled is {setting}"


def _told(finding: Finding, detail: str = "tried") -> tuple[bool, str]:
    return finding.ok, detail if finding.ok else finding.reason
