"""KVM's request codes and structs are those of the kernel's own header."""

import shutil
import subprocess
from pathlib import Path

import pytest

from guest.kvm import abi

HEADER = Path("/usr/include/linux/kvm.h")

REQUESTS = (
    "GET_API_VERSION", "CREATE_VM", "CHECK_EXTENSION", "GET_VCPU_MMAP_SIZE", "GET_SUPPORTED_CPUID",
    "CREATE_VCPU", "GET_DIRTY_LOG", "SET_USER_MEMORY_REGION", "SET_TSS_ADDR", "RUN", "GET_REGS",
    "SET_REGS", "GET_SREGS", "SET_SREGS", "GET_MSRS", "SET_MSRS", "SET_SIGNAL_MASK", "SET_CPUID2",
    "GET_MP_STATE", "SET_MP_STATE", "GET_VCPU_EVENTS", "SET_VCPU_EVENTS", "GET_DEBUGREGS",
    "SET_DEBUGREGS", "GET_TSC_KHZ", "ENABLE_CAP", "GET_XSAVE", "SET_XSAVE", "GET_XCRS", "SET_XCRS",
    "CLEAR_DIRTY_LOG", "CAP_GET_TSC_KHZ", "CAP_READONLY_MEM", "CAP_IMMEDIATE_EXIT",
    "CAP_MANUAL_DIRTY_LOG_PROTECT2", "MEM_LOG_DIRTY_PAGES", "MEM_READONLY", "EXIT_MMIO",
    "EXIT_INTR", "API_VERSION",
)  # fmt: skip
SIZES = {
    "kvm_regs": abi.REGS_BYTES,
    "kvm_sregs": abi.SREGS_BYTES,
    "kvm_xcrs": abi.XCRS_BYTES,
    "kvm_debugregs": abi.DEBUGREGS_BYTES,
    "kvm_vcpu_events": abi.EVENTS_BYTES,
    "kvm_mp_state": abi.MP_STATE_BYTES,
    "kvm_xsave": abi.XSAVE_BYTES,
    "kvm_segment": abi.SEGMENT_STRUCT.size,
    "kvm_userspace_memory_region": abi.MEMORY_REGION_STRUCT.size,
    "kvm_dirty_log": abi.DIRTY_LOG_STRUCT.size,
    "kvm_clear_dirty_log": abi.CLEAR_DIRTY_LOG_STRUCT.size,
    "kvm_enable_cap": abi.ENABLE_CAP_STRUCT.size,
    "kvm_msr_entry": abi.MSR_ENTRY_STRUCT.size,
    "kvm_cpuid_entry2": abi.CPUID_ENTRY_STRUCT.size,
}
OFFSETS = {
    "kvm_sregs, cr0": abi.SREGS_CONTROL_OFFSET,
    "kvm_regs, rip": 16 * 8,
    "kvm_run, exit_reason": abi.RUN_EXIT_REASON,
    "kvm_run, immediate_exit": abi.RUN_IMMEDIATE_EXIT,
    "kvm_run, mmio": abi.RUN_UNION,
}


def test_the_kernels_header_says_the_same(tmp_path: Path) -> None:
    """Every number is what <linux/kvm.h> makes it."""
    if shutil.which("gcc") is None or not HEADER.exists():
        pytest.skip("no gcc, or no <linux/kvm.h>")
    values = [f"KVM_{name}" for name in REQUESTS]
    values += [f"sizeof(struct {name})" for name in SIZES]
    values += [f"offsetof(struct {name})" for name in OFFSETS]
    source = tmp_path / "numbers.c"
    lines = "".join(f'printf("%lu\\n", (unsigned long){value});' for value in values)
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\n"
        f"int main(void) {{ {lines} return 0; }}\n",
        encoding="ascii",
    )
    subprocess.run(["gcc", source, "-o", tmp_path / "numbers"], check=True)
    told = subprocess.run([tmp_path / "numbers"], check=True, capture_output=True, text=True)
    ours = [getattr(abi, name) for name in REQUESTS] + [*SIZES.values(), *OFFSETS.values()]
    assert dict(zip(values, map(int, told.stdout.split()), strict=True)) == dict(
        zip(values, ours, strict=True)
    )
