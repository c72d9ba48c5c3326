"""Tests of protocol/messages.py: every field of every message has bounds on both sides."""

import struct
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given

from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.fields import INTEGER_MAX, Digest, PackedRuns
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.limits import (
    BEHIND_COUNT_MAX,
    BLOCK_COUNT_MAX,
    BLOCK_NAME_CHARS_MAX,
    CAPABILITY_CHARS_MAX,
    CAPABILITY_COUNT_MAX,
    CHUNK_BYTES_MAX,
    CLOSING_BYTES_MAX,
    DEVICE_STATE_BYTES_MAX,
    DISCARD_BYTES_MAX,
    GUEST_SPEC_BYTES_MAX,
    MISSING_MAP_BYTES_MAX,
    REASON_CHARS_MAX,
    REPORT_BYTES_MAX,
    RUN_COUNT_MAX,
)
from protocol.messages import (
    FIELD_TYPES,
    MESSAGE_TYPES,
    Abort,
    Account,
    Bye,
    Discard,
    End,
    Hello,
    Message,
    MissingMap,
    PageData,
    PageRest,
    Ready,
    RunData,
    Running,
    Setup,
    SwitchOver,
    Verdict,
)
from protocol.wire import Decoder, encode
from tests.strategies import least_fields, messages

CAPABILITIES = tuple[str, ...]
BLOCKS = tuple[tuple[str, int, int], ...]
PAGES = tuple[tuple[int, int], ...]

# For each type of field, values at the very edge of what is allowed.
ALLOWED: dict[object, list[object]] = {
    int: [0, 1, INTEGER_MAX],
    bool: [False, True],
    str: ["", "x", "ä b", "\N{PILE OF POO}" * REASON_CHARS_MAX],
    bytes: [bytes(16), b"\xff" * 16],
    Digest: [bytes(8), b"\xff" * 8],
    PackedRuns: [bytes(8), bytes(RUN_COUNT_MAX * 8)],
    CAPABILITIES: [(), ("x" * CAPABILITY_CHARS_MAX,) * CAPABILITY_COUNT_MAX, (" ~",)],
    BLOCKS: [
        (("r", 0, 0),),
        (("n" * BLOCK_NAME_CHARS_MAX, INTEGER_MAX, INTEGER_MAX),) * BLOCK_COUNT_MAX,
    ],
    PAGES: [(), ((0, 0),), ((INTEGER_MAX, INTEGER_MAX),) * BEHIND_COUNT_MAX],
}
# And values just over it, or of a type that is nearly right.
REFUSED: dict[object, list[object]] = {
    int: [-1, INTEGER_MAX + 1, True, False, 1.0, float("nan"), "1", b"1", None, (), (1,)],
    bool: [0, 1, None, "true", 1.0],
    str: [None, b"x", 1, (), "x" * (REASON_CHARS_MAX + 1), "a\nb", "\x1b[2J", "\udc80", "\u202e"],
    bytes: [None, "x" * 16, bytes(15), bytes(17), b"", 16],
    Digest: [None, "x" * 8, b"", bytes(7), bytes(9), 8],
    PackedRuns: [None, "x" * 8, b"", bytes(7), bytes(9), bytes(RUN_COUNT_MAX * 8 + 8), [8]],
    CAPABILITIES: [
        None,
        "zstd",
        ("",),
        (b"zstd",),
        ("a", 1),
        (("a",),),
        ("ä",),
        ("a\n",),
        ("x" * (CAPABILITY_CHARS_MAX + 1),),
        ("x",) * (CAPABILITY_COUNT_MAX + 1),
    ],
    PAGES: [
        None,
        (0, 0),
        ((0,),),
        ((0, 0, 0),),
        ((0, -1),),
        ((True, 0),),
        ((0, 0),) * (BEHIND_COUNT_MAX + 1),
    ],
    BLOCKS: [
        (),
        None,
        "ram",
        ("ram", 1, 1),
        (("ram", 1),),
        (("ram", 1, 1, 1),),
        ((b"ram", 1, 1),),
        (("", 1, 1),),
        (("räm", 1, 1),),
        (("r\0m", 1, 1),),
        (("ram", -1, 1),),
        (("ram", 1, 1.0),),
        (("ram", True, 1),),
        (("ram", INTEGER_MAX + 1, 1),),
        (("n" * (BLOCK_NAME_CHARS_MAX + 1), 1, 1),),
        (("ram", 1, 1),) * (BLOCK_COUNT_MAX + 1),
    ],
}

PAYLOAD_BYTES_MAX = {
    Setup: GUEST_SPEC_BYTES_MAX,
    PageData: CHUNK_BYTES_MAX,
    RunData: CHUNK_BYTES_MAX,
    Discard: DISCARD_BYTES_MAX,
    MissingMap: MISSING_MAP_BYTES_MAX,
    PageRest: TARGET_PAGE_BYTES - 1,
    SwitchOver: DEVICE_STATE_BYTES_MAX,
    Account: CLOSING_BYTES_MAX,
    Verdict: REPORT_BYTES_MAX,
}


def to_fields(message: Message) -> tuple[Any, ...]:
    """Return what a message is on the wire: an array of its kind, payload length and fields."""
    fields: tuple[Any, ...] = msgpack.unpackb(encode(message)[4:], use_list=False)
    return fields


def from_fields(values: object) -> Message:
    """Return the message that values on the wire are; texts without UTF-8 go as they are."""
    header: bytes = msgpack.packb(values, unicode_errors="surrogatepass")
    decoder = Decoder()
    decoder.receive_data(struct.pack(">I", len(header)) + header)
    message = decoder.next_message()
    assert message is not None
    return message


every_type = pytest.mark.parametrize("message_type", MESSAGE_TYPES, ids=lambda kind: kind.__name__)


FIELDS = [
    pytest.param(message_type, name, hint, id=f"{message_type.__name__}-{name}")
    for message_type in MESSAGE_TYPES
    for name, hint in FIELD_TYPES[message_type].items()
    if name != "payload_bytes"
]
every_field = pytest.mark.parametrize(("message_type", "name", "hint"), FIELDS)
# All but the reason of an Abort, which is always made one that may be sent.
every_checked_field = pytest.mark.parametrize(
    ("message_type", "name", "hint"), [case for case in FIELDS if case.id != "Abort-reason"]
)


def test_kinds_are_fixed() -> None:
    """A message keeps its kind number for ever: peers of other versions know it by that."""
    expected = [
        "Hello", "Welcome", "Abort", "Setup", "Ready", "PageData", "ZeroData", "PassEnd",
        "PassAck", "Discard", "SwitchOver", "Running", "PageRequest", "End", "Finished",
        "Account", "Verdict", "Bye", "RunData", "Ping", "SwitchOverAhead", "SwitchOverAck",
        "Resume", "MissingMap", "Standing", "Checksum", "Resend", "HeldPart", "PageRest",
        "RequestAnswer", "SourceTime",
    ]  # fmt: skip
    actual = {message_type.kind: message_type.__name__ for message_type in MESSAGE_TYPES}
    assert dict(enumerate(expected, start=1)) == actual


def test_roles_are_the_channels() -> None:
    """The two connections have the names that Hello and the report use."""
    actual = [channel.value for channel in Channel]
    assert actual == ["precopy", "postcopy"]


@given(messages)
def test_fields_and_back(message: Message) -> None:
    """A message is the same after it was a list of fields, and nothing in it is shared."""
    values = to_fields(message)
    actual = from_fields(tuple(values))
    assert message == actual
    assert (message.kind, message.payload_bytes) == values[:2]


@every_field
def test_a_field_at_its_bound(message_type: type[Message], name: str, hint: object) -> None:
    """A value at the edge of its bounds passes, both ways."""
    for value in ALLOWED[hint]:
        fields = least_fields(message_type) | {name: value}
        expected = (message_type.kind, *fields.values())
        actual = to_fields(from_fields(expected))
        assert expected == actual


@every_field
def test_a_field_over_its_bound(message_type: type[Message], name: str, hint: object) -> None:
    """A value over its bounds is the peer's fault on the way in, and the text names the field."""
    for value in REFUSED[hint]:
        fields = least_fields(message_type) | {name: value}
        words = rf"{message_type.__name__}: {name} is not "
        if value == "\udc80":
            words = "a header is not valid msgpack"
        with pytest.raises(RemoteProtocolError, match=f"^{words}"):
            from_fields((message_type.kind, *fields.values()))


@every_checked_field
def test_a_field_over_its_bound_here(message_type: type[Message], name: str, hint: object) -> None:
    """A value over its bounds is this side's fault on the way out, and the text names the field."""
    for value in REFUSED[hint]:
        message = message_type(**(least_fields(message_type) | {name: value}))
        with pytest.raises(LocalProtocolError, match=f"send {message_type.__name__}: {name} is "):
            to_fields(message)


@every_type
def test_payload_bounds(message_type: type[Message]) -> None:
    """A payload may be as long as its message's limit, which is nothing for most, and no longer."""
    payload_bytes_max = PAYLOAD_BYTES_MAX.get(message_type, 0)
    fields = least_fields(message_type) | {"payload_bytes": payload_bytes_max}
    message = from_fields((message_type.kind, *fields.values()))
    assert payload_bytes_max == message.payload_bytes
    fields["payload_bytes"] += 1
    with pytest.raises(RemoteProtocolError, match=f"{payload_bytes_max + 1} bytes is over"):
        from_fields((message_type.kind, *fields.values()))
    with pytest.raises(LocalProtocolError, match=f"{payload_bytes_max + 1} bytes is over"):
        to_fields(message_type(**fields))


@every_type
def test_a_wrong_payload_length(message_type: type[Message]) -> None:
    """A payload length that is no count is refused for every message."""
    for value in REFUSED[int]:
        fields = least_fields(message_type) | {"payload_bytes": value}
        with pytest.raises(RemoteProtocolError, match="payload_bytes is not a whole number"):
            from_fields((message_type.kind, *fields.values()))


@every_type
def test_a_wrong_number_of_fields(message_type: type[Message]) -> None:
    """A field too many or too few is refused, whatever it holds."""
    values = tuple(least_fields(message_type).values())
    for wrong in (values[:-1], (*values, 0)):
        with pytest.raises(RemoteProtocolError, match=f"has {len(values)} fields, not"):
            from_fields((message_type.kind, *wrong))


@pytest.mark.parametrize("values", [None, 5, "\x05", b"\x05", {5: 0}, {}, (), [], (0,) * 65])
def test_a_header_that_is_no_array(values: object) -> None:
    """Whatever is not an array with something in it is no message."""
    with pytest.raises(RemoteProtocolError, match="not a msgpack array"):
        from_fields(values)


@pytest.mark.parametrize("kind", [0, -1, 32, 255, (1 << 64) - 1])
def test_an_unknown_kind(kind: int) -> None:
    """A number that belongs to no message is refused."""
    with pytest.raises(RemoteProtocolError, match=f"unknown message kind {kind}"):
        from_fields((kind, 0))


@pytest.mark.parametrize("kind", [True, 5.0, "5", b"\x05", None, (5,), {}, {5: 5}, float("nan")])
def test_a_kind_that_is_no_number(kind: object) -> None:
    """What equals a kind, or cannot even be compared with one, is no kind."""
    with pytest.raises(RemoteProtocolError, match="a message kind of type"):
        from_fields((kind, 0))


@pytest.mark.parametrize("value", [{}, {5: 5}, msgpack.ExtType(5, b"\5"), [[[]]]])
def test_a_field_that_no_message_has(value: object) -> None:
    """A map, an extension, or an array in the place of a number is told with the field's name."""
    with pytest.raises(RemoteProtocolError, match=r"^PassEnd: index is not a whole number"):
        from_fields((8, 0, value))


def test_a_message_that_is_none() -> None:
    """The base of all messages, and what derives from a message, cannot be sent."""

    class Readier(Ready, frozen=True, kw_only=True):
        """No message of the protocol."""

    for message in (Message(), Readier()):
        with pytest.raises(LocalProtocolError, match="is no message of the protocol"):
            to_fields(message)


def test_messages_do_not_change() -> None:
    """A message that was made stays as it is."""
    hello = Hello(version=1, session=bytes(16), role="precopy")
    with pytest.raises(AttributeError):
        hello.version = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("no room", "no room"),
        ("first line\nsecond line", "first line second line"),
        ("a file named \udcff", "a file named"),
        ("x" * 10_000, "x" * REASON_CHARS_MAX),
    ],
)
def test_any_reason_can_be_told(reason: str, expected: str) -> None:
    """An Abort can be sent whatever its reason is: text that may not be sent is made one line."""
    sent = to_fields(Abort(reason=reason))
    actual = from_fields(sent)
    assert Abort(reason=expected) == actual
    assert (Abort.kind, 0, expected, False) == sent


def test_messages_are_equal_by_kind_and_fields() -> None:
    """One that was read equals one that was made; another kind with the same fields does not."""
    made = End(target_pages=1, data_bytes=2)
    read = from_fields(to_fields(made))
    assert made == read
    assert len({made, read, End(target_pages=1, data_bytes=3)}) == 2
    assert made != msgspec.structs.replace(made, data_bytes=3)
    other: Message = Bye()
    assert Running() != other
    assert repr(read) == "End(payload_bytes=0, target_pages=1, data_bytes=2)"


def test_a_message_does_not_change() -> None:
    """Who keeps one may rely on it."""
    with pytest.raises(AttributeError):
        Bye().payload_bytes = 1  # type: ignore[misc]
