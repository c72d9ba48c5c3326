"""The return path: what the destination sends backward over a connection.

What has come is read at once, as far as there is any; then whoever serves requests has his turn.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from guest.streams.stream import Stream
from protocol.channels import Channel
from protocol.errors import ConnectionLost, PeerAborted, RemoteProtocolError
from protocol.limits import DEVICE_STATE_BYTES_MAX, REPORT_BYTES_MAX
from protocol.messages import Abort, Message, Ping
from protocol.wire import Decoder

_RECEIVE_BYTES = 64 * 1024
# Page requests come one at a time; a peer that floods must not keep anybody from his turn.
_READ_IN_A_ROW_MAX = 16

# Without digests, which come in proportion to the guest.
PAYLOAD_BYTES_MAX = DEVICE_STATE_BYTES_MAX + REPORT_BYTES_MAX


class ReturnPath:
    """The receiving half of one connection to the destination."""

    def __init__(self, name: Channel, stream: Stream) -> None:
        """Take a connection; it is closed by its `OutChannel`."""
        self.bytes_received = 0
        self.payload_bytes_max = PAYLOAD_BYTES_MAX
        self._name = name
        self._stream = stream
        self._buffer = memoryview(bytearray(_RECEIVE_BYTES))
        self._decoder = Decoder()
        # How often was read since others had their turn.
        self._read_in_a_row = 0
        # Called before others have it: all that has come was given out.
        self.on_idle: Callable[[], None] = lambda: None
        # Somebody waits for bytes.
        self.listening = False

    async def receive(self) -> tuple[Message, bytes]:
        """Return the next message and its payload.

        Raises:
            ConnectionLost: The destination closed the connection, or it broke.
            PeerAborted: The destination ended the session.
            RemoteProtocolError: These are no messages.
        """
        message: Message | None = None
        while message is None or isinstance(message, Ping):
            message = self._decoder.next_message()
            if message is None:
                self._decoder.receive_data(await self._receive_some())
        if isinstance(message, Abort):
            raise PeerAborted(
                f"the destination ended the migration: {message.reason}", message.reason,
                cancelled=message.cancelled,
            )  # fmt: skip
        return message, await self._receive_payload(message)

    async def wait_closed(self) -> None:
        """Wait until the destination closes the connection, whatever it still sends."""
        with suppress(ConnectionLost):
            while True:
                await self._receive_some()

    async def _receive_payload(self, message: Message) -> bytes:
        if message.payload_bytes > self.payload_bytes_max:
            raise RemoteProtocolError(
                f"{type(message).__name__}: a payload of {message.payload_bytes} bytes is over "
                f"{self.payload_bytes_max}"
            )
        if not message.payload_bytes:
            return b""
        payload = memoryview(bytearray(message.payload_bytes))
        have = self._decoder.take_payload(payload)
        while have < len(payload):
            have += await self._receive_into(payload[have:])
        return bytes(payload)

    async def _receive_some(self) -> memoryview:
        """Return what comes next; it is overwritten by the next call."""
        return self._buffer[: await self._receive_into(self._buffer)]

    async def _receive_into(self, place: memoryview) -> int:
        """Read once; return how many bytes came."""
        self.listening = True
        try:
            count = await self._read([place])
        except OSError as error:
            raise ConnectionLost(
                f"the {self._name.value} connection broke: {error.strerror or error}",
                self._name.value,
            ) from error
        finally:
            self.listening = False
        if not count:
            raise ConnectionLost(
                f"the destination closed the {self._name.value} connection", self._name.value
            )
        self.bytes_received += count
        return count

    async def _read(self, places: list[memoryview]) -> int:
        """Read what is there; others have their turn before it only where that is nothing.

        So all page requests that have come are known before anything else is done.
        """
        self._read_in_a_row += 1
        if self._read_in_a_row <= _READ_IN_A_ROW_MAX:
            count = self._stream.try_read_into(places)
            if count is None:
                self.on_idle()
                # That takes its time, and more may have come meanwhile.
                count = self._stream.try_read_into(places)
            if count is not None:
                return count
        else:
            self.on_idle()
        while True:
            await self._stream.wait_readable()
            self._read_in_a_row = 0
            count = self._stream.try_read_into(places)
            if count is not None:
                return count
