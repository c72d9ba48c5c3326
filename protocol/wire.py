"""Messages to bytes and back: `u32 big-endian header length | msgpack array | payload`.

Sending: `encode(message)` gives a frame's head; the payload, if any, follows it on the socket
straight from where it lies.

Receiving: feed a `Decoder` what the socket gives, whole or byte by byte.  `next_message()` answers
with a message as soon as its header is complete.  If the message has a payload, first empty what
the decoder already holds of it with `take_payload(view)`; the rest of the payload is then the
caller's to read from the socket, straight to where it belongs, before the decoder is fed again.
"""

from __future__ import annotations

import struct

import msgpack

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.headers import from_fields, to_fields
from protocol.limits import HEADER_ARRAY_ITEMS_MAX, HEADER_BYTES_MAX
from protocol.messages import Message

_LENGTH = struct.Struct(">I")
# To make one takes as long as to pack a header.
_PACKER = msgpack.Packer()


def encode(message: Message) -> bytes:
    """Return the head of a message's frame: everything but the payload.

    Raises:
        LocalProtocolError: The message is out of its bounds.
    """
    header: bytes = _PACKER.pack(to_fields(message))
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
        """Take bytes from the peer; call `next_message` until it returns None afterwards."""
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
        """Have no payload due any more; return how many of its bytes are buffered."""
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
        return from_fields(_unpack(header))


def _unpack(header: bytearray) -> object:
    try:
        return msgpack.unpackb(
            header,
            use_list=False,
            max_array_len=HEADER_ARRAY_ITEMS_MAX,
            # No header has a map or an extension type.
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, TypeError) as error:
        # msgpack's own errors are ValueErrors, but not every broken header ends in one of them.
        raise RemoteProtocolError("a header is not valid msgpack") from error
