"""A virtual machine over a guest's memory: slots, page tables, programs, and its processors."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np

from guest.board import Board
from guest.kvm import abi
from guest.kvm.addresses import DOORBELL, PAGE_BYTES, lay_out
from guest.kvm.cpu import Cpu
from guest.kvm.record import PRIVATE_BYTES
from guest.kvm.vm import Vm
from guest.native.clock import GuestClock
from guest.native.code import ENTER, Told, functions, machine_code
from guest.native.layout import Addresses, ProgramData, StateData, accesses_of, fill
from guest.spec import ProgramSpec
from protocol.errors import GuestFailed
from protocol.geometry import Geometry

# The slots of memory that are not RAM; those of the blocks follow.
_SYSTEM_SLOT, _PRIVATE_SLOT, _BOARD_SLOT, _FIRST_BLOCK_SLOT = range(4)

# How often two counters are compared, of which the closest counts.
_TRIES = 8


class Machine:
    """A machine that stands still; each of its processors is run by a thread of its own.

    Attributes:
        vm: What KVM has of it.
        cpus: Its processors, at the program's begin.
        programs: What each is to do, and what it knows of time; theirs to read, the host's to set.
        states: What each remembers; the host's to set while it stands still.
        clocks: Of each.
    """

    def __init__(
        self,
        spec: ProgramSpec,
        geometry: Geometry,
        addresses: Sequence[int],
        board: Board,
        *,
        last_step: int | None = None,
    ) -> None:
        """Make it.

        Args:
            spec: What its vCPUs do.
            geometry: The guest's blocks.
            addresses: Where this process has each block; mapped for as long as this is there.
            board: The guest's.
            last_step: Before which access vCPUs park for good; None for none.

        Raises:
            GuestFailed: It cannot be had.
        """
        self.vm = Vm()
        self.cpus: list[Cpu] = []
        self._geometry, self._addresses, self._board = geometry, tuple(addresses), board
        try:
            self._build(spec, last_step)
        except OSError as error:
            self.close()
            raise GuestFailed(f"KVM does not make this machine: {error.strerror}") from error
        except GuestFailed:
            self.close()
            raise

    def _build(self, spec: ProgramSpec, last_step: int | None) -> None:
        geometry, board, vm = self._geometry, self._board, self.vm
        accesses = [accesses_of(spec, vcpu) for vcpu in range(spec.vcpu_count)]
        lengths = tuple(each.nbytes for each in accesses)
        places = lay_out(geometry, lengths, board.counters_bytes, vm.address_bits)
        self._places = places
        self._system = mmap.mmap(-1, places.system_bytes)
        self._private = mmap.mmap(-1, spec.vcpu_count * PRIVATE_BYTES)
        tables = places.page_tables()
        self._system[: tables.nbytes] = tables.tobytes()
        code = machine_code()
        start = places.code - places.tables
        self._system[start : start + len(code)] = code
        for place, each in zip(places.accesses, accesses, strict=True):
            start = place - places.tables
            self._system[start : start + each.nbytes] = each.tobytes()
        limit = {} if last_step is None else {"last_step": last_step}
        self.programs = []
        for vcpu, place in enumerate(places.programs):
            seen = Addresses(places.blocks, places.board, places.accesses[vcpu])
            data = fill(spec, geometry, vcpu, board, seen, is_thread=False, **limit)
            start = place - places.tables
            self._system[start : start + len(bytes(data))] = bytes(data)
            self.programs.append(ProgramData.from_buffer(self._system, start))
        self.states = [
            StateData.from_buffer(self._private, vcpu * PRIVATE_BYTES)
            for vcpu in range(spec.vcpu_count)
        ]
        self._set_slots()
        self.cpus += [Cpu(vm, vcpu) for vcpu in range(spec.vcpu_count)]
        self.clocks = []
        for vcpu, cpu in enumerate(self.cpus):
            self.begin(vcpu)
            offset = self._measure_offset(vcpu)
            clock = GuestClock(
                self.programs[vcpu], self.states[vcpu], cpu.ticks_per_second(), offset
            )
            clock.start()
            self.clocks.append(clock)

    def begin(self, vcpu: int) -> None:
        """Put a processor to the program's begin."""
        places, base = self._places, self._places.private_of(vcpu)
        self.cpus[vcpu].begin(
            at=places.code + ENTER,
            stack=base + PRIVATE_BYTES,
            page_tables=places.tables,
            rdi=places.programs[vcpu],
            rsi=base,
            rbx=DOORBELL,
        )

    def enter(self, vcpu: int) -> int:
        """Run a processor until its program comes back; return bits of `Told`, 0 if it was kicked.

        Raises:
            GuestFailed: It did something else.
        """
        cpu = self.cpus[vcpu]
        reason = cpu.enter()
        if reason == abi.EXIT_INTR:
            return 0
        if reason == abi.EXIT_MMIO:
            address, value = cpu.mmio()
            if address == DOORBELL and value > 0:
                return value
        name = abi.EXIT_NAMES.get(reason, str(reason))
        raise GuestFailed(f"vCPU {vcpu} left the guest ({name}) at {cpu.instruction():#x}")

    def memory_of(self, vcpu: int) -> bytes:
        """Return a processor's own memory."""
        return self._private[vcpu * PRIVATE_BYTES : (vcpu + 1) * PRIVATE_BYTES]

    def set_memory_of(self, vcpu: int, data: bytes) -> None:
        """Set a processor's own memory, of PRIVATE_BYTES."""
        self._private[vcpu * PRIVATE_BYTES : (vcpu + 1) * PRIVATE_BYTES] = data

    def log_writes(self, *, on: bool) -> None:
        """Have KVM note which pages of the RAMBlocks are written to, or no longer.

        Raises:
            OSError: KVM refuses.
        """
        for index in range(len(self._addresses)):
            self._set_block(index, abi.MEM_LOG_DIRTY_PAGES if on else 0)

    def block_slot(self, index: int) -> int:
        """Return a RAMBlock's slot."""
        return _FIRST_BLOCK_SLOT + index

    def close(self) -> None:
        """Give it back; no thread may be in it."""
        for cpu in self.cpus:
            cpu.close()
        self.cpus.clear()
        self.vm.close()

    def _set_slots(self) -> None:
        places, vm = self._places, self.vm
        # Of the kernel's memory, whole pages.
        system, private = (_address(each) for each in (self._system, self._private))
        length = -(-places.system_bytes // PAGE_BYTES) * PAGE_BYTES
        vm.set_memory(_SYSTEM_SLOT, places.tables, length, system, abi.MEM_READONLY)
        vm.set_memory(_PRIVATE_SLOT, places.private, len(self._private), private)
        counters_bytes = self._board.counters_bytes
        vm.set_memory(_BOARD_SLOT, places.board, counters_bytes, self._board.address)
        for index in range(len(self._addresses)):
            self._set_block(index, 0)

    def _set_block(self, index: int, flags: int) -> None:
        self.vm.set_memory(
            self.block_slot(index), self._places.blocks[index],
            self._geometry.blocks[index].length_bytes, self._addresses[index], flags,
        )  # fmt: skip

    def _measure_offset(self, vcpu: int) -> int:
        """Return what a processor's time stamp counter shows more than the host's.

        Raises:
            GuestFailed: It did not come so far as to tell.
        """
        counter, state = functions().counter, self.states[vcpu]
        best = (1 << 62, 0)
        is_between = True
        for _ in range(_TRIES):
            state.asks_clock = 1
            before = counter()
            told = self.enter(vcpu)
            after = counter()
            if told != Told.CLOCK:
                raise GuestFailed(f"the guest's program told {told} where its clock was asked for")
            is_between &= before <= state.after <= after
            best = min(best, (after - before, state.after - (before + after) // 2))
        # Always between two looks of the host's it is the same counter.
        return 0 if is_between else best[1]


def _address(mapping: mmap.mmap) -> int:
    return int(np.frombuffer(mapping, np.uint8).ctypes.data)
