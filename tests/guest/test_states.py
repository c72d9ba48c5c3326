"""The state of all vCPUs crosses, and nothing else is taken for one."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.states import STEP_MAX, VcpuState, decode_states, encode_states
from protocol.errors import RemoteProtocolError

STATES = (VcpuState(0, 0), VcpuState(1, STEP_MAX), VcpuState(2, 12345))


def test_states_cross() -> None:
    """What was encoded is decoded."""
    assert decode_states(encode_states(STATES), 3) == STATES


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode_states(STATES)[:-1],
        encode_states(STATES) + b"\x00",
        encode_states(STATES[:2]),
        encode_states((*STATES, VcpuState(3, 1))),
        encode_states((STATES[1], STATES[0], STATES[2])),
        msgpack.packb([[0, 0], [1, -1], [2, 0]]),
        msgpack.packb([[0, 0], [1, STEP_MAX + 1], [2, 0]]),
        msgpack.packb([[0, 0], [1, True], [2, 0]]),
        msgpack.packb([[0, 0], [1, 1.0], [2, 0]]),
        msgpack.packb([[0, 0], [1], [2, 0]]),
        msgpack.packb([0, 1, 2]),
        msgpack.packb({"0": 1}),
        msgpack.packb({(): 1}),
        b"\x91" * 2000,
        bytes(2 << 20),
    ],
)
def test_what_is_no_state_is_refused(data: bytes) -> None:
    """Cut, trailing, wrong in number, order, type or range: the peer's fault, said as such."""
    with pytest.raises(RemoteProtocolError):
        decode_states(data, 3)


@given(st.binary(max_size=60))
def test_noise_is_refused(data: bytes) -> None:
    """No bytes raise anything else."""
    try:
        states = decode_states(data, 2)
    except RemoteProtocolError:
        return
    assert [state.vcpu for state in states] == [0, 1]
