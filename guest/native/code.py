"""The machine code of the guest's program, and where its functions are in it.

The bytes are checked in, made by `guest/native/build` (guest/native/README.md).  They are for
x86-64; what runs them is a thread (guest/native/vcpu.py) or a virtual machine (guest/kvm/).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from enum import IntFlag
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from guest import libc
from protocol.errors import GuestFailed

MACHINE = "x86_64"

# Where guest/native/program.ld puts them: a virtual machine's vCPU begins at ENTER.
ENTER = 0x00
_COUNTER = 0x40
_RUN = 0x80

CODE_BYTES_MAX = 4096


class Told(IntFlag):
    """Why the program comes back to its host; several reasons may come together."""

    PARKED = 1
    WOKE = 2
    MISMATCHED = 4
    EARLY = 8
    IDLE = 16
    TOUCHED = 32
    ABSENT = 64
    CLOCK = 128


@cache
def machine_code() -> bytes:
    """Return the program's bytes.

    Raises:
        GuestFailed: This machine is of another kind.
    """
    if os.uname().machine != MACHINE:
        raise GuestFailed(f"the guest's machine code is for {MACHINE}, not {os.uname().machine}")
    code = files("guest.native").joinpath("program.bin").read_bytes()
    assert len(code) <= CODE_BYTES_MAX
    return code


class Functions(NamedTuple):
    """The program, loaded.

    Attributes:
        run: The program as a function of (program, state), by their addresses; it lets the GIL go.
        counter: Reads this processor's time stamp counter.
    """

    run: Callable[[int, int], int]
    counter: Callable[[], int]


def load(code: bytes) -> Functions:
    """Map machine code, so that it can be called, until the end of this process.

    Raises:
        GuestFailed: The kernel does not let this process.
    """
    fd = os.memfd_create("midstream-program", os.MFD_CLOEXEC)
    try:
        os.write(fd, code)
        os.ftruncate(fd, CODE_BYTES_MAX)
        address = libc.map_executable(fd, CODE_BYTES_MAX)
    except OSError as error:
        raise GuestFailed(
            f"memory that can be executed: {os.strerror(error.errno or 0)}"
        ) from error
    finally:
        os.close(fd)
    run = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(address + _RUN)
    return Functions(run, ctypes.CFUNCTYPE(ctypes.c_uint64)(address + _COUNTER))


@cache
def functions() -> Functions:
    """Return the project's own program, loaded.

    Raises:
        GuestFailed: This machine cannot run it.
    """
    return load(machine_code())
