"""The state of a virtual machine's vCPU as it crosses, and what of a peer's is refused."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.kvm.record import (
    MACHINE_STATE_BYTES_MAX,
    MSR_INDICES,
    MachineState,
    pack_msrs,
    unpack_machine_state,
    unpack_msrs,
)
from guest.spec import KVM, NATIVE, PYTHON
from guest.states import VcpuState, decode_states, encode_states
from protocol.errors import RemoteProtocolError

WHOLE = MachineState(
    regs=bytes(range(144)),
    sregs=b"s" * 312,
    xcrs=b"x" * 392,
    debugregs=b"d" * 128,
    events=b"e" * 64,
    mp_state=b"mpst",
    memory=b"m" * 4096,
    xsave=b"v" * 576,
    msrs=pack_msrs({0xC0000100: 1 << 63, 0x277: 7}),
    guest_ns=1 << 60,
    wall_ns=0,
)


def test_it_crosses_whole() -> None:
    """What is unpacked is what was packed, its registers by their indices."""
    state = unpack_machine_state(0, WHOLE.pack())
    assert state == WHOLE
    assert unpack_msrs(state.msrs) == {0x277: 7, 0xC0000100: 1 << 63}


def test_the_largest_fits_where_it_has_to() -> None:
    """All registers that may cross, and all that XSAVE can have, are no more than is allowed."""
    largest = replace(WHOLE, xsave=b"v" * 4096, msrs=pack_msrs(dict.fromkeys(MSR_INDICES, 1)))
    assert len(largest.pack()) <= MACHINE_STATE_BYTES_MAX
    states = tuple(VcpuState(vcpu, 1 << 39, largest.pack()) for vcpu in range(64))
    assert decode_states(encode_states(states), 64, KVM) == states


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"regs": bytes(143)}, "regs has 143 bytes, it must have 144"),
        ({"sregs": bytes(320)}, "sregs has 320 bytes"),
        ({"memory": b""}, "memory has 0 bytes"),
        ({"mp_state": 0}, "mp_state is not of type bytes"),
        ({"xsave": bytes(4097)}, "xsave has 4097 bytes"),
        ({"xsave": "text"}, "xsave is not of type bytes"),
        ({"guest_ns": -1}, "its time is none"),
        ({"wall_ns": 1 << 63}, "its time is none"),
        ({"guest_ns": True}, "guest_ns is not of type int"),
        ({"msrs": bytes(11)}, "no pairs"),
        ({"msrs": pack_msrs({0x1B: 0})}, "MSR 0x1b is none that may cross"),
        ({"msrs": pack_msrs({0x277: 1}) * 2}, "msrs do not ascend"),
    ],
)
def test_what_is_no_state_is_refused(changes: dict[str, Any], reason: str) -> None:
    """The part that is wrong is named, and nothing of it comes before KVM."""
    with pytest.raises(RemoteProtocolError, match=reason):
        unpack_machine_state(3, replace(WHOLE, **changes).pack())


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", msgpack.packb([]), msgpack.packb([b""] * 12), msgpack.packb({}), bytes(20_000)],
)
def test_what_is_nothing_like_it_is_refused(data: bytes) -> None:
    """Whatever comes is either a state or refused."""
    with pytest.raises(RemoteProtocolError):
        unpack_machine_state(0, data)


@given(st.binary(max_size=200), st.integers(0, len(WHOLE.pack()) - 1))
def test_bytes_in_the_middle_of_it_do_no_harm(noise: bytes, offset: int) -> None:
    """A state that is overwritten somewhere is one still, or is refused, and nothing else."""
    data = WHOLE.pack()
    with suppress(RemoteProtocolError):
        unpack_machine_state(0, data[:offset] + noise + data[offset + len(noise) :])


@pytest.mark.parametrize("kind", [PYTHON, NATIVE])
def test_threads_have_no_such_state(kind: str) -> None:
    """A peer whose guest is of threads sends steps, and nothing beside them."""
    states = (VcpuState(0, 5, WHOLE.pack()),)
    with pytest.raises(RemoteProtocolError, match="the device state of vCPU 0 is not one"):
        decode_states(encode_states(states), 1, kind)
    assert decode_states(encode_states((VcpuState(0, 5),)), 1, KVM) == (VcpuState(0, 5),)
