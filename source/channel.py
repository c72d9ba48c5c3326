"""A connection to the destination, seen from the sending side: frames that know how far they are.

A frame that was broken off stays with its channel as the `open_frame`: nothing else may go over the
channel before its rest has.
"""

from __future__ import annotations

import os
import socket

import trio

from protocol.channels import Channel
from protocol.errors import ConnectionLost, LocalProtocolError
from protocol.messages import Message, Ping
from protocol.wire import encode

# Bytes in the kernel cannot be preempted, so in postcopy the precopy channel gets a small send
# buffer. The kernel doubles the value to pay for its own bookkeeping.  On a 1 Gbit/s link 64 KiB is
# half a millisecond of line time; with the default of several MiB a fault waits twice as long.
POSTCOPY_SEND_BUFFER_BYTES = 64 * 1024
# Of that, how much may wait to be sent for the first time.
POSTCOPY_UNSENT_BYTES = 16 * 1024


class Frame:
    """One frame on its way: its head, its payload where it lies, and how many bytes are sent."""

    __slots__ = ("_head", "_payload", "length", "payload_bytes", "sent")

    def __init__(self, message: Message, payload: memoryview | bytes = b"") -> None:
        """Encode the head.

        Args:
            message: With `payload_bytes` as long as the payload.
            payload: Bytes, one dimension; not copied, so they are read when they are sent.
        """
        if message.payload_bytes != len(payload):
            raise LocalProtocolError(
                f"{type(message).__name__} announces {message.payload_bytes} bytes "
                f"and has {len(payload)}"
            )
        self._head = memoryview(encode(message))
        self._payload = memoryview(payload)
        self.payload_bytes = len(payload)
        self.length = len(self._head) + len(payload)
        self.sent = 0

    @property
    def done(self) -> bool:
        """Whether the socket has taken all of it."""
        return self.sent == self.length

    def rest(self, limit: int) -> list[memoryview]:
        """Return what is to go next, at most `limit` bytes, as buffers for one sendmsg."""
        head = len(self._head)
        stop = min(self.length, self.sent + limit)
        buffers = []
        if self.sent < head:
            buffers.append(self._head[self.sent : min(stop, head)])
        if stop > head:
            buffers.append(self._payload[max(self.sent - head, 0) : stop - head])
        return buffers


class OutChannel:
    """The sending half of one connection."""

    def __init__(self, name: Channel, sock: trio.socket.SocketType) -> None:
        """Take a connected socket and close it in `close`."""
        self.name = name
        self.open_frame: Frame | None = None
        self.bytes_sent = 0
        self.target_pages_sent = 0
        self.data_bytes_sent = 0
        self._sock = sock
        # A sign of life of which the socket has not taken all: nothing may go before its rest.
        self._ping: Frame | None = None

    def keep_little_in_the_kernel(self) -> None:
        """Shrink the send buffer of a TCP connection for postcopy."""
        for level, option, value in (
            (socket.SOL_SOCKET, socket.SO_SNDBUF, POSTCOPY_SEND_BUFFER_BYTES),
            (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, POSTCOPY_UNSENT_BYTES),
        ):
            self._sock.setsockopt(level, option, value)

    def close(self) -> None:
        """Close the socket and forget the open frame, whose payload holds on to guest memory."""
        self.open_frame = None
        self._sock.close()

    def send_now(self, frame: Frame, limit: int) -> int:
        """Hand the socket what it takes of a frame at once; return how many bytes, maybe none.

        Raises:
            ConnectionLost: The connection is broken.
        """
        if self._ping is not None and not self._finish_ping(self._ping):
            return 0
        return self._write_now(frame, limit)

    def ping(self) -> None:
        """Send a sign of life: of an open frame its next byte, else a Ping.

        It never waits: where the socket takes nothing, the peer has enough to read.

        Raises:
            ConnectionLost: The connection is broken.
        """
        if self.open_frame is not None:
            self.send_now(self.open_frame, 1)
        elif self._ping is None:
            self._ping = Frame(Ping())
            self._finish_ping(self._ping)

    def _finish_ping(self, ping: Frame) -> bool:
        """Send the rest of a ping; tell whether nothing of it is left to go before other frames."""
        self._write_now(ping, ping.length)
        if ping.done:
            self._ping = None
        return ping.done

    def _write_now(self, frame: Frame, limit: int) -> int:
        try:
            count = os.writev(self._sock.fileno(), frame.rest(limit))
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionLost(
                f"the {self.name.value} connection broke: {error.strerror or error}",
                self.name.value,
            ) from error
        frame.sent += count
        self.bytes_sent += count
        return count

    async def wait_room(self) -> None:
        """Wait until the socket takes bytes again, or is broken."""
        await trio.lowlevel.wait_writable(self._sock)

    async def send_some(self, frame: Frame, limit: int) -> int:
        """Hand bytes of a frame to the socket, waiting until it takes some; return how many.

        Cancelling is safe: the frame's `sent` counts exactly what the kernel took.

        Raises:
            ConnectionLost: The connection is broken.
        """
        await trio.lowlevel.checkpoint()
        while not (count := self.send_now(frame, limit)):
            await self.wait_room()
        return count

    async def send(self, message: Message, payload: memoryview | bytes = b"") -> None:
        """Send a whole message.

        A cancelled call may leave a part of the frame on the wire: it stays as `open_frame`.

        Raises:
            ConnectionLost: The connection is broken.
            LocalProtocolError: Another frame is on its way.
        """
        if self.open_frame is not None:
            raise LocalProtocolError(f"a frame is half-sent on the {self.name.value} channel")
        self.open_frame = Frame(message, payload)
        await self.finish_open_frame()

    async def finish_open_frame(self) -> None:
        """Send the rest of a half-sent frame, if there is one.

        Raises:
            ConnectionLost: The connection is broken.
        """
        while self.open_frame is not None:
            if self.open_frame.done:
                self.open_frame = None
            else:
                await self.send_some(self.open_frame, self.open_frame.length)
