"""Checksums notice every change, know a frame by its bytes alone, and hold what comes to it."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.channels import Channel
from protocol.checksums import FrameCheck, body_digest, checksum_of, head_digest
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.messages import MESSAGE_TYPES, Checksum, End, Message, PageData, RunData, ZeroData
from protocol.wire import Decoder, encode
from tests.strategies import least_fields, messages

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
    fields: dict[str, Any] = msgspec.structs.asdict(PAGE)
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


SMALL_PAGE = PageData(payload_bytes=4, block=0, offset=0)
ZERO = ZeroData(block=0, offset=0, length=4096)
END = End(target_pages=0, data_bytes=0)


def check(*, agreed: bool = True) -> FrameCheck:
    """Return the check of a new channel."""
    return FrameCheck(Channel.PRECOPY, agreed=agreed)


def test_what_comes_as_announced_is_right() -> None:
    """Frame after frame is held against its own checksum, with what needs none between them."""
    checks = check()
    for payload in (b"one.", b"two."):
        checks.announce(checksum_of(SMALL_PAGE, [payload]))
        checks.begin(SMALL_PAGE)
        assert checks.is_right([payload])
        checks.begin(END)
    checks.announce(checksum_of(ZERO, []))
    checks.begin(ZERO)
    assert checks.is_right()


def test_a_changed_payload_is_not_right() -> None:
    """One payload that differs says nothing of the next."""
    checks = check()
    for payload, right in ((b"onf.", False), (b"one.", True)):
        checks.announce(checksum_of(SMALL_PAGE, [b"one."]))
        checks.begin(SMALL_PAGE)
        assert checks.is_right([payload]) is right


def test_a_changed_head_breaks_the_connection() -> None:
    """Whose bytes those were nobody can tell: what was on its way is lost, and goes again."""
    checks = check()
    checks.announce(checksum_of(SMALL_PAGE, [b"one."]))
    with pytest.raises(ConnectionLost, match="precopy connection changed the head") as caught:
        checks.begin(PageData(payload_bytes=4, block=0, offset=4096))
    assert caught.value.channel == "precopy"


@pytest.mark.parametrize("kind", [PageData, RunData, ZeroData])
def test_pages_do_not_come_unannounced(kind: type[Message]) -> None:
    """Where both agreed on checksums, each frame of pages has one."""
    with pytest.raises(RemoteProtocolError, match=f"{kind.__name__} came without its Checksum"):
        check().begin(kind(**least_fields(kind)))


def test_a_checksum_announces_pages() -> None:
    """After it nothing else may come, nor another."""
    checks = check()
    checks.announce(checksum_of(SMALL_PAGE, []))
    with pytest.raises(RemoteProtocolError, match="End came where a page frame was due"):
        checks.begin(END)
    with pytest.raises(RemoteProtocolError, match="where the frame was due"):
        checks.announce(checksum_of(SMALL_PAGE, []))


def test_nothing_is_checked_that_was_not_agreed_on() -> None:
    """Without checksums pages come as they are, and a Checksum breaks the protocol."""
    checks = check(agreed=False)
    checks.begin(SMALL_PAGE)
    assert checks.is_right([b"what"])
    with pytest.raises(RemoteProtocolError, match="none was agreed on"):
        checks.announce(checksum_of(SMALL_PAGE, []))
