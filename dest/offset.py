"""How far the source's monotonic clock is from this side's.  Pure.

Two machines' monotonic clocks have nothing to do with each other.  But nothing is read before it is
written: a page request bounds the difference from above, what the source says of its own time
bounds it from below, and the smallest delay of either direction says how closely.
"""

from __future__ import annotations

# How fast two clocks may drift apart, in nanoseconds a second: as far as NTP slews one.
_DRIFT_NS = 500_000


class ClockOffset:
    """The difference of two clocks, as closely as messages have told it so far."""

    def __init__(self) -> None:
        """Know nothing."""
        self._low_ns: int | None = None
        self._high_ns: int | None = None
        self._told_ns = 0

    @property
    def ahead_ns(self) -> int:
        """How far the source's clock is ahead of this one.

        The middle of what is possible, so half the difference of the two directions' smallest
        delays may be wrong.  But nothing, if that is possible: two processes of one machine share
        a clock, and no other two happen to agree.
        """
        low, high = self._low_ns, self._high_ns
        if low is None or high is None:
            return low if low is not None else high if high is not None else 0
        return 0 if low <= 0 <= high else (low + high) // 2

    def here(self, source_ns: int) -> int:
        """Return what the source's clock has said, by this side's."""
        return source_ns - self.ahead_ns

    def went(self, sent_ns: int, came_ns: int, now_ns: int) -> None:
        """Take what a message to the source tells.

        Args:
            sent_ns: When it was sent, by this side's clock.
            came_ns: When it was read, by the source's.
            now_ns: The time.
        """
        self._drift(now_ns)
        high_ns = came_ns - sent_ns
        if self._high_ns is None or high_ns < self._high_ns:
            self._high_ns = high_ns
            if self._low_ns is not None and self._low_ns > high_ns:
                # A clock was stopped or set: the newest word counts.
                self._low_ns = None

    def came(self, sent_ns: int, now_ns: int) -> None:
        """Take what a message of the source tells.

        Args:
            sent_ns: When it was sent, by the source's clock.
            now_ns: When it was read, by this side's: the time.
        """
        self._drift(now_ns)
        low_ns = sent_ns - now_ns
        if self._low_ns is None or low_ns > self._low_ns:
            self._low_ns = low_ns
            if self._high_ns is not None and self._high_ns < low_ns:
                self._high_ns = None

    def _drift(self, now_ns: int) -> None:
        """Widen the bounds by what the clocks may have drifted since they were told."""
        drift_ns = max(now_ns - self._told_ns, 0) * _DRIFT_NS // 10**9
        self._told_ns = now_ns
        if self._low_ns is not None:
            self._low_ns -= drift_ns
        if self._high_ns is not None:
            self._high_ns += drift_ns
