"""Messages to bytes and back: `u32 big-endian header length | msgpack array | payload`.

Sending: `encode(message)` gives a frame's head; the payload, if any, follows it on the socket
straight from where it lies.

Receiving: feed a `Decoder` what the socket gives, whole or byte by byte.  `next_message()` answers
with a message as soon as its header is complete.  If the message has a payload, first empty what
the decoder already holds of it with `take_payload(view)`; the rest of the payload is then the
caller's to read from the socket, straight to where it belongs, before the decoder is fed again.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Annotated, Union

import msgspec

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.fields import WORDS, PackedRuns
from protocol.limits import HEADER_ARRAY_ITEMS_MAX, HEADER_BYTES_MAX
from protocol.messages import BY_KIND, FIELD_TYPES, MESSAGE_TYPES, Abort, Message
from protocol.runs import PACKED_RUN_BYTES
from protocol.text import one_line

_LENGTH = struct.Struct(">I")

_write = msgspec.msgpack.Encoder().encode
_read = msgspec.msgpack.Decoder(Union[MESSAGE_TYPES]).decode  # noqa: UP007 - as many as there are


def _named(types: Mapping[str, object], wanted: object) -> tuple[str, ...]:
    return tuple(name for name, each in types.items() if each is wanted)


# A header's items as they are, none of them looked into.
_read_items = msgspec.msgpack.Decoder(
    Annotated[
        tuple[msgspec.Raw, ...], msgspec.Meta(min_length=1, max_length=HEADER_ARRAY_ITEMS_MAX)
    ]
).decode
# How many items each message's array has, its kind among them.
_ITEM_COUNTS = {each: 1 + len(names) for each, names in FIELD_TYPES.items()}
# The fields of which the bounds that msgspec knows are not all.
_LINES = {each: _named(names, str) for each, names in FIELD_TYPES.items()}
_RUNS = {each: _named(names, PackedRuns) for each, names in FIELD_TYPES.items()}

_NO_MSGPACK = "a header is not valid msgpack"
_NO_KIND = "a header is not a msgpack array with a kind"

# Where in an array msgspec found something wrong.
_PLACE = re.compile(r" - at `\$\[([0-9]+)\]")


def encode(message: Message) -> bytes:
    """Return the head of a message's frame: everything but the payload.

    Raises:
        LocalProtocolError: The message is out of its bounds.
    """
    name = type(message).__name__
    if type(message) not in _ITEM_COUNTS:
        raise LocalProtocolError(f"{name} is no message of the protocol")
    if isinstance(message, Abort):
        # Whatever ends a session, the peer can be told.
        message = msgspec.structs.replace(message, reason=one_line(message.reason))
    try:
        header = _write(message)
        # What the peer could not read is not sent.
        _decode(header)
    except UnicodeEncodeError as error:
        reason = _not_right(type(message), _unwritable(message))
        raise LocalProtocolError(f"cannot send {reason}") from error
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"cannot send {error}") from error
    if len(header) > HEADER_BYTES_MAX:
        raise LocalProtocolError(f"a header of {len(header)} bytes is over {HEADER_BYTES_MAX}")
    return _LENGTH.pack(len(header)) + header


class Decoder:
    """Cuts a byte stream into messages, never holding more than a header and what came along.

    All methods raise `RemoteProtocolError` for bytes that no correct peer sends; after that the
    decoder is of no more use and raises it again.
    """

    def __init__(self) -> None:
        """Start at the beginning of a stream."""
        self._buffer = bytearray()
        self._payload_bytes_due = 0
        self._broken: RemoteProtocolError | None = None

    @property
    def buffered_bytes(self) -> int:
        """How many bytes were fed and not yet given out."""
        return len(self._buffer)

    @property
    def at_boundary(self) -> bool:
        """Whether the stream may end here: no frame has begun."""
        return not (self._buffer or self._payload_bytes_due or self._broken)

    @property
    def header_bytes_due(self) -> int:
        """How many more bytes complete the next header; 0 when its length is not known yet."""
        if len(self._buffer) < _LENGTH.size:
            return 0
        length: int = _LENGTH.unpack_from(self._buffer)[0]
        return max(0, min(length, HEADER_BYTES_MAX) + _LENGTH.size - len(self._buffer))

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Buffer bytes from the peer; call `next_message` until it returns None afterwards."""
        if self._broken is not None:
            raise self._broken
        self._buffer += data

    def next_message(self) -> Message | None:
        """Return the next message, or None until more bytes are fed.

        For a message with a payload, call `take_payload` before this again.

        Raises:
            LocalProtocolError: The payload of the message before was not taken.
        """
        if self._broken is not None:
            raise self._broken
        if self._payload_bytes_due:
            raise LocalProtocolError("a payload is due, take it before the next message")
        try:
            message = self._cut_message()
        except RemoteProtocolError as error:
            self._broken = error
            # Nobody will ask for it, and a peer that goes on sending must not make it grow.
            self._buffer.clear()
            raise
        if message is not None:
            self._payload_bytes_due = message.payload_bytes
        return message

    def take_payload(self, view: memoryview) -> int:
        """Move what is buffered of the payload into the view; return how many bytes that was.

        Args:
            view: As long as the message's `payload_bytes`.  The caller reads `view[returned:]` from
                the socket itself.

        Raises:
            LocalProtocolError: No payload of that length is due.
        """
        count = self._payload_start(len(view))
        view[:count] = self._buffer[:count]
        del self._buffer[:count]
        return count

    def take_payload_start(self, payload_bytes: int) -> bytes:
        """Return what is buffered of the payload, as `take_payload`, for more places than one.

        Raises:
            LocalProtocolError: No payload of that length is due.
        """
        count = self._payload_start(payload_bytes)
        start = bytes(self._buffer[:count])
        del self._buffer[:count]
        return start

    def _payload_start(self, payload_bytes: int) -> int:
        """Count the payload as taken; return how many of its bytes are buffered."""
        if self._broken is not None:
            raise self._broken
        if payload_bytes != self._payload_bytes_due:
            raise LocalProtocolError(
                f"a payload of {self._payload_bytes_due} bytes is due, not {payload_bytes}"
            )
        self._payload_bytes_due = 0
        return min(payload_bytes, len(self._buffer))

    def _cut_message(self) -> Message | None:
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(buffer)
        # The check comes before the bytes do: a peer that claims gigabytes gets no buffer for them.
        if not 0 < length <= HEADER_BYTES_MAX:
            raise RemoteProtocolError(f"a header of {length} bytes is not 1 to {HEADER_BYTES_MAX}")
        end = _LENGTH.size + length
        if len(buffer) < end:
            return None
        header = buffer[_LENGTH.size : end]
        del buffer[:end]
        return _decode(header)


def _decode(header: bytes | bytearray) -> Message:
    """Return the message of a header.

    Raises:
        RemoteProtocolError: It is none: no array, of an unknown kind, a wrong count, type or bound.
    """
    try:
        message: Message = _read(header)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RemoteProtocolError(_problem(header, str(error))) from error
    kind = type(message)
    if _item_count(header) != _ITEM_COUNTS[kind]:
        raise RemoteProtocolError(_problem(header, ""))
    for name in _LINES[kind]:
        if not getattr(message, name).isprintable():
            raise RemoteProtocolError(_not_right(kind, name))
    for name in _RUNS[kind]:
        if len(getattr(message, name)) % PACKED_RUN_BYTES:
            raise RemoteProtocolError(_not_right(kind, name))
    if message.payload_bytes > kind.payload_bytes_max:
        raise RemoteProtocolError(
            f"{kind.__name__}: a payload of {message.payload_bytes} bytes is over "
            f"{kind.payload_bytes_max}"
        )
    return message


def _unwritable(message: Message) -> str:
    """Return the field of which a text has no UTF-8."""
    for name in FIELD_TYPES[type(message)]:
        try:
            _write(getattr(message, name))
        except UnicodeEncodeError:
            return name
    raise AssertionError("one of them has none")


def _item_count(header: bytes | bytearray) -> int:
    """Return how many items an array has, as its first bytes say."""
    first = header[0]
    return first & 0x0F if first & 0xF0 == 0x90 else int.from_bytes(header[1:3])


def _problem(header: bytes | bytearray, words: str) -> str:
    """Return what is wrong with a header that is no message.

    Args:
        header: Its bytes.
        words: Those of msgspec.
    """
    try:
        items = _read_items(header)
        kind_read = msgspec.msgpack.decode(items[0])
    except (msgspec.DecodeError, RecursionError) as error:
        return _NO_KIND if isinstance(error, msgspec.ValidationError) else _NO_MSGPACK
    if type(kind_read) is not int:
        return f"a message kind of type {type(kind_read).__name__}"
    kind = BY_KIND.get(kind_read)
    if kind is None:
        return f"unknown message kind {kind_read}"
    names, place = list(FIELD_TYPES[kind]), _PLACE.search(words)
    if len(items) - 1 != len(names):
        return f"{kind.__name__} has {len(names)} fields, not {len(items) - 1}"
    # What has no place is a text that is no UTF-8.
    return _not_right(kind, names[int(place[1]) - 1]) if place else _NO_MSGPACK


def _not_right(kind: type[Message], name: str) -> str:
    return f"{kind.__name__}: {name} is not {WORDS[FIELD_TYPES[kind][name]]}"
