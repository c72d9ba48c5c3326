"""A connection from the source, as its receiver sees it: messages, and bytes put in their place.

Which messages they are the decoder says that is fed with them: midstream's own, or a QEMU's.

Payload bytes go from the socket straight to the view they are meant for.  The same `recvmsg_into`
that reads a payload's end also reads the head of the next frame into a small scratch buffer, so a
frame costs no system call of its own for its header.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

import trio

from dest.connection import Connection
from dest.landing import Landing
from guest import clock
from guest.streams.stream import UNTURNED_NS_MAX, Stream
from protocol.channels import Channel
from protocol.errors import ConnectionLost, PeerAborted
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.messages import Abort, Message, Ping
from protocol.wire import Decoder, encode

# Room for the head of any page frame (below 60 bytes).  What else of a following frame falls in
# here is copied once more, so it is kept short.
_SCRATCH_BYTES = 64

# Where nobody needs to know how far a payload is, so much of it gathers in the kernel before it is
# read: each wake-up costs both ends time.
_GATHERED_BYTES = 1 << 20
# So little comes in one piece or two, and to tell the kernel of it costs as much as a wake-up.
_UNGATHERED_BYTES_MAX = 64 * 1024


M_co = TypeVar("M_co", covariant=True)
M = TypeVar("M")


class Decoding(Protocol[M_co]):
    """Decoder that cuts a stream into messages."""

    @property
    def header_bytes_due(self) -> int:
        """How many more bytes complete the next message; 0 where that is not known."""

    def receive_data(self, data: memoryview, /) -> None:
        """Feed bytes of the stream."""

    def next_message(self) -> M_co | None:
        """Return the next message, or None until more bytes are fed."""


class InChannel(Connection):
    """The receiving half of one connection, and the backward direction for small messages.

    Attributes:
        peer: Who is at the other end, as errors name it.
    """

    def __init__(self, stream: Stream, received: bytes = b"") -> None:
        """Own a connection; `close` closes it.

        Args:
            stream: The connection.
            received: What was read of it already.
        """
        super().__init__(stream, "new", "new")
        self.peer = "the source"
        self._name: Channel | None = None
        # Called before anything is read: all that has come was given out.
        self.on_idle: Callable[[], None] = _nothing
        # Somebody waits for bytes.
        self.listening = False
        # Nothing else is in a hurry: gathered bytes may be waited for without the event loop.
        self.unhurried = False
        self._may_gather = stream.gathers
        self._decoder = Decoder()
        self._decoder.receive_data(received)
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        # As the stream was told: fewer bytes than these wake nobody.
        self._waking_bytes = 1
        # When the event loop had its last turn for certain.
        self._turned_ns = 0
        # Others have had their turn since something was read without waiting.
        self._may_read_at_once = False

    @property
    def name(self) -> Channel | None:
        """Which of the migration's connections it is; None until its Hello has said."""
        return self._name

    @name.setter
    def name(self, name: Channel) -> None:
        self._name = name
        self.label = self.channel = name.value
        if name is Channel.PRECOPY:
            self.prioritize()

    def expect_small_frames(self, count: int = 1) -> None:
        """Read so many heads and target pages at once: one system call, though all are copied."""
        self.copy_at_once(count * (_SCRATCH_BYTES + TARGET_PAGE_BYTES))

    def copy_at_once(self, count: int) -> None:
        """Read up to so many bytes at once for the decoder, though all of them are copied."""
        self._scratch = memoryview(bytearray(count))

    async def receive(self) -> Message:
        """Return the next message; if it has a payload, `receive_payload` comes next.

        Raises:
            ConnectionLost: The source closed the connection, or it broke.
            PeerAborted: The source ended the session.
            RemoteProtocolError: These are no messages.
        """
        message = self._decoder.next_message()
        while message is None or isinstance(message, Ping):
            message = await self.hear(self._decoder)
        if isinstance(message, Abort):
            raise PeerAborted(
                f"the source ended the migration: {message.reason}", message.reason,
                cancelled=message.cancelled,
            )  # fmt: skip
        return message

    async def hear(self, decoder: Decoding[M]) -> M:
        """Return the next message of a decoder, which is fed until it has one.

        Raises:
            ConnectionLost: The peer closed the connection, or it broke.
            RemoteProtocolError: The decoder refuses what came.
        """
        while (message := decoder.next_message()) is None:
            due = decoder.header_bytes_due
            # The head of a frame of runs is long, and nothing that follows it is to be copied.
            place = memoryview(bytearray(due)) if due > len(self._scratch) else self._scratch
            count = await self._receive_into(partial(list, (place,)))
            decoder.receive_data(place[:count])
        return message

    async def receive_payload(
        self,
        view: memoryview,
        progress: Callable[[int], None],
        is_waste: Callable[[], bool] | None = None,
        *,
        gathered: bool = False,
    ) -> None:
        """Read the last message's payload into a view of exactly its length.

        Args:
            view: Where the bytes belong.
            progress: Called with the number of bytes each time some have come.
            is_waste: Asked each time some have come whether they must not be written after all.  So
                that the answer holds while they are, they are read aside first.
            gathered: Read in few large pieces, though the bytes are here somewhat earlier.

        Raises:
            ConnectionLost: The source closed the connection, or it broke.
        """
        place = view if is_waste is None else memoryview(bytearray(len(view)))
        have, count = 0, self._decoder.take_payload(place)
        while True:
            stop = have + count
            if is_waste is not None and not is_waste():
                view[have:stop] = place[have:stop]
            if count:
                progress(count)
            have = stop
            if have == len(view):
                return
            rest = Landing([place[have:]]).rest
            count = await self._receive_rest(rest, len(view) - have, gathered=gathered)

    async def receive_scattered(
        self, landing: Landing, progress: Callable[[int], None], *, gathered: bool = False
    ) -> None:
        """Read the last message's payload into several places, one behind the other.

        Args:
            landing: Where the bytes belong; asked each time some have come.
            progress: As for `receive_payload`.
            gathered: As for `receive_payload`.

        Raises:
            ConnectionLost: The source closed the connection, or it broke.
        """
        start = self._decoder.take_payload_start(landing.left)
        count = len(start)
        landing.put(start)
        while True:
            if count:
                progress(count)
            if not landing.left:
                return
            count = await self._receive_rest(landing.rest, landing.left, gathered=gathered)
            landing.took(count)

    async def send(self, message: Message, payload: bytes = b"") -> None:
        """Send a message backward, whole; several tasks may.

        What a cancelled call leaves of its message goes before the next one.

        Raises:
            ConnectionLost: The connection broke.
        """
        await self.send_bytes(encode(message) + payload)

    def send_now(self, *messages: Message) -> bool:
        """Send short messages backward as one without waiting, as `send_bytes_now` does."""
        return self.send_bytes_now(b"".join(map(encode, messages)))

    def stop_gathering(self) -> None:
        """Read at once what lies in the kernel: no more of it may come."""
        self._may_gather = False
        self._wake_at(1)

    @property
    def arrived_bytes(self) -> int:
        """All that came, also what lies in the kernel until enough of it is gathered."""
        return self.bytes_received + self._stream.unread_bytes()

    @property
    def has_unread(self) -> bool:
        """Whether something lies in the kernel that somebody waits for."""
        return self.listening and self._stream.unread_bytes() > 0

    def trust_silence(self) -> None:
        """Let the peer's silence alone say that it is gone, as long as it pings."""
        self._stream.trust_silence()

    async def ping(self) -> None:
        """Send a sign of life; nothing while something is being sent, which is as good.

        Raises:
            ConnectionLost: The connection broke.
        """
        if not self._send_lock.locked():
            await self.send(Ping())

    async def _receive_rest(
        self, rest: Callable[[memoryview], list[memoryview]], left: int, *, gathered: bool
    ) -> int:
        """Read once of the `left` bytes of a payload; return how many of them came."""
        gathered_bytes = 1
        if gathered and self._may_gather:
            gathered_bytes = gathered_of(left, unhurried=self.unhurried)
        count = await self._receive_into(partial(rest, self._scratch), gathered_bytes)
        if count > left:
            self._decoder.receive_data(self._scratch[: count - left])
        return min(count, left)

    async def _receive_into(
        self, places: Callable[[], list[memoryview]], gathered_bytes: int = 1
    ) -> int:
        """Read once, when so many bytes are here or no more will come; return how many.

        Args:
            places: Where to; asked when there is something to read, not before it is waited for.
            gathered_bytes: How many must be here.
        """
        self.on_idle()
        self._wake_at(gathered_bytes)
        self.listening = True
        try:
            count = await self._read(places, at_once=gathered_bytes == 1)
        except OSError as error:
            raise self._lost(error) from error
        finally:
            self.listening = False
        if not count:
            raise ConnectionLost(f"{self.peer} closed the {self.label} connection", self.channel)
        self.bytes_received += count
        return count

    def _wake_at(self, count: int) -> None:
        if count != self._waking_bytes:
            self._stream.wake_at(count)
            self._waking_bytes = count

    async def _read(self, places: Callable[[], list[memoryview]], *, at_once: bool) -> int:
        """Read once when the stream says so, or what is here now, but that not twice in a row.

        The second piece of a small frame, which is often here with the first, then costs no turn
        of the event loop; and who always finds something here keeps nobody else from his turn.

        Args:
            places: Where to.
            at_once: Nothing is gathered, so what is here will do.
        """
        count = None
        if at_once and self._may_read_at_once:
            self._may_read_at_once = False
            count = self._stream.try_read_into(places())
        elif not at_once and self.unhurried and await self._is_readable_soon():
            count = self._stream.try_read_into(places())
        while count is None:
            await self._stream.wait_readable()
            self._may_read_at_once = True
            count = self._stream.try_read_into(places())
        return count

    async def _is_readable_soon(self) -> bool:
        """Wait a moment without the event loop; tell whether there is something to read."""
        now_ns = clock.now_ns()
        if now_ns - self._turned_ns > UNTURNED_NS_MAX:
            await trio.lowlevel.checkpoint()
            self._turned_ns = clock.now_ns()
        return self._stream.is_readable_soon()


def _nothing() -> None:
    """Do nothing."""


def gathered_of(left: int, *, unhurried: bool) -> int:
    """Return how many of the bytes that a payload lacks are to be here before any are read.

    Args:
        left: How many it lacks.
        unhurried: Nobody waits for it.
    """
    if left <= _UNGATHERED_BYTES_MAX:
        return 1
    # Who waits for a page does not wait, too, until a large last piece of it is copied.
    return min(left if unhurried else left // 2, _GATHERED_BYTES)
