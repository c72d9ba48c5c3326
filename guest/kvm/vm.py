"""A virtual machine as KVM has it: its memory slots and their dirty logs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from guest import libc
from guest.kvm import abi
from protocol.errors import GuestFailed

# Three pages of KVM's own, where no slot lies: some of Intel's processors need them.
_TSS_ADDRESS = 0xFFFBD000


class Vm:
    """A virtual machine without vCPUs and memory; `close` it.

    Only the process that has made it may use it: to others its descriptor says EIO.

    Attributes:
        fd: Its descriptor.
        run_bytes: How much of each vCPU's descriptor can be mapped.
        cpuid: What a processor here can do, as KVM_SET_CPUID2 takes it.
    """

    def __init__(self) -> None:
        """Make one.

        Raises:
            GuestFailed: It cannot be had; says why in one line.
        """
        self.fd = -1
        try:
            self._device_fd = os.open(abi.DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise GuestFailed(f"{abi.DEVICE}: {error.strerror}") from error
        try:
            self._create()
        except OSError as error:
            self.close()
            # Whatever is there under that name, it is not KVM.
            strange = error.errno in (errno.ENOTTY, errno.EINVAL)
            why = "it is no KVM device" if strange and self.fd < 0 else error.strerror
            raise GuestFailed(f"{abi.DEVICE}: {why}") from error
        except GuestFailed:
            self.close()
            raise

    def _create(self) -> None:
        version = libc.ioctl(self._device_fd, abi.GET_API_VERSION)
        if version != abi.API_VERSION:
            raise GuestFailed(f"{abi.DEVICE}: its API is {version}, not {abi.API_VERSION}")
        self.fd = libc.ioctl(self._device_fd, abi.CREATE_VM)
        for name, cap in (
            ("read-only memory", abi.CAP_READONLY_MEM),
            ("immediate exits", abi.CAP_IMMEDIATE_EXIT),
            ("the frequency of the time stamp counter", abi.CAP_GET_TSC_KHZ),
        ):
            if not self.check(cap):
                raise GuestFailed(f"KVM has no {name} here")
        with contextlib.suppress(OSError):
            libc.ioctl(self.fd, abi.SET_TSS_ADDR, _TSS_ADDRESS)
        self.run_bytes = libc.ioctl(self._device_fd, abi.GET_VCPU_MMAP_SIZE)
        cpuid = bytearray(
            abi.CPUID_STRUCT.size + abi.CPUID_ENTRY_COUNT_MAX * abi.CPUID_ENTRY_STRUCT.size
        )
        abi.CPUID_STRUCT.pack_into(cpuid, 0, abi.CPUID_ENTRY_COUNT_MAX, 0)
        fcntl.ioctl(self._device_fd, abi.GET_SUPPORTED_CPUID, cpuid)
        self.cpuid = bytes(cpuid)

    def check(self, capability: int) -> int:
        """Return what KVM says of one of abi.CAP_*; 0: it has none."""
        return libc.ioctl(self.fd, abi.CHECK_EXTENSION, capability)

    @property
    def address_bits(self) -> int:
        """How wide a guest's physical addresses are."""
        count, _ = abi.CPUID_STRUCT.unpack_from(self.cpuid)
        for index in range(count):
            offset = abi.CPUID_STRUCT.size + index * abi.CPUID_ENTRY_STRUCT.size
            function, _, _, eax, *_ = abi.CPUID_ENTRY_STRUCT.unpack_from(self.cpuid, offset)
            if function == 0x80000008:
                return int(eax & 0xFF)
        return 36

    def set_memory(
        self, slot: int, guest_address: int, length_bytes: int, address: int, flags: int = 0
    ) -> None:
        """Have the guest see this process's memory at an address, or change a slot's flags.

        The memory must stay mapped for as long as the machine is there.

        Args:
            slot: Its number.
            guest_address: Where the guest sees it, of a whole page.
            length_bytes: Of whole pages.
            address: Where this process has it.
            flags: Bits of abi.MEM_*.

        Raises:
            OSError: KVM refuses.
        """
        region = abi.MEMORY_REGION_STRUCT.pack(slot, flags, guest_address, length_bytes, address)
        fcntl.ioctl(self.fd, abi.SET_USER_MEMORY_REGION, region)

    def protect_by_hand(self) -> bool:
        """Have dirty logs protect pages at `clear_dirty_log` and not before; return whether so.

        Otherwise `get_dirty_log` protects all of a slot, which stops its vCPUs for longer.
        """
        wanted = abi.DIRTY_LOG_MANUAL_PROTECT_ENABLE | abi.DIRTY_LOG_INITIALLY_SET
        known = self.check(abi.CAP_MANUAL_DIRTY_LOG_PROTECT2) & wanted
        if not known & abi.DIRTY_LOG_MANUAL_PROTECT_ENABLE:
            return False
        capability = abi.CAP_MANUAL_DIRTY_LOG_PROTECT2
        fcntl.ioctl(
            self.fd, abi.ENABLE_CAP, abi.ENABLE_CAP_STRUCT.pack(capability, 0, known, 0, 0, 0)
        )
        return True

    def get_dirty_log(self, slot: int, bitmap_address: int) -> None:
        """Write a bit for each page of a slot, lowest first: whether it was written to.

        Raises:
            OSError: KVM keeps no log of it.
        """
        log = abi.DIRTY_LOG_STRUCT.pack(slot, 0, bitmap_address)
        fcntl.ioctl(self.fd, abi.GET_DIRTY_LOG, log)

    def clear_dirty_log(self, slot: int, first: int, count: int, bitmap_address: int) -> None:
        """Protect anew those pages of a slot whose bits are set, and forget that they were written.

        Args:
            slot: Its number.
            first: The first bit's page, a multiple of 64.
            count: How many bits, a multiple of 64 but at the end of the slot.
            bitmap_address: Where they are.

        Raises:
            OSError: KVM refuses.
        """
        log = abi.CLEAR_DIRTY_LOG_STRUCT.pack(slot, count, first, bitmap_address)
        fcntl.ioctl(self.fd, abi.CLEAR_DIRTY_LOG, log)

    def close(self) -> None:
        """Close it; more calls do nothing."""
        for fd in (self.fd, self._device_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._device_fd = -1


@contextmanager
def open_vm() -> Iterator[Vm]:
    """Make a virtual machine for as long as the block lasts.

    Raises:
        GuestFailed: It cannot be had.
    """
    vm = Vm()
    try:
        yield vm
    finally:
        vm.close()
