"""What lies where in a virtual machine of this project, and the page tables that say so.

Everything is where its physical address says.  It is the same on every host for the same guest, for
a vCPU that is stopped anywhere has addresses in its registers:

    0             nothing: a write here leaves the guest
    2 MiB         page tables, machine code, what each vCPU is to do, traces; read-only
    (behind that) each vCPU's own memory: state and stack
    (behind that) the board, as far as vCPUs use it
    4 GiB         the RAMBlocks, in their order

What is not RAM is always present: a vCPU that waits for its page tables cannot be stopped.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guest.kvm.record import PRIVATE_BYTES
from guest.native.code import CODE_BYTES_MAX
from guest.native.layout import ProgramData
from protocol.errors import GuestFailed
from protocol.geometry import Geometry
from protocol.units import format_bytes

PAGE_BYTES = 4096
_TABLE_ENTRIES = 512
_MIB2, _GIB1 = 2 << 20, 1 << 30

# Where no memory is; the program writes here what it has to tell.
DOORBELL = 0x1000

_SYSTEM = _MIB2
_RAM = 4 * _GIB1
# KVM's own pages (guest/kvm/vm.py) lie above.
_SYSTEM_END_MAX = 3 * _GIB1

# Of an entry: present, writable, for user mode, accessed; dirty and of 2 MiB, too.  The last two
# processors set by themselves, which they could not in memory that is read-only.
_TABLE, _PAGE = 0x27, 0xE7


@dataclass(frozen=True)
class AddressMap:
    """Physical addresses, which are the virtual ones too.

    Attributes:
        tables: Of the uppermost page table.
        code: Of the machine code.
        programs: Of each vCPU's ProgramData.
        accesses: Of each vCPU's part of a trace.
        system_bytes: How much there is from `tables` on that is read-only.
        private: Of the first vCPU's own memory; the others' follow.
        board: Of the board.
        blocks: Of each RAMBlock.
        end: Behind all.
    """

    tables: int
    code: int
    programs: tuple[int, ...]
    accesses: tuple[int, ...]
    system_bytes: int
    private: int
    board: int
    blocks: tuple[int, ...]
    end: int

    def private_of(self, vcpu: int) -> int:
        """Return the address of a vCPU's own memory."""
        return self.private + vcpu * PRIVATE_BYTES

    def page_tables(self) -> NDArray[np.uint64]:
        """Return all page tables, the uppermost first, as words: everything up to `end`."""
        gibs = -(-self.end // _GIB1)
        uppers = -(-gibs // _TABLE_ENTRIES)
        words = np.zeros((1 + uppers + gibs, _TABLE_ENTRIES), np.uint64)

        def entries(first_table: int, count: int) -> NDArray[np.uint64]:
            numbers = np.arange(first_table, first_table + count, dtype=np.uint64)
            return np.uint64(self.tables + _TABLE) + numbers * np.uint64(PAGE_BYTES)

        words[0, :uppers] = entries(1, uppers)
        words[1 : 1 + uppers].reshape(-1)[:gibs] = entries(1 + uppers, gibs)
        pages = np.arange(gibs * _TABLE_ENTRIES, dtype=np.uint64)
        words[1 + uppers :].reshape(-1)[:] = pages * np.uint64(_MIB2) + np.uint64(_PAGE)
        return words.reshape(-1)


def lay_out(
    geometry: Geometry, access_bytes: tuple[int, ...], board_bytes: int, address_bits: int
) -> AddressMap:
    """Return what lies where.

    Args:
        geometry: The guest's blocks.
        access_bytes: How much each vCPU has of a trace.
        board_bytes: How much of the board vCPUs use.
        address_bits: How wide physical addresses are.

    Raises:
        GuestFailed: There are not so many addresses.
    """
    blocks, end = [], _RAM
    for block in geometry.blocks:
        end = _up(end, max(block.page_bytes, _MIB2))
        blocks.append(end)
        end += block.length_bytes
    if end > 1 << address_bits:
        raise GuestFailed(
            f"a virtual machine here has {format_bytes(1 << address_bits)} of addresses, "
            f"this guest needs {format_bytes(end)}"
        )
    gibs = -(-end // _GIB1)
    code = _SYSTEM + (1 + -(-gibs // _TABLE_ENTRIES) + gibs) * PAGE_BYTES
    at = code + CODE_BYTES_MAX
    programs, accesses = [], []
    for _ in access_bytes:
        programs.append(at)
        at += _up(ctypes.sizeof(ProgramData), PAGE_BYTES)
    for length in access_bytes:
        accesses.append(at)
        at += _up(length, PAGE_BYTES)
    private = _up(at, _MIB2)
    board = _up(private + len(access_bytes) * PRIVATE_BYTES, _MIB2)
    if board + board_bytes > _SYSTEM_END_MAX:
        raise GuestFailed("the trace is too long for a virtual machine")
    return AddressMap(
        tables=_SYSTEM, code=code, programs=tuple(programs), accesses=tuple(accesses),
        system_bytes=at - _SYSTEM, private=private, board=board, blocks=tuple(blocks), end=end,
    )  # fmt: skip


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
