"""The whole state of a vCPU: how many accesses of its program it has made."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from protocol.errors import RemoteProtocolError
from protocol.limits import DEVICE_STATE_BYTES_MAX, VCPU_COUNT_MAX
from protocol.records import unpack_plain

# Half a million million accesses: a month at 200,000 a second.  The arithmetic of programs is exact
# up to twice as many (guest/programs.py).
STEP_MAX = 1 << 39

# A vCPU takes at most 12 bytes: an array of a small number and one of up to nine bytes.
assert VCPU_COUNT_MAX * 12 + 8 < DEVICE_STATE_BYTES_MAX


@dataclass(frozen=True)
class VcpuState:
    """A vCPU stands before access number `step` of its program."""

    vcpu: int
    step: int


def encode_states(states: tuple[VcpuState, ...]) -> bytes:
    """Return the device state that crosses at the switch-over."""
    data: bytes = msgpack.packb([[state.vcpu, state.step] for state in states])
    return data


def decode_states(data: bytes, vcpu_count: int) -> tuple[VcpuState, ...]:
    """Return the states of all vCPUs, in the order of their numbers, from a peer's device state.

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
    return tuple(_check_state(vcpu, item) for vcpu, item in enumerate(plain))


def _check_state(vcpu: int, item: object) -> VcpuState:
    match item:
        case [int(number), int(step)] if type(number) is int and type(step) is int:
            if number == vcpu and 0 <= step <= STEP_MAX:
                return VcpuState(vcpu, step)
    raise RemoteProtocolError(f"the device state of vCPU {vcpu} is not one")
