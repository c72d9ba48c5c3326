"""KVM's names for what virtual machines are made of and asked, each told once.

Request codes are computed as the kernel's headers do and asserted against the number that they come
to on x86-64.  Sources: <linux/kvm.h>, <asm/kvm.h>, Documentation/virt/kvm/api.rst.
"""

from __future__ import annotations

import struct

DEVICE = "/dev/kvm"

# <asm-generic/ioctl.h>: direction, size of the argument, KVM's letter, number.
_NONE, _WRITE, _READ = 0, 1, 2
_KVMIO = 0xAE


def _request(direction: int, number: int, size_bytes: int = 0) -> int:
    return direction << 30 | size_bytes << 16 | _KVMIO << 8 | number


# What KVM_GET_API_VERSION has said since Linux 2.6.22.
API_VERSION = 12

# Of KVM_CHECK_EXTENSION and KVM_ENABLE_CAP.
CAP_NR_MEMSLOTS = 10
CAP_GET_TSC_KHZ = 61
CAP_READONLY_MEM = 81
CAP_IMMEDIATE_EXIT = 136
CAP_MANUAL_DIRTY_LOG_PROTECT2 = 168

DIRTY_LOG_MANUAL_PROTECT_ENABLE = 1 << 0
DIRTY_LOG_INITIALLY_SET = 1 << 1

# struct kvm_userspace_memory_region: slot, flags, guest address, size, user address.
MEMORY_REGION_STRUCT = struct.Struct("=IIQQQ")
MEM_LOG_DIRTY_PAGES = 1 << 0
MEM_READONLY = 1 << 1

# struct kvm_dirty_log: slot, padding, bitmap.
DIRTY_LOG_STRUCT = struct.Struct("=IIQ")
# struct kvm_clear_dirty_log: slot, number of pages, first page, bitmap.  Both numbers are of whole
# 64 pages, but for the end of the slot.
CLEAR_DIRTY_LOG_STRUCT = struct.Struct("=IIQQ")

# struct kvm_enable_cap: cap, flags, four arguments.
ENABLE_CAP_STRUCT = struct.Struct("=IIQQQQ64x")

# struct kvm_regs: rax rbx rcx rdx rsi rdi rsp rbp r8 to r15 rip rflags.
REGS_STRUCT = struct.Struct("=18Q")
# struct kvm_segment: base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable.
SEGMENT_STRUCT = struct.Struct("=QIH8BBx")
# In struct kvm_sregs: six segments, two more (tr, ldt), two tables of 16 bytes (gdt, idt), then
# cr0 cr2 cr3 cr4 cr8 efer apic_base, and the bitmap of pending interrupts.
SREGS_SEGMENT_COUNT = 6
SREGS_CONTROL_OFFSET = 8 * SEGMENT_STRUCT.size + 2 * 16
SREGS_CONTROL_STRUCT = struct.Struct("=7Q")

REGS_BYTES = 144
SREGS_BYTES = 312
XCRS_BYTES = 392
DEBUGREGS_BYTES = 128
EVENTS_BYTES = 64
MP_STATE_BYTES = 4
XSAVE_BYTES = 4096

# struct kvm_msrs: count, padding; then of each struct kvm_msr_entry: index, reserved, data.
MSRS_STRUCT = struct.Struct("=II")
MSR_ENTRY_STRUCT = struct.Struct("=IIQ")

# struct kvm_cpuid2: count, padding; then 40 bytes each, of which the first number is the function.
CPUID_STRUCT = struct.Struct("=II")
CPUID_ENTRY_STRUCT = struct.Struct("=10I")
CPUID_ENTRY_COUNT_MAX = 256

# struct kvm_signal_mask: length of the kernel's sigset_t, sigset_t.
SIGNAL_MASK_STRUCT = struct.Struct("=IQ")

# In struct kvm_run, which a vCPU shares with its process.
RUN_IMMEDIATE_EXIT = 1
RUN_EXIT_REASON = 8
RUN_UNION = 32
# Of an access to where no memory is: address, data, length, whether it writes.
MMIO_STRUCT = struct.Struct("=Q8sIB")

EXIT_MMIO = 6
EXIT_INTR = 10
EXIT_NAMES = {
    0: "unknown", 1: "exception", 2: "io", 3: "hypercall", 4: "debug", 5: "hlt", 6: "mmio",
    7: "interrupt window", 8: "shutdown", 9: "fail entry", 10: "signal", 17: "internal error",
    24: "system event", 29: "system register", 39: "memory fault",
}  # fmt: skip

GET_API_VERSION = _request(_NONE, 0x00)
CREATE_VM = _request(_NONE, 0x01)
CHECK_EXTENSION = _request(_NONE, 0x03)
GET_VCPU_MMAP_SIZE = _request(_NONE, 0x04)
GET_SUPPORTED_CPUID = _request(_READ | _WRITE, 0x05, CPUID_STRUCT.size)
CREATE_VCPU = _request(_NONE, 0x41)
GET_DIRTY_LOG = _request(_WRITE, 0x42, DIRTY_LOG_STRUCT.size)
SET_USER_MEMORY_REGION = _request(_WRITE, 0x46, MEMORY_REGION_STRUCT.size)
SET_TSS_ADDR = _request(_NONE, 0x47)
RUN = _request(_NONE, 0x80)
GET_REGS = _request(_READ, 0x81, REGS_BYTES)
SET_REGS = _request(_WRITE, 0x82, REGS_BYTES)
GET_SREGS = _request(_READ, 0x83, SREGS_BYTES)
SET_SREGS = _request(_WRITE, 0x84, SREGS_BYTES)
GET_MSRS = _request(_READ | _WRITE, 0x88, MSRS_STRUCT.size)
SET_MSRS = _request(_WRITE, 0x89, MSRS_STRUCT.size)
SET_SIGNAL_MASK = _request(_WRITE, 0x8B, 4)
SET_CPUID2 = _request(_WRITE, 0x90, CPUID_STRUCT.size)
GET_MP_STATE = _request(_READ, 0x98, MP_STATE_BYTES)
SET_MP_STATE = _request(_WRITE, 0x99, MP_STATE_BYTES)
GET_VCPU_EVENTS = _request(_READ, 0x9F, EVENTS_BYTES)
SET_VCPU_EVENTS = _request(_WRITE, 0xA0, EVENTS_BYTES)
GET_DEBUGREGS = _request(_READ, 0xA1, DEBUGREGS_BYTES)
SET_DEBUGREGS = _request(_WRITE, 0xA2, DEBUGREGS_BYTES)
GET_TSC_KHZ = _request(_NONE, 0xA3)
ENABLE_CAP = _request(_WRITE, 0xA3, ENABLE_CAP_STRUCT.size)
GET_XSAVE = _request(_READ, 0xA4, XSAVE_BYTES)
SET_XSAVE = _request(_WRITE, 0xA5, XSAVE_BYTES)
GET_XCRS = _request(_READ, 0xA6, XCRS_BYTES)
SET_XCRS = _request(_WRITE, 0xA7, XCRS_BYTES)
CLEAR_DIRTY_LOG = _request(_READ | _WRITE, 0xC0, CLEAR_DIRTY_LOG_STRUCT.size)

assert GET_API_VERSION == 0xAE00
assert CREATE_VM == 0xAE01
assert CHECK_EXTENSION == 0xAE03
assert GET_VCPU_MMAP_SIZE == 0xAE04
assert GET_SUPPORTED_CPUID == 0xC008AE05
assert CREATE_VCPU == 0xAE41
assert GET_DIRTY_LOG == 0x4010AE42
assert SET_USER_MEMORY_REGION == 0x4020AE46
assert SET_TSS_ADDR == 0xAE47
assert RUN == 0xAE80
assert GET_REGS == 0x8090AE81
assert SET_REGS == 0x4090AE82
assert GET_SREGS == 0x8138AE83
assert SET_SREGS == 0x4138AE84
assert GET_MSRS == 0xC008AE88
assert SET_MSRS == 0x4008AE89
assert SET_SIGNAL_MASK == 0x4004AE8B
assert SET_CPUID2 == 0x4008AE90
assert GET_MP_STATE == 0x8004AE98
assert SET_MP_STATE == 0x4004AE99
assert GET_VCPU_EVENTS == 0x8040AE9F
assert SET_VCPU_EVENTS == 0x4040AEA0
assert GET_DEBUGREGS == 0x8080AEA1
assert SET_DEBUGREGS == 0x4080AEA2
assert GET_TSC_KHZ == 0xAEA3
assert ENABLE_CAP == 0x4068AEA3
assert GET_XSAVE == 0x9000AEA4
assert SET_XSAVE == 0x5000AEA5
assert GET_XCRS == 0x8188AEA6
assert SET_XCRS == 0x4188AEA7
assert CLEAR_DIRTY_LOG == 0xC018AEC0
assert REGS_STRUCT.size == REGS_BYTES
assert SEGMENT_STRUCT.size == 24
assert SREGS_CONTROL_OFFSET + SREGS_CONTROL_STRUCT.size + 32 == SREGS_BYTES
assert ENABLE_CAP_STRUCT.size == 104
assert MEMORY_REGION_STRUCT.size == 32
assert SIGNAL_MASK_STRUCT.size == 12
