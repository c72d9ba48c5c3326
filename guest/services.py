"""What the guest process does with the kernel for its engine: who stops or marks its vCPUs.

The engine asks for one service when the process starts (guest/messages.py, `start`):

    none        nothing: vCPUs look at the board's present map, and mark its dirty map
    userfault   the kernel stops a vCPU at a page that is not mapped; the engine hears of it and
                maps pages through the userfaultfd
    dirty-log   the kernel marks the pages that vCPUs write to; the engine reads and clears the
                marks through the pagemap and the userfaultfd
    kvm-log     KVM marks the pages that vCPUs of a virtual machine write to, and the process, which
                alone may ask it, asks it for the engine (guest/kvm/log.py)

The first two are about the *guest* mapping, whose addresses the process tells.  A service that
cannot be had is no failure: the process says why, and runs as with "none"; but for a virtual
machine, which cannot.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from guest import abi
from guest.mapping import GuestMapping
from guest.spec import KVM
from guest.userfaultfd import Userfaultfd
from protocol.errors import GuestFailed

NONE = "none"
USERFAULT = "userfault"
DIRTY_LOG = "dirty-log"
KVM_LOG = "kvm-log"

# The userfaultfd and the pagemap; or the socket and the memory of KVM's log.
FD_COUNT_MAX = 2


def log_service(choice: str, kind: str) -> str:
    """Return the service that gives a guest the dirty log of a choice.

    Args:
        choice: One of DIRTY_LOG_CHOICES (guest/spec.py).
        kind: Of the guest (guest/spec.py).

    Raises:
        GuestFailed: A guest of this kind cannot have it.
    """
    if choice == "kvm" and kind != KVM:
        raise GuestFailed(f"--dirty-log kvm: KVM keeps no log of --guest {kind}")
    if choice == "software":
        return NONE
    return KVM_LOG if kind == KVM and choice != "kernel" else DIRTY_LOG


_FEATURES = {
    USERFAULT: abi.UFFD_FEATURE_THREAD_ID,
    DIRTY_LOG: abi.UFFD_FEATURE_PAGEFAULT_FLAG_WP
    | abi.UFFD_FEATURE_WP_HUGETLBFS_SHMEM
    | abi.UFFD_FEATURE_WP_UNPOPULATED
    | abi.UFFD_FEATURE_WP_ASYNC,
}
_MODES = {
    USERFAULT: abi.UFFDIO_REGISTER_MODE_MISSING | abi.UFFDIO_REGISTER_MODE_MINOR,
    DIRTY_LOG: abi.UFFDIO_REGISTER_MODE_WP,
}
# Of each kind of memory, by whether it is hugetlb.
_MINOR_FEATURES = {
    False: abi.UFFD_FEATURE_MISSING_SHMEM | abi.UFFD_FEATURE_MINOR_SHMEM,
    True: abi.UFFD_FEATURE_MISSING_HUGETLBFS | abi.UFFD_FEATURE_MINOR_HUGETLBFS,
}


@dataclass(frozen=True)
class Service:
    """What the engine got of a guest process; `close` it.

    Attributes:
        name: "none", "userfault", "dirty-log" or "kvm-log".
        reason: Why it is "none" though another was asked for; else empty.
        addresses: Of each block's first byte, in the guest process.
        thread_ids: The kernel's number of each vCPU's thread, as faults name it.
        userfaultfd: Of the guest process; None for "none".
        pagemap_fd: The guest process's /proc/self/pagemap, for "dirty-log"; else -1.
        log_fds: For "kvm-log", the socket to who asks KVM, and the memory for its answers.
    """

    name: str
    reason: str
    addresses: tuple[int, ...]
    thread_ids: tuple[int, ...]
    userfaultfd: Userfaultfd | None
    pagemap_fd: int
    log_fds: tuple[int, ...] = ()

    @classmethod
    def of_answer(
        cls,
        name: str,
        reason: str,
        addresses: tuple[int, ...],
        thread_ids: tuple[int, ...],
        fds: tuple[int, ...],
    ) -> Service:
        """Make it of what the process answered and passed; takes the descriptors over."""
        if name == KVM_LOG:
            return cls(name, reason, addresses, thread_ids, None, -1, fds)
        if name == NONE:
            return cls(NONE, reason, addresses, thread_ids, None, -1)
        pagemap_fd = fds[1] if name == DIRTY_LOG else -1
        return cls(name, reason, addresses, thread_ids, Userfaultfd(fds[0]), pagemap_fd)

    def close(self) -> None:
        """Close the descriptors; call it once."""
        if self.userfaultfd is not None:
            self.userfaultfd.close()
        if self.pagemap_fd >= 0:
            os.close(self.pagemap_fd)
        for fd in self.log_fds:
            os.close(fd)


@contextmanager
def provided(
    name: str, mapping: GuestMapping, kinds: tuple[str, ...], *, kernel_faults: bool = False
) -> Iterator[tuple[str, list[int]]]:
    """Set a service up in the guest process; give the reason why not, or the descriptors to pass.

    They are closed at the end of the block: the engine has them then.  A userfaultfd works on for
    as long as anybody has it.

    Args:
        name: Which service.
        mapping: What vCPUs touch; none has yet.
        kinds: The kind of memory of each block (guest/backing.py).
        kernel_faults: The kernel itself touches memory for who is to be stopped, as KVM does.
    """
    fds: list[int] = []
    reason = ""
    try:
        if name != NONE:
            try:
                fds.append(_register(name, mapping, kinds, kernel_faults=kernel_faults).fd)
                if name == DIRTY_LOG:
                    fds.append(os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC))
            except GuestFailed as error:
                reason = str(error)
            except OSError as error:
                reason = f"{error.filename}: {error.strerror}"
        if reason:
            _close_all(fds)
        yield reason, fds
    finally:
        _close_all(fds)


def _register(
    name: str, mapping: GuestMapping, kinds: tuple[str, ...], *, kernel_faults: bool
) -> Userfaultfd:
    """Return a userfaultfd that has the whole mapping.

    Raises:
        GuestFailed: It cannot be had; says why.
    """
    features = _FEATURES[name]
    if name == USERFAULT:
        for kind in kinds:
            features |= _MINOR_FEATURES[kind == "hugetlb"]
    userfaultfd = Userfaultfd.open(
        features, if_known=abi.UFFD_FEATURE_EXACT_ADDRESS, kernel_faults=kernel_faults
    )
    for index, block in enumerate(mapping.geometry.blocks):
        try:
            userfaultfd.register(mapping.address(index), block.length_bytes, _MODES[name])
        except OSError as error:
            userfaultfd.close()
            raise GuestFailed(
                f"RAMBlock {block.name!r} cannot be registered with userfaultfd: {error.strerror}"
            ) from error
    return userfaultfd


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
