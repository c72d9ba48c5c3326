"""Packets carry messages and events whole."""

import pytest

from guest.messages import (
    MESSAGE_BYTES_MAX,
    Faulted,
    GuestEvent,
    Mismatch,
    Touched,
    Woke,
    decode_event,
    encode_event,
    pack,
    socket_pair,
    unpack,
)

LARGE = 2**64 - 1


@pytest.mark.parametrize(
    "event",
    [
        Faulted(1, 2, 3),
        Woke(1, 2, 3, 4),
        Mismatch(63, LARGE, LARGE, LARGE, LARGE),
        Touched(0, 0),
    ],
)
def test_events_cross(event: GuestEvent) -> None:
    """An event comes out as the same kind with the same values, in a small packet."""
    packet = encode_event(event)
    assert decode_event(packet) == event
    assert len(packet) < MESSAGE_BYTES_MAX


def test_control_messages_cross() -> None:
    """A name and its values come out as they went in."""
    assert unpack(pack("touch", 3, LARGE)) == ["touch", 3, LARGE]
    assert unpack(pack("ready")) == ["ready"]


def test_the_sockets_keep_packets_apart() -> None:
    """Two messages sent in one go are received one by one, and then the end."""
    one, other = socket_pair()
    one.send(pack("ready"))
    one.send(pack("parked", 0, 2))
    one.close()
    received = [other.recv(MESSAGE_BYTES_MAX) for _ in range(3)]
    assert received == [pack("ready"), pack("parked", 0, 2), b""]
    other.close()
