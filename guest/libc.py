"""The one door to libc: every function with its argument types, every failure an OSError.

Calls made through here release the GIL while they are in the kernel or copy memory.  That is what
lets a thread touch guest memory that another thread of the same interpreter must first provide.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
from collections.abc import Callable
from typing import Any, cast

from guest import abi

_C = ctypes.CDLL(None, use_errno=True)

# <sys/mman.h>
PROT_NONE = 0x0
PROT_READ = 0x1
PROT_WRITE = 0x2
PROT_EXEC = 0x4
MAP_SHARED = 0x01
MAP_PRIVATE = 0x02
MAP_ANONYMOUS = 0x20
MAP_NORESERVE = 0x4000
# Since Linux 4.17; a kernel before that maps elsewhere.
MAP_FIXED_NOREPLACE = 0x100000
# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_TIMERSLACK = 29

_RESERVING = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
_FILLING = MAP_SHARED | MAP_FIXED_NOREPLACE
# A place is lost to a thread that maps within some microseconds: once in a while, not each time.
_PLACES_TRIED_MAX = 64

_MAP_FAILED = ctypes.c_void_p(-1).value


def _checked(name: str, failure: int | None) -> Callable[[int | None, object, object], int]:
    """Return an errcheck that turns one return value into the OSError that errno tells."""

    def check(result: int | None, _function: object, _arguments: object) -> int:
        if result is None or result == failure:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")
        return result

    return check


def _bind(
    name: str,
    restype: type[ctypes.c_int | ctypes.c_long | ctypes.c_void_p],
    argtypes: tuple[
        type[ctypes.c_int | ctypes.c_long | ctypes.c_size_t | ctypes.c_int64 | ctypes.c_void_p], ...
    ],
) -> Callable[..., int]:
    """Return a function of libc that raises OSError when it fails."""
    # One of its own each time: by attribute, all of one name would share their argument types.
    function: Any = _C[name]
    function.restype = restype
    function.argtypes = argtypes
    failure = _MAP_FAILED if restype is ctypes.c_void_p else -1
    function.errcheck = _checked(name, failure)
    return cast(Callable[..., int], function)


_mmap: Callable[[int | None, int, int, int, int, int], int] = _bind(
    "mmap",
    ctypes.c_void_p,
    (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    ),
)
_munmap: Callable[[int, int], int] = _bind(
    "munmap", ctypes.c_int, (ctypes.c_size_t, ctypes.c_size_t)
)
_madvise: Callable[[int, int, int], int] = _bind(
    "madvise", ctypes.c_int, (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
)
_syscall: Callable[[int, int], int] = _bind("syscall", ctypes.c_int, (ctypes.c_long, ctypes.c_int))
_syscall3: Callable[[int, int, int, int], int] = _bind(
    "syscall", ctypes.c_int, (ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int)
)
_ioctl: Callable[[int, int, int], int] = _bind(
    "ioctl", ctypes.c_int, (ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t)
)
# prctl takes a variable number of arguments; the operations used here take one.
_prctl: Callable[[int, int], int] = _bind("prctl", ctypes.c_int, (ctypes.c_int, ctypes.c_size_t))

_process_vm_readv: Callable[[int, int, int, int, int, int], int] = _bind(
    "process_vm_readv",
    ctypes.c_long,
    (
        ctypes.c_int,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.c_size_t,
    ),
)

# It cannot fail, and stands in the path of every guest access, so it goes unchecked and unwrapped:
# memcpy(to_address, from_address, length_bytes).
memcpy: Callable[[int, int, int], None] = _C.memcpy
_C.memcpy.restype = None
_C.memcpy.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t)


def madvise(address: int, length_bytes: int, advice: int) -> None:
    """Advise the kernel about mapped memory; `advice` is one of abi.MADV_*."""
    _madvise(address, length_bytes, advice)


def map_shared(fd: int, length_bytes: int, align_bytes: int = 1) -> int:
    """Map a whole file, readable, writable and shared; return the address.

    Unlike `mmap.mmap` this hands out no buffer: nobody can touch the memory with the GIL held.

    Args:
        fd: The file.
        length_bytes: Its length.
        align_bytes: A power of two that the address shall be a multiple of: only where a huge page
            lies in a multiple of its size can it be mapped as one.

    Raises:
        OSError: The kernel refuses, or other threads map so much that no place is left in peace.
    """
    align_bytes = max(align_bytes, mmap.PAGESIZE)
    reserved_bytes = _round_up(length_bytes, mmap.PAGESIZE) + align_bytes - mmap.PAGESIZE
    for _ in range(_PLACES_TRIED_MAX):
        # Find a place, give it up, and map there what still finds it empty.  To map over it would
        # save the second try but for where the kernel refuses: it has made a hole by then, in which
        # the interpreter may have put its next objects before anybody hears of it, the exception
        # that tells of it first of all.  To clean that up would be to take their memory away.
        start = _mmap(None, reserved_bytes, PROT_NONE, _RESERVING, -1, 0)
        unmap(start, reserved_bytes)
        address = _round_up(start, align_bytes)
        try:
            mapped = _mmap(address, length_bytes, PROT_READ | PROT_WRITE, _FILLING, fd, 0)
        except FileExistsError:
            continue  # Another thread's mapping has come there meanwhile.
        if mapped == address:
            return address
        unmap(mapped, length_bytes)
    raise OSError(errno.ENOMEM, f"mmap: {os.strerror(errno.ENOMEM)}")


def map_executable(fd: int, length_bytes: int) -> int:
    """Map a file as code, readable and executable; return the address."""
    return _mmap(None, length_bytes, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0)


def unmap(address: int, length_bytes: int) -> None:
    """Take a mapping away; whoever looks at it after that is killed."""
    _munmap(address, length_bytes)


def userfaultfd(flags: int) -> int:
    """Return a new userfaultfd, for the memory of this process (userfaultfd(2))."""
    number = abi.SYS_USERFAULTFD.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, "userfaultfd: unknown on this kind of machine")
    return _syscall(number, flags)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Return a copy of a descriptor of another process (pidfd_getfd(2)); one may trace it."""
    return _syscall3(abi.SYS_PIDFD_GETFD, pidfd, fd, 0)


def tgkill(pid: int, thread_id: int, number: int) -> None:
    """Send a signal to one thread of a process (tgkill(2)), on x86-64.

    Raises:
        ProcessLookupError: There is none of that number.
    """
    _syscall3(abi.SYS_TGKILL, pid, thread_id, number)


def ioctl(fd: int, request: int, argument: int = 0) -> int:
    """Call ioctl with a number; unlike `fcntl.ioctl`, with one of 64 bits, and no retry.

    Raises:
        InterruptedError: A signal came.
    """
    return _ioctl(fd, request, argument)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def die_with_parent(parent_pid: int, signal_number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends, and exit if it has already.

    "The parent" is, for the kernel, the *thread* that started this process: start such processes
    from a thread that lives as long as they shall (prctl(2), PR_SET_PDEATHSIG).
    """
    _prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent_pid:
        os._exit(1)


def use_precise_timeouts() -> None:
    """Let the timeouts of the calling thread end on time, not up to 50 us late (the default)."""
    _prctl(PR_SET_TIMERSLACK, 1)


def read_byte_of(pid: int, address: int) -> int:
    """Read a byte of another process's memory, and wait for it there as its own thread would.

    A page that is missing faults for that process: who serves its faults is told, and nothing but
    the calling thread waits.

    Raises:
        OSError: It is not ours to read, is gone, or has nothing there.
    """
    value = ctypes.c_uint8()
    near, far = ((ctypes.c_size_t * 2)(at, 1) for at in (ctypes.addressof(value), address))
    _process_vm_readv(pid, ctypes.addressof(near), 1, ctypes.addressof(far), 1, 0)
    return value.value
