"""Checksums notice every change, and know a frame by its bytes alone."""

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.checksums import body_digest, checksum_of, head_digest
from protocol.messages import MESSAGE_TYPES, Checksum, Message, PageData
from protocol.wire import Decoder, encode
from tests.strategies import messages

PAGE = PageData(payload_bytes=4096, block=1, offset=8192, urgent=True, queue_us=3, send_us=4)
PAYLOAD = bytes(range(256)) * 16


@pytest.mark.parametrize("bit", range(0, len(PAYLOAD) * 8, 997))
def test_a_flipped_bit_of_a_payload_is_noticed(bit: int) -> None:
    """One bit makes another digest of the body, and leaves that of the head as it is."""
    changed = bytearray(PAYLOAD)
    changed[bit // 8] ^= 1 << bit % 8
    expected, seen = checksum_of(PAGE, [PAYLOAD]), checksum_of(PAGE, [bytes(changed)])
    assert (seen.head, seen.body != expected.body) == (expected.head, True)


def test_every_field_of_a_head_counts() -> None:
    """A head with another value in any field has another digest."""
    fields: dict[str, Any] = dataclasses.asdict(PAGE)
    changed = [{name: not v if type(v) is bool else v + 1} for name, v in fields.items()]
    others = [PageData(**(fields | each)) for each in changed]
    assert len({head_digest(each) for each in [PAGE, *others]}) == len(others) + 1


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_a_body_may_lie_in_pieces(payload: bytes, cuts: list[int]) -> None:
    """However a payload is cut, its digest is that of the whole."""
    edges = [0, *sorted(cuts), len(payload)]
    pieces = [memoryview(payload)[a:b] for a, b in itertools.pairwise(edges)]
    assert body_digest(pieces) == body_digest([payload])


@given(messages)
def test_both_sides_make_the_same_of_a_head(message: Message) -> None:
    """What is received has the digest of what was sent."""
    decoder = Decoder()
    decoder.receive_data(encode(message))
    received = decoder.next_message()
    assert received is not None
    assert head_digest(received) == head_digest(message)


def test_a_checksum_is_a_message() -> None:
    """It crosses as all messages do."""
    assert Checksum in MESSAGE_TYPES
    decoder = Decoder()
    decoder.receive_data(encode(checksum_of(PAGE, [PAYLOAD])))
    assert decoder.next_message() == checksum_of(PAGE, [PAYLOAD])
