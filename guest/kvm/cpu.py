"""One vCPU as KVM has it: entering the guest, and all that the processor is."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal

from guest import libc
from guest.kvm import abi
from guest.kvm.record import MSR_INDICES, MachineState, pack_msrs, unpack_msrs
from guest.kvm.vm import Vm
from guest.messages import KICK
from protocol.errors import GuestFailed

# Segments of a program in user mode: selector, type, privilege, and whether code, of 64 bits.
_CODE_SELECTOR, _CODE_TYPE = 0x33, 0xB
_DATA_SELECTOR, _DATA_TYPE = 0x2B, 0x3
_USER = 3

# Protection, the coprocessor, write protection, paging.
_CR0 = 0x80010033
# Physical address extension, global pages, SSE and its exceptions, XSAVE.
_CR4 = 0x6A0 | 1 << 18
# Long mode, enabled and active, no-execute, SYSCALL.
_EFER = 0xD01
# I/O privilege for user mode, and no interrupts: with them KVM would have another thread of the
# kernel fetch a missing page, which userfaultfd could not tell from whom.
_RFLAGS = 0x3002

_REGISTERS = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags",
)  # fmt: skip

# What is copied as it is, with its requests and its length.
_PLAIN = {
    "regs": (abi.GET_REGS, abi.SET_REGS, abi.REGS_BYTES),
    "sregs": (abi.GET_SREGS, abi.SET_SREGS, abi.SREGS_BYTES),
    "xcrs": (abi.GET_XCRS, abi.SET_XCRS, abi.XCRS_BYTES),
    "debugregs": (abi.GET_DEBUGREGS, abi.SET_DEBUGREGS, abi.DEBUGREGS_BYTES),
    "events": (abi.GET_VCPU_EVENTS, abi.SET_VCPU_EVENTS, abi.EVENTS_BYTES),
    "mp_state": (abi.GET_MP_STATE, abi.SET_MP_STATE, abi.MP_STATE_BYTES),
    "xsave": (abi.GET_XSAVE, abi.SET_XSAVE, abi.XSAVE_BYTES),
}
# Some can only be set when others are: which features there are before what belongs to them.
_BEFORE_MSRS = ("sregs", "xcrs", "xsave")
_AFTER_MSRS = ("debugregs", "mp_state", "events", "regs")


class Cpu:
    """A vCPU of a machine; one thread at a time may use it."""

    def __init__(self, vm: Vm, number: int) -> None:
        """Make it.

        Raises:
            OSError: KVM refuses.
        """
        self._fd = libc.ioctl(vm.fd, abi.CREATE_VCPU, number)
        self._run = mmap.mmap(self._fd, vm.run_bytes)
        # Mutable, for only then may it be longer than a kilobyte.
        fcntl.ioctl(self._fd, abi.SET_CPUID2, bytearray(vm.cpuid))
        self._reset = self.get("sregs")
        self._reset_xsave = self.get("xsave")
        self._msr_indices = [index for index in MSR_INDICES if self._has_msr(index)]

    def ticks_per_second(self) -> int:
        """Return how fast the guest's time stamp counter goes."""
        return libc.ioctl(self._fd, abi.GET_TSC_KHZ) * 1000

    def let_kicks_in(self) -> None:
        """Have KICK end `enter` and do nothing else; for the calling thread, which enters.

        It stays blocked everywhere else, so that one that comes a moment too early is not lost: it
        ends the next `enter` at once.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {KICK})
        blocked = (1 << 64) - 1 & ~(1 << (KICK - 1))
        mask = abi.SIGNAL_MASK_STRUCT.pack(8, blocked)
        fcntl.ioctl(self._fd, abi.SET_SIGNAL_MASK, mask)

    def enter(self) -> int:
        """Run the guest until something happens; return one of abi.EXIT_*.

        Raises:
            GuestFailed: KVM cannot run it.
        """
        try:
            libc.ioctl(self._fd, abi.RUN)
        except OSError as error:
            if error.errno != errno.EINTR:
                raise GuestFailed(f"KVM_RUN: {os.strerror(error.errno or 0)}") from error
            signal.sigtimedwait({KICK}, 0)
            return abi.EXIT_INTR
        return int.from_bytes(self._run[abi.RUN_EXIT_REASON : abi.RUN_EXIT_REASON + 4], "little")

    def mmio(self) -> tuple[int, int]:
        """Return where the guest has written that no memory is, and what; -1 if it has read."""
        address, data, length, is_write = abi.MMIO_STRUCT.unpack_from(self._run, abi.RUN_UNION)
        return address, int.from_bytes(data[:length], "little") if is_write else -1

    def begin(self, *, at: int, stack: int, page_tables: int, **registers: int) -> None:
        """Stand at an instruction in user mode, as if nothing had been before.

        Args:
            at: The instruction's address.
            stack: The stack's end.
            page_tables: The uppermost table's physical address.
            registers: The first values of others, by their names.
        """
        sregs = bytearray(self._reset)
        code = abi.SEGMENT_STRUCT.pack(
            0, 0xFFFFFFFF, _CODE_SELECTOR, _CODE_TYPE, 1, _USER, 0, 1, 1, 1, 0, 0
        )
        data = abi.SEGMENT_STRUCT.pack(
            0, 0xFFFFFFFF, _DATA_SELECTOR, _DATA_TYPE, 1, _USER, 1, 1, 0, 1, 0, 0
        )
        segments = code + data * (abi.SREGS_SEGMENT_COUNT - 1)
        sregs[: len(segments)] = segments
        *_, apic_base = abi.SREGS_CONTROL_STRUCT.unpack_from(sregs, abi.SREGS_CONTROL_OFFSET)
        abi.SREGS_CONTROL_STRUCT.pack_into(
            sregs, abi.SREGS_CONTROL_OFFSET, _CR0, 0, page_tables, _CR4, 0, _EFER, apic_base
        )
        values = dict.fromkeys(_REGISTERS, 0) | registers
        values |= {"rip": at, "rsp": stack, "rflags": _RFLAGS}
        self.set("sregs", sregs)
        self.set("xsave", self._reset_xsave)
        self.set("regs", abi.REGS_STRUCT.pack(*values.values()))

    def save(self, memory: bytes, guest_ns: int, wall_ns: int) -> MachineState:
        """Return all of the processor, which does not run.

        Args:
            memory: Its own.
            guest_ns: What its clock shows.
            wall_ns: What the wall clock shows.
        """
        self._complete()
        parts = {name: self.get(name) for name in _PLAIN}
        parts["xsave"] = parts["xsave"].rstrip(b"\0")
        return MachineState(
            **parts, memory=memory, msrs=pack_msrs(self._msrs()), guest_ns=guest_ns, wall_ns=wall_ns
        )

    def restore(self, state: MachineState) -> None:
        """Be what another processor was, but for its memory and its clock.

        Raises:
            GuestFailed: This one cannot: says what of it.
        """
        self._complete()
        for name in _BEFORE_MSRS:
            self._restore(name, state)
        self._set_msrs(unpack_msrs(state.msrs))
        for name in _AFTER_MSRS:
            self._restore(name, state)

    def get(self, name: str) -> bytes:
        """Return a part of the state, by its name in MachineState.

        Raises:
            OSError: KVM refuses.
        """
        request, _, length = _PLAIN[name]
        data = bytearray(length)
        fcntl.ioctl(self._fd, request, data)
        return bytes(data)

    def set(self, name: str, data: bytes | bytearray) -> None:
        """Set a part of the state.

        Raises:
            OSError: KVM refuses.
        """
        fcntl.ioctl(self._fd, _PLAIN[name][1], bytearray(data))

    def instruction(self) -> int:
        """Return the address of the instruction before which it stands."""
        return int(abi.REGS_STRUCT.unpack(self.get("regs"))[_REGISTERS.index("rip")])

    def close(self) -> None:
        """Close it; call it once."""
        self._run.close()
        os.close(self._fd)

    def _complete(self) -> None:
        """Have KVM finish the write that the guest has left for, without a further instruction."""
        self._run[abi.RUN_IMMEDIATE_EXIT] = 1
        try:
            self.enter()
        finally:
            self._run[abi.RUN_IMMEDIATE_EXIT] = 0

    def _restore(self, name: str, state: MachineState) -> None:
        data: bytes = getattr(state, name)
        length = _PLAIN[name][2]
        try:
            self.set(name, data.ljust(length, b"\0"))
        except OSError as error:
            raise GuestFailed(f"KVM does not take the guest's {name}: {error.strerror}") from error

    def _has_msr(self, index: int) -> bool:
        try:
            return self._get_msrs([index])[1] == 1
        except OSError:
            return False

    def _msrs(self) -> dict[int, int]:
        data, _ = self._get_msrs(self._msr_indices)
        entries = abi.MSR_ENTRY_STRUCT.iter_unpack(data[abi.MSRS_STRUCT.size :])
        return {index: value for index, _, value in entries}

    def _get_msrs(self, indices: list[int]) -> tuple[bytearray, int]:
        """Return what KVM has written, and how many it knows before the first that it does not."""
        entries = b"".join(abi.MSR_ENTRY_STRUCT.pack(index, 0, 0) for index in indices)
        data = bytearray(abi.MSRS_STRUCT.pack(len(indices), 0) + entries)
        return data, fcntl.ioctl(self._fd, abi.GET_MSRS, data)

    def _set_msrs(self, values: dict[int, int]) -> None:
        entries = [abi.MSR_ENTRY_STRUCT.pack(index, 0, value) for index, value in values.items()]
        data = bytearray(abi.MSRS_STRUCT.pack(len(entries), 0) + b"".join(entries))
        try:
            done = fcntl.ioctl(self._fd, abi.SET_MSRS, data)
        except OSError as error:
            raise GuestFailed(f"KVM does not take the guest's MSRs: {error.strerror}") from error
        if done < len(values):
            refused = list(values)[done]
            raise GuestFailed(f"KVM does not take the guest's MSR {refused:#x}")
