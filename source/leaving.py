"""Urgent bytes on the precopy channel, for which what goes first waits until they leave.  Pure.

The postcopy connection goes first in the host's queues, so that a page that somebody waits for
overtakes the background.  But some of what somebody waits for is on the precopy connection: the
rest of a half-sent page, a page that became urgent while it was sent, one that lies in the socket
already; and a sign of life, by which the peer tells that the connection is not dead.  Packets of
one connection cannot change places, so what lies below must drain: the next urgent frame for the
postcopy channel waits for it.  Else a queue of requests that is never empty would hold up the
oldest of them: the starvation that the policies are about, one layer down.

Acknowledged is left.  That is a round trip later than need be, but then the pages are placed in the
order in which they were asked for, too.
"""

from __future__ import annotations

from guest.streams.stream import Delivery
from protocol.channels import Channel
from source.outlet import Outlet

# What is not acknowledged though nothing of ours is in its way is held up further on, perhaps for
# ever: so long without a byte of progress, and the next urgent page waits for it no more.  What
# goes first is in its way while it leaves: a page of 2 MiB takes 0.8 s at 20 Mbit/s.
STALL_NS = 500_000_000

# No wait is so short that its end costs more than it is worth, ...
_NS_MIN = 200_000
# ... and none so long that it matters that the rate was taken for too low.
_NS_MAX = 5_000_000


class Leaving:
    """Whether bytes of a channel that somebody waits for may still be in this host.

    Attributes:
        looks_at: Which channel is to be looked at, if it `is_unknown` how that delivers.
    """

    def __init__(self, outlet: Outlet, ahead: Outlet) -> None:
        """Look at what is awaited of an outlet, and at how its stream delivers.

        Args:
            outlet: Its bytes are waited for.
            ahead: Its bytes go first.
        """
        self.looks_at: Channel = outlet.name
        self._outlet = outlet
        self._ahead = ahead
        # How far the channel will have come when the sign of life that is owed has left.
        self._sign_end: int | None = None
        # All before this has left, or is not waited for any more.
        self._left_bytes = 0
        self._delivery: Delivery | None = None
        # How far the channel had come when it last had got further, and when that was, or when
        # what goes first last had.
        self._progress: tuple[int, int] | None = None
        # How far what goes first had come when that was last looked at.
        self._ahead_left_bytes = -1

    @property
    def is_pending(self) -> bool:
        """Whether there may be any; if so, ask `pause_ns`."""
        return self._outlet.awaited_bytes > self._left_bytes or self._outlet.owes_sign

    @property
    def owes_sign(self) -> bool:
        """Whether a sign of life may be there: that is waited for in the middle of a frame, too."""
        return self._outlet.owes_sign

    @property
    def is_unknown(self) -> bool:
        """Whether it is to be looked how the channel delivers, and said in `delivers`."""
        return self._delivery is None

    def delivers(self, delivery: Delivery) -> None:
        """Say how the channel delivers; it holds for one question."""
        self._delivery = delivery

    def pause_ns(self, now_ns: int) -> int | None:
        """Return how long to wait for them, then to ask anew; 0 if they have left.

        Unless it `is_unknown`.  None: look, and ask at once.
        """
        delivery, self._delivery = self._delivery, None
        assert delivery is not None, "it was not said how the channel delivers"
        if self.looks_at is not self._outlet.name:
            self.looks_at = self._outlet.name
            if not self._has_ahead_moved(delivery):
                return self._is_over()
            assert self._progress is not None, "it stood still"
            self._progress = self._progress[0], now_ns
            return None
        left_bytes = self._outlet.bytes_sent - delivery.unacknowledged_bytes
        lacks_bytes = self._lacks(left_bytes)
        if lacks_bytes <= 0:
            return self._is_over()
        if self._is_stalled(left_bytes, now_ns):
            self.looks_at = self._ahead.name
            return None
        return _wait_ns(lacks_bytes, delivery)

    def _is_over(self) -> int:
        """Take all that was awaited for left; return that there is nothing to wait for."""
        self._left_bytes, self._outlet.owes_sign = self._outlet.awaited_bytes, False
        self._progress = self._sign_end = None
        return 0

    def _lacks(self, left_bytes: int) -> int:
        """Return how many bytes are still to leave."""
        awaited_bytes = self._outlet.awaited_bytes
        if awaited_bytes > self._left_bytes:
            return awaited_bytes - left_bytes
        # Any byte is a sign of life; but what tells that the peer's own signs have come lies behind
        # all of them, and until it has heard that, its kernel says nothing new.  With a byte a
        # second, 84 KiB that lay here at 20 Mbit/s kept it silent for 4 s.
        if self._sign_end is None:
            self._sign_end = self._outlet.bytes_sent
        return self._sign_end - left_bytes

    def _is_stalled(self, left_bytes: int, now_ns: int) -> bool:
        if self._progress is None or left_bytes > self._progress[0]:
            self._progress = left_bytes, now_ns
        return now_ns - self._progress[1] >= STALL_NS

    def _has_ahead_moved(self, delivery: Delivery) -> bool:
        """Return whether what goes first is in the way, and got further since the last look."""
        left_bytes = self._ahead.bytes_sent - delivery.unacknowledged_bytes
        before, self._ahead_left_bytes = self._ahead_left_bytes, left_bytes
        return delivery.unacknowledged_bytes > 0 and left_bytes > before


def _wait_ns(count: int, delivery: Delivery) -> int:
    """Return how long so many bytes take, or what is a part of a round trip."""
    # The last of them has a whole round trip before it is known to be there; to ask four times in
    # it is often enough.
    rate, round_trip_ns = delivery.bytes_per_second, delivery.round_trip_us * 1000
    line_ns = count * 10**9 // rate if rate else 0
    return min(max(line_ns, round_trip_ns // 4, _NS_MIN), _NS_MAX)
