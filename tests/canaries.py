"""Known patterns in those registers of a vCPU that its program leaves alone.

The program uses general registers and nothing else (guest/native/build), so what the floating-point
and vector registers had when it began they have at its end, on whatever host that is.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from guest.kvm import abi
from guest.kvm.record import MachineState, unpack_machine_state
from guest.kvm.vm import open_vm
from guest.states import VcpuState

# How x87 and SSE round and what they have met, unlike after a reset: FCW, FSW with the stack's top
# at 5, FTW with every register in use; MXCSR.
_X87_CONTROL = struct.pack("=HHB", 0x027F, 0x2800, 0xFF)
_MXCSR = struct.pack("=I", 0x1FA0)
_MXCSR_OFFSET = 24

# Of an x87 register's 16 bytes there are 10.
_ST_OFFSET, _ST_COUNT, _ST_BYTES, _ST_STRIDE = 32, 8, 10, 16
_XMM_OFFSET, _XMM_BYTES = 160, 256
_XSTATE_BV = slice(512, 520)
_X87_AND_SSE = 0b11

# This function of CPUID says where XSAVE has which part of a processor.  In these every bit is a
# register's: what AVX adds, and what AVX-512 does.
_XSAVE_FUNCTION = 13
_VECTOR_PARTS = (2, 5, 6, 7)

# struct kvm_xcrs with one register: count, flags; number, reserved, value.
_XCR_STRUCT = struct.Struct("=IIIIQ")


def plant(states: tuple[VcpuState, ...]) -> tuple[VcpuState, ...]:
    """Return virtual machines' vCPUs with a pattern in each, its own, and else as they were."""
    return tuple(replace(each, machine=_planted(each).pack()) for each in states)


def areas(states: tuple[VcpuState, ...]) -> list[tuple[bytes, bytes]]:
    """Return what vCPUs have in all that XSAVE knows, and which parts of that are enabled."""
    machines = (unpack_machine_state(each.vcpu, each.machine) for each in states)
    return [(machine.xsave, machine.xcrs) for machine in machines]


def expect_patterns(areas_now: list[tuple[bytes, bytes]]) -> None:
    """Check that each vCPU has the pattern that was planted in it, in every register."""
    for vcpu, (xsave, xcrs) in enumerate(areas_now):
        for offset, data in _pattern(vcpu):
            assert xsave[offset : offset + len(data)] == data, f"vCPU {vcpu}, from byte {offset}"
        assert _XCR_STRUCT.unpack_from(xcrs) == (1, 0, 0, 0, _components()), f"vCPU {vcpu}"


def _planted(state: VcpuState) -> MachineState:
    machine = unpack_machine_state(state.vcpu, state.machine)
    xsave, xcrs = bytearray(machine.xsave.ljust(abi.XSAVE_BYTES, b"\0")), bytearray(machine.xcrs)
    for offset, data in _pattern(state.vcpu):
        xsave[offset : offset + len(data)] = data
    xsave[_XSTATE_BV] = _components().to_bytes(8, "little")
    _XCR_STRUCT.pack_into(xcrs, 0, 1, 0, 0, 0, _components())
    return replace(machine, xsave=bytes(xsave).rstrip(b"\0"), xcrs=bytes(xcrs))


def _pattern(vcpu: int) -> Iterator[tuple[int, bytes]]:
    """Yield offset in the XSAVE area and bytes of all that a vCPU's pattern is."""
    rng = random.Random(vcpu)
    yield 0, _X87_CONTROL
    yield _MXCSR_OFFSET, _MXCSR
    for register in range(_ST_COUNT):
        yield _ST_OFFSET + register * _ST_STRIDE, rng.randbytes(_ST_BYTES)
    yield _XMM_OFFSET, rng.randbytes(_XMM_BYTES)
    for offset, length in _vector_parts().values():
        yield offset, rng.randbytes(length)


def _components() -> int:
    """Return the bits of all parts that have a pattern, as XCR0 and XSTATE_BV name them."""
    return _X87_AND_SSE | sum(1 << number for number in _vector_parts())


@cache
def _vector_parts() -> dict[int, tuple[int, int]]:
    """Return offset and length of each of _VECTOR_PARTS that KVM has here, by its number."""
    found = {}
    with open_vm() as vm:
        count, _ = abi.CPUID_STRUCT.unpack_from(vm.cpuid)
        entries = vm.cpuid[abi.CPUID_STRUCT.size :][: count * abi.CPUID_ENTRY_STRUCT.size]
    for function, part, _, length, offset, *_ in abi.CPUID_ENTRY_STRUCT.iter_unpack(entries):
        if function == _XSAVE_FUNCTION and part in _VECTOR_PARTS and length:
            found[part] = (offset, length)
    return found
