"""Tests of protocol/wire.py: each message's very bytes, and all that may arrive in their place."""

import struct
import tracemalloc
from collections.abc import Iterator

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol import wire
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.fields import Digest, PackedRuns
from protocol.limits import HEADER_BYTES_MAX
from protocol.messages import (
    MESSAGE_TYPES,
    Abort,
    Account,
    Bye,
    Checksum,
    Discard,
    End,
    Finished,
    HeldPart,
    Hello,
    Message,
    MissingMap,
    PageData,
    PageRequest,
    PageRest,
    PassAck,
    PassEnd,
    Ping,
    Ready,
    RequestAnswer,
    Resend,
    Resume,
    RunData,
    Running,
    Setup,
    SourceTime,
    Standing,
    SwitchOver,
    SwitchOverAck,
    SwitchOverAhead,
    Verdict,
    Welcome,
    ZeroData,
)
from protocol.runs import Runs, pack_runs
from protocol.wire import Decoder, encode
from tests.strategies import messages, plain_values

SESSION = bytes(range(16))


def joined(*parts: bytes) -> bytes:
    """Return bytes that are written in parts, to be read."""
    return b"".join(parts)


# Every message with its head as it must be, written by hand: u32 length, array, kind, payload
# length, fields.
FRAMES: list[tuple[Message, bytes]] = [
    (
        Hello(version=1, session=SESSION, role="precopy", capabilities=("zstd",)),
        joined(
            b"\x00\x00\x00\x24",
            b"\x96\x01\x00", b"\x01", b"\xc4\x10", SESSION, b"\xa7precopy", b"\x91\xa4zstd",
        ),
    ),
    (
        Welcome(version=1),
        joined(b"\x00\x00\x00\x05", b"\x94\x02\x00", b"\x01", b"\x90"),
    ),
    (
        Abort(reason="no room", cancelled=True),
        joined(b"\x00\x00\x00\x0c", b"\x94\x03\x00", b"\xa7no room", b"\xc3"),
    ),
    (
        Setup(
            payload_bytes=3,
            blocks=(("ram", 4 << 20, 2 << 20), ("rom", 4096, 4096)),
            policy="ordered",
            chunk_bytes=65536,
            switches=("critical",),
        ),
        joined(
            b"\x00\x00\x00\x35",
            b"\x96\x04\x03",
            b"\x92", b"\x93\xa3ram\xce\x00\x40\x00\x00\xce\x00\x20\x00\x00",
            b"\x93\xa3rom\xcd\x10\x00\xcd\x10\x00",
            b"\xa7ordered", b"\xce\x00\x01\x00\x00", b"\x91\xa8critical",
        ),
    ),
    (
        Ready(),
        joined(b"\x00\x00\x00\x03", b"\x92\x05\x00"),
    ),
    (
        PageData(payload_bytes=4096, block=1, offset=1 << 32, urgent=True, queue_us=7, send_us=300),
        joined(
            b"\x00\x00\x00\x14",
            b"\x97\x06\xcd\x10\x00",
            b"\x01", b"\xcf\x00\x00\x00\x01\x00\x00\x00\x00", b"\xc3", b"\x07", b"\xcd\x01\x2c",
        ),
    ),
    (
        ZeroData(block=0, offset=0, length=8192),
        joined(b"\x00\x00\x00\x0b", b"\x98\x07\x00", b"\x00\x00\xcd\x20\x00", b"\xc2\x00\x00"),
    ),
    (
        PassEnd(index=2),
        joined(b"\x00\x00\x00\x04", b"\x93\x08\x00", b"\x02"),
    ),
    (
        PassAck(index=2),
        joined(b"\x00\x00\x00\x04", b"\x93\x09\x00", b"\x02"),
    ),
    (
        Discard(payload_bytes=2, block=0, first=8, count=9),
        joined(b"\x00\x00\x00\x06", b"\x95\x0a\x02", b"\x00\x08\x09"),
    ),
    (
        SwitchOver(payload_bytes=5, postcopy=True),
        joined(b"\x00\x00\x00\x04", b"\x93\x0b\x05", b"\xc3"),
    ),
    (
        Running(run_ns=300),
        joined(b"\x00\x00\x00\x06", b"\x93\x0c\x00", b"\xcd\x01\x2c"),
    ),
    (
        PageRequest(block=1, page=300, target_page=511),
        joined(b"\x00\x00\x00\x0a", b"\x95\x0d\x00", b"\x01", b"\xcd\x01\x2c", b"\xcd\x01\xff"),
    ),
    (
        End(target_pages=512, data_bytes=0),
        joined(b"\x00\x00\x00\x07", b"\x94\x0e\x00", b"\xcd\x02\x00", b"\x00"),
    ),
    (
        Finished(pages=1, target_pages=512, data_bytes=(1 << 63) - 1),
        joined(
            b"\x00\x00\x00\x10",
            b"\x95\x0f\x00", b"\x01", b"\xcd\x02\x00", b"\xcf\x7f\xff\xff\xff\xff\xff\xff\xff",
        ),
    ),
    (
        Account(payload_bytes=6),
        joined(b"\x00\x00\x00\x03", b"\x92\x10\x06"),
    ),
    (
        Verdict(payload_bytes=0, equal=False, detail="page 5 of block ram"),
        joined(b"\x00\x00\x00\x18", b"\x94\x11\x00", b"\xc2", b"\xb3page 5 of block ram"),
    ),
    (
        Bye(),
        joined(b"\x00\x00\x00\x03", b"\x92\x12\x00"),
    ),
    (
        RunData(
            payload_bytes=4096, block=1, offset=8192,
            runs=PackedRuns(
                pack_runs(
                    Runs.of_parts(1, np.array([2, 9]), np.array([3, 1])), np.array([True, False])
                )
            ),
        ),
        joined(
            b"\x00\x00\x00\x1e",
            b"\x98\x13\xcd\x10\x00", b"\x01", b"\xcd\x20\x00",
            b"\xc4\x10", b"\x00\x00\x00\x00\x80\x00\x00\x03", b"\x00\x00\x00\x07\x00\x00\x00\x01",
            b"\xc2\x00\x00",
        ),
    ),
    (
        Ping(),
        joined(b"\x00\x00\x00\x03", b"\x92\x14\x00"),
    ),
    (
        SwitchOverAhead(),
        joined(b"\x00\x00\x00\x03", b"\x92\x15\x00"),
    ),
    (
        SwitchOverAck(clock_ns=5),
        joined(b"\x00\x00\x00\x04", b"\x93\x16\x00", b"\x05"),
    ),
    (
        Resume(version=1, session=SESSION, role="postcopy", attempt=3),
        joined(
            b"\x00\x00\x00\x20",
            b"\x96\x17\x00", b"\x01", b"\xc4\x10", SESSION, b"\xa8postcopy", b"\x03",
        ),
    ),
    (
        MissingMap(payload_bytes=11, block=1, first=8, count=9),
        joined(b"\x00\x00\x00\x06", b"\x95\x18\x0b", b"\x01\x08\x09"),
    ),
    (
        Standing(running=True, target_pages=300, dropped_bytes=70000, run_ns=7),
        joined(
            b"\x00\x00\x00\x0d",
            b"\x96\x19\x00", b"\xc3", b"\xcd\x01\x2c", b"\xce\x00\x01\x11\x70", b"\x07",
        ),
    ),
    (
        Checksum(head=Digest(b"of heads"), body=Digest(b"payloads")),
        joined(
            b"\x00\x00\x00\x17", b"\x94\x1a\x00", b"\xc4\x08of heads", b"\xc4\x08payloads"
        ),
    ),
    (
        Resend(block=1, offset=4096, runs=PackedRuns(b"\0\0\0\0\0\0\0\2")),
        joined(
            b"\x00\x00\x00\x11",
            b"\x95\x1b\x00", b"\x01\xcd\x10\x00", b"\xc4\x08\0\0\0\0\0\0\0\2",
        ),
    ),
    (
        HeldPart(block=1, target_page=300, held_bytes=4095),
        joined(b"\x00\x00\x00\x0a", b"\x95\x1c\x00", b"\x01\xcd\x01\x2c\xcd\x0f\xff"),
    ),
    (
        PageRest(payload_bytes=96, block=1, offset=4000),
        joined(b"\x00\x00\x00\x07", b"\x94\x1d\x60", b"\x01\xcd\x0f\xa0"),
    ),
    (
        RequestAnswer(
            block=1, page=300, target_page=5, answer="boosted",
            came_ns=1 << 32, queued_ns=7, postponed_ns=0, sending_ns=200, told_ns=2,
            interrupted=True, behind=((0, 9), (1, 300)), behind_count=2,
            first_queued_ns=3,
        ),
        joined(
            b"\x00\x00\x00\x2a",
            b"\x9f\x1e\x00", b"\x01\xcd\x01\x2c\x05", b"\xa7boosted",
            b"\xcf\x00\x00\x00\x01\x00\x00\x00\x00", b"\x07\x00\xcc\xc8\x02",
            b"\xc3", b"\x92\x92\x00\x09\x92\x01\xcd\x01\x2c", b"\x02\x03",
        ),
    ),
    (
        SourceTime(now_ns=300),
        joined(b"\x00\x00\x00\x06", b"\x93\x1f\x00", b"\xcd\x01\x2c"),
    ),
]  # fmt: skip

every_frame = pytest.mark.parametrize(
    ("message", "head"), FRAMES, ids=[type(message).__name__ for message, _ in FRAMES]
)


def framed(header: bytes) -> bytes:
    """Return a header with its true length before it."""
    return struct.pack(">I", len(header)) + header


def payload_of(message: Message) -> bytes:
    """Return bytes for a message's payload that tell where they are misplaced."""
    return bytes(index % 251 for index in range(message.payload_bytes))


def read_stream(pieces: list[bytes]) -> list[tuple[Message, bytes]]:
    """Read messages with payloads out of a stream that comes in pieces, as a channel would."""
    decoder = Decoder()
    read = []
    waiting: tuple[Message, bytearray, int] | None = None
    for piece in pieces:
        rest = piece
        if waiting is not None:
            message, payload, have = waiting
            taken = rest[: len(payload) - have]
            payload[have : have + len(taken)] = taken
            rest = rest[len(taken) :]
            waiting = message, payload, have + len(taken)
            if waiting[2] < len(payload):
                continue
            read.append((message, bytes(payload)))
            waiting = None
        decoder.receive_data(rest)
        while (following := decoder.next_message()) is not None:
            payload = bytearray(following.payload_bytes)
            have = decoder.take_payload(memoryview(payload))
            if have < len(payload):
                waiting = following, payload, have
                break
            read.append((following, bytes(payload)))
    assert waiting is None
    assert decoder.at_boundary
    return read


def outcomes(data: bytes) -> Iterator[Message]:
    """Yield what a decoder makes of bytes, its payloads skipped; only its own error may end it."""
    decoder = Decoder()
    try:
        decoder.receive_data(data)
        while (message := decoder.next_message()) is not None:
            if message.payload_bytes > decoder.buffered_bytes:
                return
            decoder.take_payload(memoryview(bytearray(message.payload_bytes)))
            yield message
    except RemoteProtocolError:
        assert not decoder.at_boundary
        return
    assert decoder.buffered_bytes < 4 + HEADER_BYTES_MAX


def test_every_message_has_a_frame() -> None:
    """The table of frames has each type of message once."""
    assert [type(message) for message, _ in FRAMES] == list(MESSAGE_TYPES)


@every_frame
def test_encode(message: Message, head: bytes) -> None:
    """A message becomes exactly these bytes."""
    actual = encode(message)
    assert head == actual


@every_frame
def test_decode_whole(message: Message, head: bytes) -> None:
    """A head that comes whole is a message at once, and nothing follows."""
    decoder = Decoder()
    decoder.receive_data(head)
    actual = decoder.next_message()
    assert message == actual
    assert decoder.buffered_bytes == 0
    decoder.take_payload(memoryview(bytearray(message.payload_bytes)))
    assert decoder.next_message() is None
    assert decoder.at_boundary


@every_frame
def test_decode_byte_by_byte(message: Message, head: bytes) -> None:
    """A head that comes byte by byte is a message with its last byte and not before."""
    decoder = Decoder()
    for index in range(len(head) - 1):
        decoder.receive_data(head[index : index + 1])
        assert decoder.next_message() is None
        assert not decoder.at_boundary
    decoder.receive_data(head[-1:])
    actual = decoder.next_message()
    assert message == actual


@every_frame
def test_decode_with_trailing_bytes(message: Message, head: bytes) -> None:
    """Bytes of the next frame behind a frame stay until that one is whole."""
    following = encode(PassEnd(index=9))
    decoder = Decoder()
    decoder.receive_data(head + payload_of(message) + following[:-1])
    first = decoder.next_message()
    payload = bytearray(message.payload_bytes)
    assert decoder.take_payload(memoryview(payload)) == message.payload_bytes
    assert decoder.next_message() is None
    decoder.receive_data(following[-1:])
    assert [message, PassEnd(index=9)] == [first, decoder.next_message()]
    assert payload_of(message) == payload


@every_frame
def test_a_cut_head_is_no_message(message: Message, head: bytes) -> None:
    """A stream that ends inside a head gives no message, and does not end at a boundary."""
    for end in range(1, len(head)):
        decoder = Decoder()
        decoder.receive_data(head[:end])
        assert decoder.next_message() is None
        assert not decoder.at_boundary


@settings(max_examples=50)
@given(
    st.lists(messages.filter(lambda message: message.payload_bytes < 2000), max_size=8), st.data()
)
def test_decode_in_random_pieces(sent: list[Message], data: st.DataObject) -> None:
    """Messages with payloads come out as they went in, wherever the stream is cut."""
    stream = b"".join(encode(message) + payload_of(message) for message in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    actual = read_stream(pieces)
    assert [(message, payload_of(message)) for message in sent] == actual


@given(messages)
def test_any_message_comes_back(message: Message) -> None:
    """Decoding what encoding made gives the message again, for all values of all fields."""
    decoder = Decoder()
    decoder.receive_data(encode(message))
    actual = decoder.next_message()
    assert message == actual


@pytest.mark.parametrize("buffered", [0, 1, 5, 6])
def test_take_payload_gives_what_is_buffered(buffered: int) -> None:
    """Of a payload that came not at all, in part or wholly, exactly what came is moved."""
    decoder = Decoder()
    decoder.receive_data(encode(Account(payload_bytes=6)) + b"abcdef"[:buffered])
    decoder.next_message()
    assert not decoder.at_boundary
    payload = bytearray(b"------")
    count = decoder.take_payload(memoryview(payload))
    assert buffered == count
    assert b"abcdef"[:buffered] + b"------"[buffered:] == payload
    assert decoder.at_boundary


def test_a_payload_may_stay_where_a_later_feed_brings_it() -> None:
    """Payload bytes that are fed after the message was given out are still given to its view."""
    decoder = Decoder()
    decoder.receive_data(encode(Account(payload_bytes=6)))
    decoder.next_message()
    decoder.receive_data(b"abcdef" + encode(Bye()))
    payload = bytearray(6)
    assert decoder.take_payload(memoryview(payload)) == 6
    assert payload == b"abcdef"
    assert Bye() == decoder.next_message()


def test_the_next_message_waits_for_the_payload() -> None:
    """Asking for a message while a payload is due is this side's mistake, and breaks nothing."""
    decoder = Decoder()
    decoder.receive_data(encode(Account(payload_bytes=1)) + b"x" + encode(Bye()))
    decoder.next_message()
    assert not decoder.at_boundary
    with pytest.raises(LocalProtocolError, match="a payload is due"):
        decoder.next_message()
    decoder.take_payload(memoryview(bytearray(1)))
    assert Bye() == decoder.next_message()


@pytest.mark.parametrize("length", [0, 2, 4])
def test_a_view_of_another_length_is_refused(length: int) -> None:
    """A view that is not exactly as long as the payload is this side's mistake."""
    decoder = Decoder()
    decoder.receive_data(encode(Account(payload_bytes=3)) + b"abc")
    decoder.next_message()
    with pytest.raises(LocalProtocolError, match="3 bytes is due, not"):
        decoder.take_payload(memoryview(bytearray(length)))


def test_no_payload_without_a_message() -> None:
    """A payload that no message announced cannot be taken."""
    with pytest.raises(LocalProtocolError, match="0 bytes is due, not 1"):
        Decoder().take_payload(memoryview(bytearray(1)))


@pytest.mark.parametrize("length", [0, HEADER_BYTES_MAX + 1, 1 << 31, (1 << 32) - 1])
def test_a_wrong_header_length_is_refused_at_once(length: int) -> None:
    """A length of nothing or of too much is an error before a byte of the header comes."""
    decoder = Decoder()
    decoder.receive_data(struct.pack(">I", length))
    with pytest.raises(RemoteProtocolError, match=f"a header of {length} bytes"):
        decoder.next_message()


def test_the_longest_header_is_awaited() -> None:
    """A header of exactly the limit is no error, it has only not come yet."""
    decoder = Decoder()
    decoder.receive_data(struct.pack(">I", HEADER_BYTES_MAX) + b"\x92")
    assert decoder.next_message() is None


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"\xc1", id="a byte that msgpack never uses"),
        pytest.param(b"\x92\x05", id="cut short"),
        pytest.param(b"\x92\x05\x00\x00", id="a byte too many"),
        pytest.param(b"\x05", id="no array"),
        pytest.param(b"\xc0", id="nil"),
        pytest.param(b"\x80", id="a map"),
        pytest.param(b"\x81\x05\x00", id="a map of kind and payload"),
        pytest.param(b"\x90", id="an empty array"),
        pytest.param(b"\x91\x05", id="a field too few"),
        pytest.param(b"\x93\x05\x00\x00", id="a field too many"),
        pytest.param(b"\x92\x00\x00", id="kind 0"),
        pytest.param(b"\x92\x1a\x00", id="the first unknown kind"),
        pytest.param(b"\x92\xff\x00", id="a negative kind"),
        pytest.param(b"\x92\xcf" + b"\xff" * 8 + b"\x00", id="a huge kind"),
        pytest.param(b"\x92\xc3\x00", id="true for kind 1"),
        pytest.param(b"\x92\xcb" + struct.pack(">d", 5.0) + b"\x00", id="a float for a kind"),
        pytest.param(b"\x92\xa1\x05\x00", id="a string for a kind"),
        pytest.param(b"\x92\xc0\x00", id="nil for a kind"),
        pytest.param(b"\x92\x80\x00", id="a map for a kind"),
        pytest.param(b"\x92" + b"\x91" * 1020 + b"\x05\x00", id="a deep nest for a kind"),
        pytest.param(b"\x91" * HEADER_BYTES_MAX, id="nothing but nesting"),
        pytest.param(b"\x92\x05\x01", id="a payload where there is none"),
        pytest.param(b"\x92\x10\xce\x7f\xff\xff\xff", id="a payload over its limit"),
        pytest.param(b"\x92\x05\xff", id="a negative payload"),
        pytest.param(b"\x92\x05\xc2", id="false for no payload"),
        pytest.param(b"\x93\x08\x00\xff", id="a negative index"),
        pytest.param(b"\x93\x08\x00\xc3", id="true for an index"),
        pytest.param(b"\x93\x08\x00\xcf\x80" + b"\x00" * 7, id="an index of 2^63"),
        pytest.param(b"\x93\x08\x00\xca\x3f\x80\x00\x00", id="1.0 for an index"),
        pytest.param(b"\x93\x08\x00\xcb\x7f\xf8" + b"\x00" * 6, id="not a number for an index"),
        pytest.param(b"\x93\x08\x00\xa11", id="a digit for an index"),
        pytest.param(b"\x93\x0b\x00\x01", id="1 for true"),
        pytest.param(b"\x94\x03\x00\xa1\xff\xc2", id="a string that is no UTF-8"),
        pytest.param(b"\x94\x03\x00\xa3\xed\xa0\x80\xc2", id="a surrogate as UTF-8"),
        pytest.param(b"\x94\x03\x00\xa3a\nb\xc2", id="a line break in a reason"),
        pytest.param(b"\x94\x03\x00\xa4\x1b[2J\xc2", id="a terminal's escape in a reason"),
        pytest.param(b"\x94\x03\x00\xc4\x01a\xc2", id="bytes for a string"),
        pytest.param(b"\x94\x03\x00\xda\x01\xf5" + b"a" * 501 + b"\xc2", id="too long a reason"),
        pytest.param(b"\x94\x02\x00\x01\xdc\x00\x41" + b"\xa1a" * 65, id="too many capabilities"),
        pytest.param(b"\x94\x02\x00\x01\xdd\xff\xff\xff\xff", id="an array that claims it all"),
        pytest.param(b"\x94\x02\x00\x01\xdb\xff\xff\xff\xff", id="a string that claims it all"),
        pytest.param(b"\x94\x02\x00\x01\xc6\xff\xff\xff\xff", id="a bin that claims it all"),
        pytest.param(b"\x94\x02\x00\x01\xdf\xff\xff\xff\xff", id="a map that claims it all"),
        pytest.param(b"\x94\x02\x00\x01\xc9\xff\xff\xff\xff\x01", id="an ext that claims it all"),
        pytest.param(b"\xd4\x05\x00", id="an extension type for a message"),
        pytest.param(b"\xc7\x00\x05", id="an empty extension type"),
        pytest.param(b"\x93\x08\x00\xd4\x07\x00", id="an extension type for an index"),
        pytest.param(b"\x93\x08\x00\xd6\xff\x00\x00\x00\x00", id="a timestamp for an index"),
        pytest.param(
            b"\x93\x08\x00\xd7\xff" + b"\xff" * 8, id="a timestamp that cannot be, for an index"
        ),
        pytest.param(b"\x94\x02\x00\x01\x81\x01\x02", id="a map with keys that are no strings"),
        pytest.param(b"\x94\x02\x00\x01\x81\x90\x02", id="a map with a key that has no hash"),
    ],
)
def test_a_wrong_header_is_refused(header: bytes) -> None:
    """A header that no correct peer sends is its fault, and the text that says so is short."""
    decoder = Decoder()
    decoder.receive_data(framed(header))
    with pytest.raises(RemoteProtocolError) as caught:
        decoder.next_message()
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_nested_claims_cost_no_memory() -> None:
    """A header full of arrays that claim thousands of items each makes no room for them."""
    header = (b"\xdc\x3f\xff" * HEADER_BYTES_MAX)[:HEADER_BYTES_MAX]
    decoder = Decoder()
    decoder.receive_data(framed(header))
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decoder.next_message()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 << 20


def test_a_broken_decoder_stays_broken() -> None:
    """After an error everything raises it again, and nothing is held or taken any more."""
    decoder = Decoder()
    decoder.receive_data(framed(b"\x92\x00\x00") + encode(Bye()))
    with pytest.raises(RemoteProtocolError, match="unknown message kind 0"):
        decoder.next_message()
    with pytest.raises(RemoteProtocolError, match="unknown message kind 0"):
        decoder.next_message()
    with pytest.raises(RemoteProtocolError, match="unknown message kind 0"):
        decoder.receive_data(encode(Bye()))
    with pytest.raises(RemoteProtocolError, match="unknown message kind 0"):
        decoder.take_payload(memoryview(b""))
    assert decoder.buffered_bytes == 0
    assert not decoder.at_boundary


@given(st.binary(max_size=300))
def test_random_bytes_break_nothing(data: bytes) -> None:
    """Bytes from nowhere are messages or a RemoteProtocolError, never another error."""
    for message in outcomes(data):
        assert isinstance(message, Message)


@given(st.binary(min_size=1, max_size=100))
@example(b"\x92\x05\x00")
def test_random_headers_break_nothing(header: bytes) -> None:
    """Random bytes of a true length are messages or a RemoteProtocolError."""
    for message in outcomes(framed(header)):
        assert isinstance(message, Message)


@settings(max_examples=50)
@given(st.integers(0, 20), st.lists(plain_values, max_size=8))
def test_random_values_break_nothing(kind: int, values: list[object]) -> None:
    """Any values behind any kind are a message or a RemoteProtocolError."""
    for message in outcomes(framed(msgpack.packb([kind, *values]))):
        assert message.kind == kind


@given(messages, st.data())
def test_changed_bytes_break_nothing(message: Message, data: st.DataObject) -> None:
    """A true head in which bytes are changed is a message or a RemoteProtocolError."""
    head = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
    for other in outcomes(bytes(head)):
        assert isinstance(other, Message)


@pytest.mark.parametrize(
    "message",
    [
        PassEnd(index=-1),
        PassEnd(index=1 << 63),
        PassEnd(index=True),
        Ready(payload_bytes=1),
        Hello(version=1, session=b"short", role="precopy"),
        Verdict(equal=True, detail="two\nlines"),
        Message(),
    ],
)
def test_a_message_out_of_its_bounds_is_not_sent(message: Message) -> None:
    """What the peer would refuse is this side's mistake, and nothing is encoded."""
    with pytest.raises(LocalProtocolError):
        encode(message)


def test_a_header_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that is longer than the peer takes is this side's mistake."""
    monkeypatch.setattr(wire, "HEADER_BYTES_MAX", 10)
    with pytest.raises(LocalProtocolError, match="a header of 11 bytes is over 10"):
        encode(ZeroData(block=0, offset=0, length=8192))
