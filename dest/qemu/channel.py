"""A connection from QEMU: messages of its stream one way, the return path the other."""

from __future__ import annotations

import socket
from contextlib import suppress

import trio

from protocol.errors import ConnectionLost
from protocol.qemu.decoder import PreemptDecoder
from protocol.qemu.messages import QemuMessage
from protocol.qemu.stream import Decoder

# What is read at once: a run of 64 target pages is one message, and costs no more than one page.
_READ_BYTES = 256 * 1024


class QemuChannel:
    """One connection; its decoder depends on which of the two it is.

    Attributes:
        decoder: Set before the first `receive`.
        label: What it is called in errors.
    """

    def __init__(self, sock: trio.socket.SocketType, label: str) -> None:
        """Take a connected socket and close it in `close`."""
        self.decoder: Decoder | PreemptDecoder = Decoder()
        self.label = label
        self.bytes_received = 0
        self.bytes_sent = 0
        self._sock = sock
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._send_lock = trio.Lock()
        self._unsent = memoryview(b"")
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
                count = await self._sock.recv_into(self._buffer)
            except OSError as error:
                raise self._lost(error) from error
            if not count:
                raise ConnectionLost(f"QEMU closed the {self.label} connection")
            self.bytes_received += count
            self.decoder.receive_data(self._buffer[:count])
        return message

    async def send(self, data: bytes) -> None:
        """Send bytes of the return path, whole; several tasks may.

        What a cancelled call leaves goes before the next one.

        Raises:
            ConnectionLost: The connection broke.
        """
        async with self._send_lock:
            await self._flush()
            self._unsent = memoryview(data)
            await self._flush()

    def abort(self) -> None:
        """Break the connection: whoever receives, or sends, hears that it is lost."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def end_sending(self) -> None:
        """Let QEMU see the end of the return path."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    async def wait_closed(self) -> None:
        """Wait until QEMU closes the connection, whatever it still sends."""
        try:
            while await self._sock.recv_into(self._buffer):
                pass
        except OSError:
            return

    def close(self) -> None:
        """Close the socket; at once, and harmless when done twice."""
        self._sock.close()

    async def _flush(self) -> None:
        while self._unsent:
            try:
                count = await self._sock.send(self._unsent)
            except OSError as error:
                raise self._lost(error) from error
            self.bytes_sent += count
            self._unsent = self._unsent[count:]

    def _lost(self, error: OSError) -> ConnectionLost:
        return ConnectionLost(f"the {self.label} connection broke: {error.strerror or error}")
