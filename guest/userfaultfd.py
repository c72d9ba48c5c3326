"""A userfaultfd: the kernel stops a thread that touches a registered page, and tells whoever reads.

It belongs to the memory of the process that opened it, whoever holds the descriptor: a guest
process opens one over its mapping and passes it to its engine, which uses the guest's addresses
(Documentation/admin-guide/mm/userfaultfd.rst, userfaultfd(2), ioctl_userfaultfd(2)).

What the kernel answers, besides success, and what is made of it here:

    EEXIST    somebody has mapped the page: wake who waits for it
    EAGAIN    broken off: go on where it stopped
    ENOENT    the range is not, or no longer, registered or mapped: an error of the caller
    ESRCH     the process that the memory belonged to is gone
    ENOSPC    the same, from kernels before 4.13
    ENOMEM    the same, when a range is unregistered
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import NamedTuple, Self

from guest import abi, libc
from protocol.errors import GuestFailed

_DEVICE = "/dev/userfaultfd"

# How many faults are read at once: one of each vCPU that there can be.
_READ_COUNT_MAX = 64

# A thread that maps memory in the other process makes the kernel break off; it is done at once.
_RETRY_COUNT_MAX = 10_000

_GONE = (errno.ESRCH, errno.ENOSPC)


class PageFault(NamedTuple):
    """A thread that has been stopped.

    Attributes:
        address: What it touched; rounded down to a page by kernels before 5.18.
        thread_id: Which thread, if the feature THREAD_ID was asked for.
        is_minor: The page's bytes are in memory and only not mapped.
    """

    address: int
    thread_id: int
    is_minor: bool


class Userfaultfd:
    """One userfaultfd; `open` makes one.

    Attributes:
        fd: The descriptor, non-blocking; readable when a thread has been stopped.
    """

    def __init__(self, fd: int) -> None:
        """Take a descriptor over, which may come from another process."""
        self.fd = fd

    @classmethod
    def open(cls, features: int, *, if_known: int = 0, kernel_faults: bool = False) -> Self:
        """Open one for the memory of this process.

        Args:
            features: Bits of UFFD_FEATURE_* that it must have.
            if_known: Those that it has if the kernel knows them.
            kernel_faults: Whether it must handle what the kernel itself touches, too.

        Raises:
            GuestFailed: It cannot be had; says why in one line.
        """
        known = known_features()
        if missing := features & ~known:
            names = [name for bit, name in abi.FEATURE_NAMES.items() if missing & bit]
            raise GuestFailed(f"this kernel's userfaultfd lacks {', '.join(names)}")
        made = cls(_open(kernel_faults=kernel_faults))
        try:
            made.enable(features | if_known & known)
        except OSError as error:
            made.close()
            raise GuestFailed(f"userfaultfd: {error.strerror}") from error
        return made

    def enable(self, features: int) -> int:
        """Say which features are wanted, once, before anything else; return all that there are."""
        data = bytearray(abi.UFFDIO_API_STRUCT.pack(abi.UFFD_API, features, 0))
        fcntl.ioctl(self.fd, abi.UFFDIO_API, data)
        known: int = abi.UFFDIO_API_STRUCT.unpack(data)[1]
        return known

    def register(self, address: int, length_bytes: int, modes: int) -> int:
        """Have faults in a range of this process's memory handled; return what may be done there.

        Args:
            address: The range's begin, of a whole page.
            length_bytes: Its length, of whole pages.
            modes: Bits of UFFDIO_REGISTER_MODE_*.

        Raises:
            OSError: EINVAL, memory of this kind cannot be registered so; EBUSY, it is already.
        """
        data = bytearray(abi.UFFDIO_REGISTER_STRUCT.pack(address, length_bytes, modes, 0))
        fcntl.ioctl(self.fd, abi.UFFDIO_REGISTER, data)
        ioctls: int = abi.UFFDIO_REGISTER_STRUCT.unpack(data)[-1]
        return ioctls

    def unregister(self, address: int, length_bytes: int) -> None:
        """Leave a range alone; who waits there wakes and goes on, whatever there is.

        Raises:
            GuestFailed: The process is gone.
        """
        try:
            self._call(abi.UFFDIO_UNREGISTER, abi.UFFDIO_RANGE_STRUCT.pack(address, length_bytes))
        except OSError as error:
            _check_alive(error, errno.ENOMEM)
            raise

    def wake(self, address: int, length_bytes: int) -> None:
        """Wake who waits for anything in a range; a page that is still missing faults again."""
        self._call(abi.UFFDIO_WAKE, abi.UFFDIO_RANGE_STRUCT.pack(address, length_bytes))

    def write_protect(self, address: int, length_bytes: int, *, protect: bool = True) -> None:
        """Protect the pages of a range against writes, or no longer.

        Raises:
            GuestFailed: The process is gone.
            OSError: ENOENT, the range is not registered for this.
        """
        mode = abi.UFFDIO_WRITEPROTECT_MODE_WP if protect else 0
        data = abi.UFFDIO_WRITEPROTECT_STRUCT.pack(address, length_bytes, mode)
        for _ in range(_RETRY_COUNT_MAX):
            try:
                return self._call(abi.UFFDIO_WRITEPROTECT, data)
            except OSError as error:
                _check_alive(error)
                # Nothing tells how far it came; to do it again does no harm.
                if error.errno != errno.EAGAIN:
                    raise
        raise GuestFailed("userfaultfd: the kernel does not write-protect the guest's memory")

    def map_pages(
        self, address: int, length_bytes: int, page_bytes: int, *, wakes: bool = True
    ) -> int:
        """Map pages whose bytes are in memory, and wake who waits for them (UFFDIO_CONTINUE).

        Args:
            address: The first page's.
            length_bytes: Of whole pages.
            page_bytes: The size of the kernel's pages there.
            wakes: Whether those who wait are woken.

        Returns:
            How many bytes somebody had mapped before; their waiters are woken too.

        Raises:
            GuestFailed: The process is gone, or the kernel does not do it.
            OSError: EFAULT, a page has no bytes yet; ENOENT, the range is not registered.
        """
        end, found_bytes, retry_count = address + length_bytes, 0, 0
        while address < end:
            mapped_bytes, error = self._continue(address, end - address, wakes=wakes)
            if mapped_bytes > 0:
                address += mapped_bytes
                retry_count = 0
            elif error.errno == errno.EEXIST:
                if wakes:
                    self.wake(address, page_bytes)
                address += page_bytes
                found_bytes += page_bytes
            else:
                _check_alive(error)
                retry_count += 1
                if error.errno != errno.EAGAIN or retry_count > _RETRY_COUNT_MAX:
                    raise error
        return found_bytes

    def map_some(self, address: int, length_bytes: int, page_bytes: int) -> None:
        """Map pages as `map_pages` does, up to the first that is mapped; wake who waits in them.

        Args:
            address: The first page's; if it is mapped its waiters wake and that is all.
            length_bytes: Of whole pages.
            page_bytes: The size of the kernel's pages there.

        Raises:
            GuestFailed, OSError: As `map_pages`.
        """
        for _ in range(_RETRY_COUNT_MAX):
            mapped_bytes, error = self._continue(address, length_bytes, wakes=True)
            if mapped_bytes > 0:
                return None
            if error.errno == errno.EEXIST:
                return self.wake(address, page_bytes)
            _check_alive(error)
            if error.errno != errno.EAGAIN:
                raise error
        raise GuestFailed("userfaultfd: the kernel does not map the guest's memory")

    def read_faults(self) -> list[PageFault]:
        """Return the threads that have been stopped and were not told of; none if there is none."""
        try:
            data = os.read(self.fd, _READ_COUNT_MAX * abi.UFFD_MSG_STRUCT.size)
        except BlockingIOError:
            return []
        return [
            PageFault(address, thread_id, bool(flags & abi.UFFD_PAGEFAULT_FLAG_MINOR))
            for event, flags, address, thread_id in abi.UFFD_MSG_STRUCT.iter_unpack(data)
            if event == abi.UFFD_EVENT_PAGEFAULT
        ]

    def close(self) -> None:
        """Close the descriptor; the last one to be closed wakes everybody.  More calls do nothing.

        Who then touches a missing page gets whatever lies there.
        """
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _continue(self, address: int, length_bytes: int, *, wakes: bool) -> tuple[int, OSError]:
        """Return how many bytes were mapped, or if that is not more than 0 why not."""
        mode = 0 if wakes else abi.UFFDIO_CONTINUE_MODE_DONTWAKE
        data = bytearray(abi.UFFDIO_CONTINUE_STRUCT.pack(address, length_bytes, mode, 0))
        failure = OSError()
        try:
            fcntl.ioctl(self.fd, abi.UFFDIO_CONTINUE, data)
        except OSError as error:
            failure = error
        # The kernel says so though it fails: what it did before it was broken off stays done.
        return abi.UFFDIO_CONTINUE_STRUCT.unpack(data)[-1], failure

    def _call(self, request: int, data: bytes) -> None:
        fcntl.ioctl(self.fd, request, data)


def known_features() -> int:
    """Return the bits of UFFD_FEATURE_* that this kernel knows.

    Raises:
        GuestFailed: This process can have no userfaultfd at all; says why.
    """
    # An open one tells its features only once, when it is told which of them are wanted.
    probe = Userfaultfd(_open())
    try:
        return probe.enable(0)
    except OSError as error:
        raise GuestFailed(f"userfaultfd: {error.strerror}") from error
    finally:
        probe.close()


def _open(*, kernel_faults: bool = False) -> int:
    """Return a new userfaultfd, one that handles the kernel's own faults too if that is allowed.

    Args:
        kernel_faults: Return no other.

    Raises:
        GuestFailed: It cannot be had; says why.
    """
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return libc.userfaultfd(flags)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise GuestFailed("this kernel has no userfaultfd (CONFIG_USERFAULTFD)") from error
    with contextlib.suppress(OSError):  # Not there, or not for this user.
        return _open_device(flags)
    if kernel_faults:
        raise GuestFailed(
            "a userfaultfd that stops the kernel itself, and so KVM, is not allowed here: "
            f"vm.unprivileged_userfaultfd=1 or access to {_DEVICE} lets this user have it"
        )
    try:
        return libc.userfaultfd(flags | abi.UFFD_USER_MODE_ONLY)
    except OSError as error:
        raise GuestFailed(
            f"userfaultfd is not allowed here ({os.strerror(error.errno or 0)}): a container or a "
            "kernel before 5.11 forbids it; root, or vm.unprivileged_userfaultfd=1, may have it"
        ) from error


def _open_device(flags: int) -> int:
    device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(device, abi.USERFAULTFD_IOC_NEW, flags)
    finally:
        os.close(device)


def _check_alive(error: OSError, *more: int) -> None:
    if error.errno in (*_GONE, *more):
        raise GuestFailed("the guest process is gone") from error
