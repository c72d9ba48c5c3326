"""A virtual machine's vCPU as it crosses: registers, its own memory, its time; and what is refused.

The parts are as KVM's ioctls have them, and KVM checks what is in them.  What comes from a peer is
checked here before KVM sees it: each part's kind and length, and which model-specific registers
(MSRs) there are.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass, fields

import msgpack

from guest.kvm import abi
from protocol.errors import RemoteProtocolError
from protocol.records import unpack_plain

# A vCPU's own memory: the program's state at its begin, its stack at its end.
PRIVATE_BYTES = 4096

# Those that a program in user mode can depend on: SYSENTER's, PAT, SYSCALL's, the bases of FS and
# GS, TSC_AUX.  EFER is among the special registers, and the time goes on by the guest's clock.
MSR_INDICES = (
    0x174, 0x175, 0x176, 0x277,
    0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084,
    0xC0000100, 0xC0000101, 0xC0000102, 0xC0000103,
)  # fmt: skip
_MSR_STRUCT = struct.Struct("=IQ")

_NS_MAX = 1 << 63

# The parts, at most, and what msgpack adds to each.
MACHINE_STATE_BYTES_MAX = (
    abi.REGS_BYTES + abi.SREGS_BYTES + abi.XCRS_BYTES + abi.DEBUGREGS_BYTES + abi.EVENTS_BYTES
    + abi.MP_STATE_BYTES + abi.XSAVE_BYTES + PRIVATE_BYTES + len(MSR_INDICES) * _MSR_STRUCT.size
    + 16 * 9
)  # fmt: skip

# What is always of the same length.
_LENGTHS = {
    "regs": abi.REGS_BYTES,
    "sregs": abi.SREGS_BYTES,
    "xcrs": abi.XCRS_BYTES,
    "debugregs": abi.DEBUGREGS_BYTES,
    "events": abi.EVENTS_BYTES,
    "mp_state": abi.MP_STATE_BYTES,
    "memory": PRIVATE_BYTES,
}


@dataclass(frozen=True)
class MachineState:
    """All of a vCPU that stands still, wherever that is.

    Attributes:
        regs: General registers, instruction pointer, flags.
        sregs: Segments, control registers.
        xcrs: Which of the extended state is enabled.
        debugregs: Debug registers.
        events: Exceptions and interrupts under way.
        mp_state: Whether it runs or is halted.
        memory: Its own page.
        xsave: x87, SSE, AVX and all else that XSAVE has, without the zeros at its end.
        msrs: Pairs of index and value, 12 bytes each, of MSR_INDICES, ascending.
        guest_ns: What its clock showed, in nanoseconds.
        wall_ns: What its host's wall clock showed then.
    """

    regs: bytes
    sregs: bytes
    xcrs: bytes
    debugregs: bytes
    events: bytes
    mp_state: bytes
    memory: bytes
    xsave: bytes
    msrs: bytes
    guest_ns: int
    wall_ns: int

    def pack(self) -> bytes:
        """Return it as it crosses."""
        data: bytes = msgpack.packb(astuple(self))
        return data


def unpack_machine_state(vcpu: int, data: bytes) -> MachineState:
    """Return what a peer says of a vCPU.

    Raises:
        RemoteProtocolError: It is not that: says which part.
    """
    what = f"the machine state of vCPU {vcpu}"
    if len(data) > MACHINE_STATE_BYTES_MAX:
        raise RemoteProtocolError(f"{what} has {len(data)} bytes, which are too many")
    names = [field.name for field in fields(MachineState)]
    plain = unpack_plain(data, what, arrays_max=1, maps_max=0, items_max=len(names))
    if not isinstance(plain, list) or len(plain) != len(names):
        raise RemoteProtocolError(f"{what} has not its {len(names)} parts")
    parts = dict(zip(names, plain, strict=True))
    for name, value in parts.items():
        kind = int if name.endswith("_ns") else bytes
        if type(value) is not kind:
            raise RemoteProtocolError(f"{what}: {name} is not of type {kind.__name__}")
    for name, length in _LENGTHS.items():
        if len(parts[name]) != length:
            raise RemoteProtocolError(
                f"{what}: {name} has {len(parts[name])} bytes, it must have {length}"
            )
    if len(parts["xsave"]) > abi.XSAVE_BYTES:
        raise RemoteProtocolError(f"{what}: xsave has {len(parts['xsave'])} bytes")
    if not (0 <= parts["guest_ns"] < _NS_MAX and 0 <= parts["wall_ns"] < _NS_MAX):
        raise RemoteProtocolError(f"{what}: its time is none")
    state = MachineState(**parts)
    _check_msrs(state.msrs, what)
    return state


def pack_msrs(values: dict[int, int]) -> bytes:
    """Return model-specific registers as they cross, from their values by their indices."""
    return b"".join(_MSR_STRUCT.pack(index, values[index]) for index in sorted(values))


def unpack_msrs(data: bytes) -> dict[int, int]:
    """Return values by indices from what `unpack_machine_state` has let through."""
    return dict(_MSR_STRUCT.iter_unpack(data))


def _check_msrs(data: bytes, what: str) -> None:
    if len(data) % _MSR_STRUCT.size:
        raise RemoteProtocolError(f"{what}: msrs are no pairs of index and value")
    indices = [index for index, _ in _MSR_STRUCT.iter_unpack(data)]
    for index in indices:
        if index not in MSR_INDICES:
            raise RemoteProtocolError(f"{what}: MSR {index:#x} is none that may cross")
    if indices != sorted(set(indices)):
        raise RemoteProtocolError(f"{what}: msrs do not ascend")
