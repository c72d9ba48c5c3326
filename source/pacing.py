"""A token bucket that holds the background to `--max-bandwidth`; urgent pages do not ask it.

A migration has one, whose rate changes with its phase and when its user says so: a new bucket for
each pass would let a burst go free with each.

All of it is whole numbers.  A rounded bucket can end up a hair short of what its user was told to
wait for, and a user whose clock moves only as far as it sleeps would then wait for ever.
"""

from __future__ import annotations

# How much may go at once after a pause.  Long enough to ride out a late timer on a busy machine,
# short enough that a rate means something within a tenth of a second.
BURST_NS = 20_000_000
BURST_BYTES_MIN = 16 * 1024

_NS_PER_SECOND = 10**9


class Pacer:
    """Tells how many bytes may go now; its user brings the time and says what went."""

    def __init__(self, bytes_per_second: int) -> None:
        """Start with a full bucket.

        Args:
            bytes_per_second: The rate; 0 for no limit.
        """
        self.bytes_per_second = bytes_per_second
        self._burst_bytes = _burst_bytes(bytes_per_second)
        # What the bucket holds, in billionths of a byte: a nanosecond adds the rate to it.
        self._credit = self._burst_bytes * _NS_PER_SECOND
        self._updated_ns: int | None = None

    def set_rate(self, bytes_per_second: int, now_ns: int) -> None:
        """Change the rate from now on; what was saved at the old one stays, up to a new burst.

        Where there was no limit nothing was saved: the bucket starts empty, so that the limit holds
        from the first byte on.

        Args:
            bytes_per_second: The new rate; 0 for no limit.
            now_ns: The time, by the clock of `allowance`.
        """
        if self.bytes_per_second:
            self._refill(now_ns)
        else:
            self._credit, self._updated_ns = 0, now_ns
        self.bytes_per_second = bytes_per_second
        self._burst_bytes = _burst_bytes(bytes_per_second)
        self._credit = min(self._credit, self._burst_bytes * _NS_PER_SECOND)

    def allowance(self, wanted_bytes: int, now_ns: int) -> int:
        """Return how many of the wanted bytes may go now, 0 for none yet.

        A few bytes at a time would cost a system call each, so it is a useful piece (a quarter of
        the burst, or all that is wanted) or nothing.
        """
        if not self.bytes_per_second:
            return wanted_bytes
        self._refill(now_ns)
        available_bytes = self._credit // _NS_PER_SECOND
        return min(wanted_bytes, available_bytes) if self._missing(wanted_bytes) <= 0 else 0

    def wait_ns(self, wanted_bytes: int, now_ns: int) -> int:
        """Return how long from now `allowance` will stay 0 for so many bytes."""
        if not self.bytes_per_second:
            return 0
        self._refill(now_ns)
        return max(0, -(-self._missing(wanted_bytes) // self.bytes_per_second))

    def spend(self, count: int) -> None:
        """Say that so many background bytes went."""
        if self.bytes_per_second:
            self._credit -= count * _NS_PER_SECOND

    def _missing(self, wanted_bytes: int) -> int:
        """Return the credit that lacks for a useful piece; 0 or less if there is enough."""
        piece_bytes = min(wanted_bytes, self._burst_bytes // 4)
        return piece_bytes * _NS_PER_SECOND - self._credit

    def _refill(self, now_ns: int) -> None:
        if self._updated_ns is not None:
            gained = (now_ns - self._updated_ns) * self.bytes_per_second
            self._credit = min(self._burst_bytes * _NS_PER_SECOND, self._credit + gained)
        self._updated_ns = now_ns


def _burst_bytes(bytes_per_second: int) -> int:
    return max(bytes_per_second * BURST_NS // _NS_PER_SECOND, BURST_BYTES_MIN)
