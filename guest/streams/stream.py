"""What a channel needs of a connection, over TCP, TLS or memory.

Reading and writing never wait, so that whoever calls knows, when the call returns, which bytes are
on their way; only `wait_writable` and `wait_readable` do.  They may return early, so a caller tries
again in a loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

# In precopy nobody is in a hurry, and a turn of the event loop costs as much as to copy a quarter
# of a MiB: so long a stream is waited for without one, for a fast connection is ready by then ...
PATIENCE_MS = 1
# ... and so long signals, signs of life and the progress line may have to wait for their turn.
UNTURNED_NS_MAX = 4_000_000


# What became of a priority that was asked for, as a report tells it, or "refused: " and why; and
# where nobody has asked.
GRANTED, NOT_ASKED = "granted", "not asked for"


class Delivery(NamedTuple):
    """What a stream has taken and not delivered, and how it delivers.

    Attributes:
        unacknowledged_bytes: Taken and not acknowledged by the peer's kernel.
        bytes_per_second: The delivery rate of late; 0 if nobody knows.
        round_trip_us: The shortest round trip that was seen.
    """

    unacknowledged_bytes: int = 0
    bytes_per_second: int = 0
    round_trip_us: int = 0


class Stream(Protocol):
    """A connection's two directions.

    Attributes:
        gathers: `wake_at` is heeded, so that several small pieces can be read as one.
    """

    gathers: bool

    def try_write(self, buffers: Sequence[memoryview], /) -> int:
        """Hand over what goes at once, one buffer after the other; return how many bytes, maybe 0.

        What is not handed over must come first in the next call: an encrypted stream may have begun
        with it.

        Raises:
            OSError: The connection broke.
        """

    def try_read_into(self, buffers: Sequence[memoryview], /) -> int | None:
        """Fill the buffers with what is here; return how many bytes, 0 at the end of the stream.

        None: nothing is here now.

        Raises:
            AuthenticationFailed: The peer does not accept this side's certificate.
            OSError: The connection broke.
        """

    async def wait_writable(self) -> None:
        """Wait until `try_write` may take something."""

    async def wait_readable(self) -> None:
        """Wait until `try_read_into` may return something."""

    def is_writable_soon(self) -> bool:
        """Wait up to `PATIENCE_MS` without the event loop; tell whether something may go."""

    def is_readable_soon(self) -> bool:
        """Wait up to `PATIENCE_MS` without the event loop; tell whether something may be here."""

    def unread_bytes(self) -> int:
        """Return how many bytes have come and were not read."""

    def wake_at(self, count: int, /) -> None:
        """Set how many bytes must be here before `wait_readable` returns (SO_RCVLOWAT)."""

    def bound_unsent(self, buffer_bytes: int, unsent_bytes: int, /) -> None:
        """Keep latency low: bound what lies between this end and the wire.

        Args:
            buffer_bytes: Taken and not acknowledged (SO_SNDBUF).
            unsent_bytes: Of that, what may wait to be sent for the first time (TCP_NOTSENT_LOWAT).
        """

    def prioritize(self) -> str:
        """Have what goes from this end go first in the queues of its host (SO_PRIORITY).

        It never fails: the connection does without.

        Returns:
            What became of it: `GRANTED` and what more there is to say, or that it was refused.
        """

    def overtakes(self) -> bool:
        """Return whether what goes from this end goes first: it does so, and the queues heed it.

        Only that is known which is in this host, on the way that a packet takes now.
        """

    def trust_silence(self) -> None:
        """Have how long the peer says nothing tell that it is gone, and no limit of the kernel's.

        That limit (TCP_USER_TIMEOUT) counts a window that opens again and again, but never as far
        as what is to be sent, as one that is closed (tcp_ack_probe): behind a slow tunnel or proxy
        that is no sign of death.
        """

    def delivery(self) -> Delivery:
        """Return what was taken and not delivered; zeros where nobody can tell."""

    def end_writing(self) -> None:
        """Let the peer see the end of what was written; it can still be read from.

        Raises:
            OSError: The connection broke.
        """

    def close(self) -> None:
        """Close it at once; harmless when done twice.

        A task that waits in `wait_writable` or `wait_readable` is woken by
        `trio.ClosedResourceError`.
        """
