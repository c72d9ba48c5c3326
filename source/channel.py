"""A connection to the destination, seen from the sending side: frames that know how far they are.

A frame that was broken off stays with its channel as the `open_frame`: nothing else may go over the
channel before its rest has.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import sys
import termios
import time
from itertools import accumulate

import trio

from protocol.channels import Channel
from protocol.errors import ConnectionLost, LocalProtocolError
from protocol.messages import Checksum, Message, Ping
from protocol.tls import SMALL_BATCH_BYTES, TlsTransport
from protocol.transport import PATIENCE_MS, UNTURNED_NS_MAX, Transport
from protocol.wire import encode
from source.backlog import TCP_INFO_BYTES, Backlog
from source.buffering import UNSENT_SHARE, Buffering


class Frame:
    """One frame on its way: its head, its payload where it lies, and how many bytes are sent."""

    __slots__ = ("_ends", "_first", "_pieces", "length", "payload_bytes", "sent")

    def __init__(
        self, message: Message, *payload: memoryview | bytes, checksum: Checksum | None = None
    ) -> None:
        """Encode the head.

        Args:
            message: With `payload_bytes` as long as the payload.
            payload: Bytes, one dimension, in as many pieces as they lie in; not copied, so they are
                read when they are sent.
            checksum: What announces the frame; it goes with it as one.
        """
        pieces = [memoryview(piece) for piece in payload if len(piece)]
        self.payload_bytes = sum(map(len, pieces))
        if message.payload_bytes != self.payload_bytes:
            raise LocalProtocolError(
                f"{type(message).__name__} announces {message.payload_bytes} bytes "
                f"and has {self.payload_bytes}"
            )
        head = encode(message) if checksum is None else encode(checksum) + encode(message)
        self._pieces = [memoryview(head), *pieces]
        self._ends = list(accumulate(map(len, self._pieces)))
        self.length = self._ends[-1]
        # The first piece that is not sent whole.
        self._first = 0
        self.sent = 0

    @property
    def done(self) -> bool:
        """Whether the socket has taken all of it."""
        return self.sent == self.length

    def rest(self, limit: int) -> list[memoryview]:
        """Return what is to go next, at most `limit` bytes, as buffers for one sendmsg."""
        if not self.sent and limit >= self.length:
            return self._pieces
        while self._first < len(self._ends) and self._ends[self._first] <= self.sent:
            self._first += 1
        stop = min(self.length, self.sent + limit)
        buffers = []
        for index in range(self._first, len(self._pieces)):
            piece, end = self._pieces[index], self._ends[index]
            start = end - len(piece)
            if start >= stop:
                break
            buffers.append(piece[max(self.sent - start, 0) : stop - start])
        return buffers


class OutChannel:
    """The sending half of one connection."""

    def __init__(self, name: Channel, sock: Transport) -> None:
        """Take a connection and close it in `close`."""
        self.name = name
        self.open_frame: Frame | None = None
        self.bytes_sent = 0
        # What the connections before this one carried; a break begins a new one.
        self.bytes_carried_before = 0
        self.target_pages_sent = 0
        self.data_bytes_sent = 0
        self._sock = sock
        # A sign of life of which the socket has not taken all: nothing may go before its rest.
        self._ping: Frame | None = None
        self._tls = sock if isinstance(sock, TlsTransport) else None
        self._poll = select.poll()
        # None while the kernel may hold what it likes, and no request can come.
        self._buffering: Buffering | None = None

    def keep_little_in_the_kernel(self) -> None:
        """Keep the send buffer of a TCP connection small from now on, for postcopy."""
        self._buffering = Buffering()
        self._set_send_buffer(self._buffering.send_buffer_bytes)
        if self._tls is not None:
            self._tls.batch_bytes = SMALL_BATCH_BYTES

    def _set_send_buffer(self, size: int) -> None:
        """Have the kernel hold so much; it doubles the value to pay for its own bookkeeping."""
        for level, option, value in (
            (socket.SOL_SOCKET, socket.SO_SNDBUF, size),
            (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, size // UNSENT_SHARE),
        ):
            self._sock.setsockopt(level, option, value)

    @property
    def bytes_carried(self) -> int:
        """What the channel has carried over all its connections, heads and all."""
        return self.bytes_carried_before + self.bytes_sent

    @property
    def run_bytes(self) -> int | None:
        """What one run of small pages may hold by now; None while nobody can wait for one."""
        return self._buffering.run_bytes if self._buffering is not None else None

    def pause(self) -> None:
        """Say that what is sent next does not follow at once on what was sent before."""
        if self._buffering is not None:
            self._buffering.paused()

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

    def send_in_a_row(self, frame: Frame, limit: int) -> int:
        """Do as `send_now`, and for a moment wait for room and go on, if nobody is in a hurry.

        A turn of the event loop costs as much as copying a quarter of a MiB.

        Raises:
            ConnectionLost: The connection is broken.
        """
        count = self.send_now(frame, limit)
        if self._buffering is not None or self._tls is not None:
            return count
        until_ns = time.monotonic_ns() + UNTURNED_NS_MAX
        self._poll.register(self._sock.fileno(), select.POLLOUT)
        while count < limit and self._poll.poll(PATIENCE_MS) and time.monotonic_ns() < until_ns:
            count += self.send_now(frame, limit - count)
        return count

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
            if self._tls is None:
                count = os.writev(self._sock.fileno(), frame.rest(limit))
            else:
                rest = frame.rest(min(limit, self._tls.batch_bytes))
                count = self._tls.write_now(rest, self._write)
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

    def _write(self, data: memoryview) -> int:
        return os.write(self._sock.fileno(), data)

    def backlog(self) -> Backlog:
        """Return what the kernel has not delivered; nothing of what is no TCP connection."""
        try:
            unacknowledged = fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, bytes(4))
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        except OSError:
            return Backlog(0, 0, 0)
        return Backlog.of_tcp_info(int.from_bytes(unacknowledged, sys.byteorder), info)

    async def wait_room(self) -> None:
        """Wait until the socket takes bytes again, or is broken."""
        buffering = self._buffering
        if buffering is not None and buffering.full(self.bytes_sent, time.monotonic_ns()):
            self._set_send_buffer(buffering.send_buffer_bytes)
        await trio.lowlevel.wait_writable(self._sock)

    async def send_some(self, frame: Frame, limit: int) -> int:
        """Hand bytes of a frame to the socket, waiting until it takes some; return how many.

        Cancelling is safe: the frame's `sent` counts exactly what the kernel took.

        Raises:
            ConnectionLost: The connection is broken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not (count := self.send_now(frame, limit)):
            await self.wait_room()
        # Others have their turn behind the bytes, for which somebody waits.
        await trio.lowlevel.cancel_shielded_checkpoint()
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
