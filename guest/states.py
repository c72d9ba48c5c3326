"""The state of a vCPU: how many accesses it has made; of a virtual machine's, all of the processor.

A vCPU that stands between two accesses is told wholly by the number of those that it has made.  One
of a virtual machine is stopped anywhere, and then its registers and its own memory cross with that.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from guest.kvm.record import MACHINE_STATE_BYTES_MAX, unpack_machine_state
from guest.spec import KVM, PYTHON
from protocol.errors import RemoteProtocolError
from protocol.limits import DEVICE_STATE_BYTES_MAX, VCPU_COUNT_MAX
from protocol.records import unpack_plain

# Half a million million accesses: a month at 200,000 a second.  The arithmetic of programs is exact
# up to twice as many (guest/programs.py).
STEP_MAX = 1 << 39

# A vCPU takes at most 16 bytes beside that: an array of a small number, one of up to nine bytes and
# a length of three.
assert VCPU_COUNT_MAX * (MACHINE_STATE_BYTES_MAX + 16) + 8 < DEVICE_STATE_BYTES_MAX


@dataclass(frozen=True)
class VcpuState:
    """A vCPU stands before access number `step` of its program, or in the midst of it.

    Attributes:
        machine: What its process says of it beside that (guest/kvm/record.py); empty if it stands
            between two accesses.
    """

    vcpu: int
    step: int
    machine: bytes = b""


def encode_states(states: tuple[VcpuState, ...]) -> bytes:
    """Return the device state that crosses at the switch-over."""
    data: bytes = msgpack.packb([_to_plain(state) for state in states])
    return data


def _to_plain(state: VcpuState) -> list[object]:
    return [state.vcpu, state.step, *([state.machine] if state.machine else [])]


def decode_states(data: bytes, vcpu_count: int, kind: str = PYTHON) -> tuple[VcpuState, ...]:
    """Return the states of all vCPUs, in the order of their numbers, from a peer's device state.

    Args:
        data: What the peer sent.
        vcpu_count: How many there must be.
        kind: What kind of guest it is of.

    Raises:
        RemoteProtocolError: It is not exactly that.
    """
    if len(data) > DEVICE_STATE_BYTES_MAX:
        raise RemoteProtocolError(f"{len(data)} bytes of device state are too many")
    plain = unpack_plain(
        data, "the device state", arrays_max=1 + VCPU_COUNT_MAX, maps_max=0,
        items_max=VCPU_COUNT_MAX,
    )  # fmt: skip
    if not isinstance(plain, list) or len(plain) != vcpu_count:
        raise RemoteProtocolError(f"the device state is not one of {vcpu_count} vCPUs")
    return tuple(_check_state(vcpu, item, kind) for vcpu, item in enumerate(plain))


def _check_state(vcpu: int, item: object, kind: str) -> VcpuState:
    machine = b""
    if kind == KVM and isinstance(item, list) and len(item) == 3 and type(item[2]) is bytes:
        machine = item.pop()
        unpack_machine_state(vcpu, machine)
    match item:
        case [int(number), int(step)] if type(number) is int and type(step) is int:
            if number == vcpu and 0 <= step <= STEP_MAX:
                return VcpuState(vcpu, step, machine)
    raise RemoteProtocolError(f"the device state of vCPU {vcpu} is not one")
