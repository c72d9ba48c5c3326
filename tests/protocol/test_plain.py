"""Small values from the peer: read, or refused before they grow."""

import tracemalloc

import msgpack
import pytest

from protocol.errors import RemoteProtocolError
from protocol.plain import unpack_plain


def read(payload: bytes) -> object:
    """Read a payload that may have two arrays and a map."""
    return unpack_plain(payload, "a state", arrays_max=2, maps_max=1, items_max=64)


def nested(depth: int) -> bytes:
    """Return arrays in arrays, 64 in each, the innermost empty."""
    return b"\x90" if not depth else b"\xdc\x00\x40" + nested(depth - 1) * 64


@pytest.mark.parametrize("value", [[1, [2]], {"a": [1.5, True, None]}, b"x" * 1000, [[], "y"]])
def test_what_is_within_bounds_is_read(value: object) -> None:
    """Arrays and maps come back as they were."""
    assert read(msgpack.packb(value)) == value


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (msgpack.packb([[], []]), "a state has too many arrays in it"),
        (msgpack.packb({"a": {}}), "a state has too many maps in it"),
        (msgpack.packb([0] * 65), "a state is not msgpack"),
        (msgpack.packb({str(n): n for n in range(65)}), "a state is not msgpack"),
        (msgpack.packb(msgpack.ExtType(1, b"x")), "a state is not msgpack"),
        (b"", "a state is not msgpack"),
        (b"\xc1", "a state is not msgpack"),
        (b"\x91" * 100_000, "a state is not msgpack"),
        (msgpack.packb(1) * 2, "a state is not msgpack"),
        (b"\x81\x90\x01", "a state is not msgpack"),
        (b"\xa1\xff", "a state is not msgpack"),
    ],
)
def test_what_is_not_is_refused(payload: bytes, reason: str) -> None:
    """Too many containers, too long ones and what is no msgpack are the peer's fault."""
    with pytest.raises(RemoteProtocolError, match=reason):
        read(payload)


def test_a_mountain_of_containers_takes_no_memory() -> None:
    """A quarter of a MiB that would be sixteen of empty arrays is refused at the third of them."""
    payload = nested(3)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="too many arrays"):
            read(payload)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(payload) > 250_000
    assert peak_bytes < 20_000
