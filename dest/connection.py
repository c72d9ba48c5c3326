"""One connection of a migration, whoever the peer is: what goes back over it, and its end."""

from __future__ import annotations

from contextlib import suppress

import trio

from guest.streams.exchange import receive_into
from guest.streams.stream import NOT_ASKED, Stream
from protocol.errors import ConnectionLost

# How long what arrived before a break is read on, once the break is known.
DRAIN_SECONDS_MAX = 0.5

# What is read at once of bytes that nobody wants any more.
_DRAIN_BYTES = 64 * 1024


class Connection:
    """The backward direction; whole messages, in their order.

    Attributes:
        bytes_received: What came; counted by who receives.
        bytes_sent: What went.
        label: What it is called in errors.
        channel: The same for who is told that it is lost; empty for none of the migration's.
        priority: What became of its going first in this host's queues.
    """

    def __init__(self, stream: Stream, label: str, channel: str = "") -> None:
        """Own a connection; `close` closes it."""
        self.label = label
        self.channel = channel
        self.bytes_received = 0
        self.bytes_sent = 0
        self.priority = NOT_ASKED
        self._stream = stream
        self._send_lock = trio.Lock()
        self._unsent = memoryview(b"")
        self._rest_left = trio.lowlevel.ParkingLot()

    async def send_bytes(self, data: bytes) -> None:
        """Send a message, whole; several tasks may.

        What a cancelled call leaves of its message goes before the next one.

        Raises:
            ConnectionLost: The connection broke.
        """
        async with self._send_lock:
            await self._flush()
            self._unsent = memoryview(data)
            await self._flush()

    def prioritize(self) -> None:
        """Prioritize what goes back over it, requests, in the queues of this host."""
        self.priority = self._stream.prioritize()

    @property
    def can_send_now(self) -> bool:
        """Whether nothing is before a message that is sent now."""
        return not self._unsent and not self._send_lock.locked()

    def send_bytes_now(self, data: bytes) -> bool:
        """Send a short message without waiting; return False if that cannot be done now.

        Then nothing of it has gone, and `send_bytes` sends it in its turn.  Of one that the stream
        did not take whole, `send_rests` sees to the rest.

        Raises:
            ConnectionLost: The connection broke.
        """
        if not self.can_send_now:
            return False
        view = memoryview(data)
        try:
            count = self._stream.try_write([view])
        except OSError as error:
            raise self._lost(error) from error
        if not count:
            return False
        self.bytes_sent += count
        self._unsent = view[count:]
        if self._unsent:
            self._rest_left.unpark_all()
        return True

    async def send_rests(self) -> None:
        """Send what `send_bytes_now` leaves of messages, until cancelled.

        Raises:
            ConnectionLost: The connection broke.
        """
        while True:
            await self._rest_left.park()
            async with self._send_lock:
                await self._flush()

    def end_sending(self) -> None:
        """Let the peer see the end of what is sent; it may still be heard."""
        with suppress(OSError):
            self._stream.end_writing()

    async def wait_closed(self) -> bool:
        """Wait for the end of the connection, whatever still comes; tell whether that was orderly.

        It is if the source closed it.
        """
        drain = [memoryview(bytearray(_DRAIN_BYTES))]
        try:
            while await receive_into(self._stream, drain):
                pass
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the stream; at once, and harmless when done twice."""
        self._stream.close()

    def _lost(self, error: OSError) -> ConnectionLost:
        reason = error.strerror or error
        return ConnectionLost(f"the {self.label} connection broke: {reason}", self.channel)

    async def _flush(self) -> None:
        while self._unsent:
            try:
                count = self._stream.try_write([self._unsent])
                if not count:
                    await self._stream.wait_writable()
            except OSError as error:
                raise self._lost(error) from error
            except trio.ClosedResourceError:
                raise ConnectionLost(f"the {self.label} connection is closed here") from None
            self.bytes_sent += count
            self._unsent = self._unsent[count:]
