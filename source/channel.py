"""A connection to the destination, seen from the sending side: an outlet and its stream."""

from __future__ import annotations

import trio

from guest import clock
from guest.streams.stream import UNTURNED_NS_MAX, Delivery, Stream
from protocol.channels import Channel
from protocol.errors import ConnectionLost, LocalProtocolError
from protocol.messages import Message, Ping
from source.buffering import Buffering
from source.outlet import Frame, Outlet


class OutChannel(Outlet):
    """The sending half of one connection."""

    def __init__(self, name: Channel, stream: Stream) -> None:
        """Take a connection and close it in `close`."""
        super().__init__(name)
        self._stream = stream
        # A short message of which the stream has not taken all: nothing may go before its rest.
        self._short: Frame | None = None
        # What the stream was last bound to.
        self._bounds = (0, 0)

    def keep_little_in_the_kernel(self, *, is_overtaken: bool = False) -> None:
        """Bound what lies in front of a page request from now on, for postcopy.

        Args:
            is_overtaken: What is urgent goes first in this host's queues.
        """
        self.buffering = Buffering(is_overtaken=is_overtaken)
        self._bound_unsent(self.buffering)

    def _bound_unsent(self, buffering: Buffering) -> None:
        bounds = buffering.send_buffer_bytes, buffering.unsent_bytes
        # Every 2 ms there is a new rate, and seldom another size: two system calls of twenty.
        if bounds != self._bounds:
            self._bounds = bounds
            self._stream.bound_unsent(*bounds)

    def prioritize(self) -> str:
        """Have this channel go first in the queues of its host; see `Stream`."""
        return self._stream.prioritize()

    def overtakes(self) -> bool:
        """Return whether what goes over this channel goes first in its host; see `Stream`."""
        return self._stream.overtakes()

    def trust_silence(self) -> None:
        """Have the peer's silence alone tell that it is gone, as long as it pings."""
        self._stream.trust_silence()

    def close(self) -> None:
        """Close the stream and forget the open frame, whose payload holds on to guest memory."""
        self.open_frame = None
        self._stream.close()

    def send_now(self, frame: Frame, limit: int) -> int:
        """Hand the stream what it takes of a frame at once; return how many bytes, maybe none.

        Raises:
            ConnectionLost: The connection is broken.
        """
        if self._short is not None and not self._finish_short(self._short):
            return 0
        return self._write_now(frame, limit)

    def send_in_a_row(self, frame: Frame, limit: int) -> int:
        """Do as `send_now`, and for a moment wait for room and go on, if nobody is in a hurry.

        A turn of the event loop costs as much as copying a quarter of a MiB.

        Raises:
            ConnectionLost: The connection is broken.
        """
        count = self.send_now(frame, limit)
        if self.buffering is not None:
            return count
        until_ns = clock.now_ns() + UNTURNED_NS_MAX
        while count < limit and self._stream.is_writable_soon() and clock.now_ns() < until_ns:
            count += self.send_now(frame, limit - count)
        return count

    def ping(self) -> None:
        """Send a sign of life: of an open frame its next byte, else a Ping.

        It never waits: where the socket takes nothing, the peer has enough to read.  Some of that
        is to get out, whatever goes first: it may be all that the peer hears for long.

        Raises:
            ConnectionLost: The connection is broken.
        """
        if self.open_frame is not None:
            self.send_now(self.open_frame, 1)
        else:
            self.send_short(Ping())
        self.owes_sign = True

    def send_short(self, *messages: Message) -> bool:
        """Send short messages without waiting; return False if nothing of them can go now.

        Of what the socket does not take whole, the rest goes before the next frame.

        Raises:
            ConnectionLost: The connection is broken.
        """
        if self.open_frame is not None or self._short is not None:
            return False
        short = Frame(messages[-1], before=messages[:-1])
        if not self._finish_short(short) and short.sent:
            self._short = short
        return short.sent > 0

    def _finish_short(self, short: Frame) -> bool:
        """Send the rest of short messages; tell whether nothing of them is left to go first."""
        self._write_now(short, short.length)
        if short.done:
            self._short = None
        return short.done

    def _write_now(self, frame: Frame, limit: int) -> int:
        try:
            count = self._stream.try_write(frame.rest(limit))
        except OSError as error:
            raise ConnectionLost(
                f"the {self.name.value} connection broke: {error.strerror or error}",
                self.name.value,
            ) from error
        self.took(frame, count)
        return count

    def delivery(self) -> Delivery:
        """Return what the stream has taken and not delivered, and how fast it delivers."""
        return self._stream.delivery()

    async def wait_room(self) -> None:
        """Wait until the stream takes bytes again, or is broken."""
        buffering = self.buffering
        if buffering is not None and buffering.full(self.bytes_sent, clock.now_ns()):
            buffering.resize(self.delivery())
            self._bound_unsent(buffering)
        await self._stream.wait_writable()

    async def send_some(self, frame: Frame, limit: int) -> int:
        """Hand bytes of a frame to the stream, waiting until it takes some; return how many.

        Cancelling is safe: the frame's `sent` counts exactly what the stream took.

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
