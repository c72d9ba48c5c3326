"""A connection from QEMU: messages of its stream one way, the return path the other."""

from __future__ import annotations

from contextlib import suppress

from dest.connection import Connection
from guest.streams.exchange import receive_into
from guest.streams.stream import Stream
from protocol.errors import ConnectionLost
from protocol.qemu.decoder import PreemptDecoder
from protocol.qemu.messages import QemuMessage
from protocol.qemu.stream import Decoder

# What is read at once: a run of 64 target pages is one message, and costs no more than one page.
_READ_BYTES = 256 * 1024


class QemuChannel(Connection):
    """One connection; its decoder depends on which of the two it is.

    Attributes:
        decoder: Set before the first `receive`.
    """

    def __init__(self, stream: Stream, label: str) -> None:
        """Take a connection and close it in `close`."""
        super().__init__(stream, label)
        self.decoder: Decoder | PreemptDecoder = Decoder()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._peeked: QemuMessage | None = None

    async def receive(self) -> QemuMessage:
        """Return the next message; if it has a payload, the decoder has all of it.

        Raises:
            ConnectionLost: QEMU closed the connection, or it broke.
            RemoteProtocolError: This is no stream that can be taken.
        """
        message = await self.peek()
        self._peeked = None
        return message

    async def peek(self) -> QemuMessage:
        """Do as `receive`, and leave the message to that."""
        if self._peeked is None:
            self._peeked = await self._next()
        return self._peeked

    async def _next(self) -> QemuMessage:
        while (message := self.decoder.next_message()) is None:
            try:
                count = await receive_into(self._stream, [self._buffer])
            except OSError as error:
                raise self._lost(error) from error
            if not count:
                raise ConnectionLost(f"QEMU closed the {self.label} connection")
            self.bytes_received += count
            self.decoder.receive_data(self._buffer[:count])
        return message

    def end_sending(self) -> None:
        """Let QEMU see the end of the return path."""
        with suppress(OSError):
            self._stream.end_writing()
