"""What a destination says on the return path, read by who stands between the two."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from protocol.qemu.returned import (
    PageAsked,
    Pong,
    ReceivedBitmap,
    ResumeAck,
    ReturnDecoder,
    Returned,
    Shut,
    SwitchoverAck,
    Unnamed,
)
from protocol.qemu.returns import (
    PageRequests,
    encode_pong,
    encode_received,
    encode_resume_ack,
    encode_shut,
)
from tests.strategies import split_at

_requests = PageRequests()

# What is said, and the bytes that say it, in this order: a block is named once.
SAID: list[tuple[Returned, bytes]] = [
    (Pong(1), encode_pong(1)),
    (PageAsked("ram", 0x200000, 0x200000), _requests.encode("ram", 0x200000, 0x200000)),
    (PageAsked("ram", 0x400000, 0x200000), _requests.encode("ram", 0x400000, 0x200000)),
    (ReceivedBitmap("ram", 16, 3), encode_received("ram", b"\x03\x00\x00\x00\x00\x00\x00\x00\x80")),
    (ReceivedBitmap("rom", 0, 0), encode_received("rom", b"")),
    (PageAsked("rom", 0, 4096), _requests.encode("rom", 0, 4096)),
    (ResumeAck(1), encode_resume_ack()),
    (SwitchoverAck(), struct.pack(">HH", 7, 0)),
    (Unnamed(99, 5), struct.pack(">HH", 99, 5) + b"later"),
    (Shut(failed=False), encode_shut(failed=False)),
]
MESSAGES = [message for message, _ in SAID]
STREAM = b"".join(data for _, data in SAID)


@given(cuts=st.lists(st.integers(0, len(STREAM))))
def test_any_split_says_the_same(cuts: list[int]) -> None:
    """However the bytes come, each message is told with the byte that completes it."""
    decoder, said, at = ReturnDecoder(), [], 0
    for piece in split_at(STREAM, cuts):
        said += [(at + stop, message) for stop, message in decoder.feed(piece)]
        at += len(piece)
    assert [message for _, message in said] == MESSAGES
    ends = [sum(len(data) for _, data in SAID[: number + 1]) for number in range(len(SAID))]
    assert [stop for stop, _ in said] == ends


@given(data=st.binary(max_size=300))
def test_garbage_is_read_or_given_up(data: bytes) -> None:
    """Whatever comes, nothing is raised; what cannot be read any more is said, with the reason."""
    decoder = ReturnDecoder()
    list(decoder.feed(data))
    assert decoder.lost is None or decoder.lost


def test_a_bitmap_without_its_end_is_told() -> None:
    """A bitmap that is not followed by its end mark ends the reading."""
    decoder = ReturnDecoder()
    data = bytearray(encode_received("ram", bytes(8)))
    data[-1] ^= 1
    assert list(decoder.feed(bytes(data) + encode_pong(1))) == []
    assert decoder.lost == "the received bitmap of 'ram' has no end mark"
    assert list(decoder.feed(encode_pong(2))) == []


def test_bits_are_not_kept() -> None:
    """The bits of a bitmap are counted as they come, however many they are."""
    decoder = ReturnDecoder()
    head = struct.pack(">HHB3sQ", 5, 4, 3, b"ram", 1 << 20)
    assert list(decoder.feed(head)) == []
    for _ in range(16):
        assert list(decoder.feed(b"\xff" * (1 << 16))) == []
    ((_, message),) = decoder.feed(struct.pack(">Q", 0x0123456789ABCDEF))
    assert message == ReceivedBitmap("ram", 1 << 20, 8 << 20)
