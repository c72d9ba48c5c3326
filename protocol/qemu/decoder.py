"""The decoder that both of a source's channels share, and the simpler of the two.

Used as `protocol.wire.Decoder` is: feed `receive_data` what the socket gives, whole or byte by
byte; call `next_message` until it returns None; for a message with a payload call `take_payload`
before that again.  Page bytes are handed out when their record is whole, so a payload never has to
be waited for.
"""

from __future__ import annotations

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.qemu.cursor import Cursor, Short
from protocol.qemu.messages import EndOfSection, QemuMessage
from protocol.qemu.ram import BlockTable, RamRecords


class QemuDecoder:
    """The part that both channels' decoders have in common.

    All methods raise `RemoteProtocolError` for bytes that no QEMU sends that does what midstream
    speaks; after that the decoder is of no more use and raises it again.
    """

    def __init__(self) -> None:
        """Start at the beginning of a stream."""
        self._cursor = Cursor()
        self._records = RamRecords(self._cursor)
        self._payload_bytes_due = 0
        self._broken: RemoteProtocolError | None = None

    @property
    def header_bytes_due(self) -> int:
        """0: no record says how long it is before it is read."""
        return 0

    @property
    def buffered_bytes(self) -> int:
        """How many bytes were fed and not yet given out."""
        return self._cursor.left

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Buffer bytes from the source; call `next_message` until it returns None afterwards.

        Raises:
            LocalProtocolError: The payload of the message before was not taken.
        """
        self._check_usable()
        self._cursor.feed(data)

    def next_message(self) -> QemuMessage | None:
        """Return the next message, or None until more bytes are fed.

        Raises:
            LocalProtocolError: The payload of the message before was not taken.
        """
        self._check_usable()
        message: QemuMessage | None = None
        try:
            while message is None:
                message = self._read()
                self._cursor.keep()
        except Short:
            self._cursor.rewind()
            return None
        except RemoteProtocolError as error:
            self._broken = error
            # Nobody will ask for it, and a peer that goes on sending must not make it grow.
            self._cursor.clear()
            raise
        self._payload_bytes_due = message.payload_bytes
        return message

    def take_payload(self, view: memoryview) -> None:
        """Copy the payload of the last message into a view of its length.

        Raises:
            LocalProtocolError: No payload of that length is due.
        """
        self._check_not_broken()
        if not view or len(view) != self._payload_bytes_due:
            raise LocalProtocolError(
                f"a payload of {self._payload_bytes_due} bytes is due, not {len(view)}"
            )
        self._records.take_payload(view)
        self._payload_bytes_due = 0

    def _read(self) -> QemuMessage | None:
        """Read one thing; None for one that nobody needs to know of."""
        raise NotImplementedError

    def _check_usable(self) -> None:
        self._check_not_broken()
        if self._payload_bytes_due:
            raise LocalProtocolError("a payload is due, take it first")

    def _check_not_broken(self) -> None:
        if self._broken is not None:
            raise self._broken


class PreemptDecoder(QemuDecoder):
    """The preempt channel: RAM records without anything around them, an end of section last."""

    def __init__(self, blocks: BlockTable) -> None:
        """Start at the beginning of the channel.

        Args:
            blocks: What the main channel announced.
        """
        super().__init__()
        self._records.learn(blocks)
        self._ended = False

    @property
    def at_boundary(self) -> bool:
        """Whether the stream may end here: no record has begun."""
        return not (self._cursor.left or self._broken)

    def _read(self) -> QemuMessage | None:  # type: ignore[explicit-override]
        if self._ended and self._cursor.left:
            raise RemoteProtocolError("bytes came after the end of the preempt channel")
        message = self._records.next()
        self._ended = isinstance(message, EndOfSection)
        return message
