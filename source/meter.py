"""What the source measures of itself: when each phase began, and what had been sent by then.  Pure.

The downtime is told by this side's clock: the destination says when it began to run the guest, by a
clock of its own, and from one question and its answer before the guest stops it is known how far
that one is ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from protocol import events
from protocol.events import Emit
from source.steps import Now


class Meter:
    """Marks of one migration, in nanoseconds of one clock and bytes over all channels.

    A mark is None until what it marks has happened.

    Attributes:
        prepared_ns: The destination is ready for the first page.
        stopped_ns: The guest was stopped here.
        running_ns: It ran again: on the destination, or here if the switch-over came to nothing.
        finished_ns: The migration ended, well or not.
        sending_ns: Time in which RAM was being sent, over all stretches that have ended.
    """

    def __init__(self, started_ns: int, emit: Emit) -> None:
        """Start the clock of `total-time`.

        Args:
            started_ns: The time.
            emit: Takes the downtime, when it is over.
        """
        self.started_ns = started_ns
        self.prepared_ns: int | None = None
        self.stopped_ns: int | None = None
        self.running_ns: int | None = None
        self.finished_ns: int | None = None
        self.bytes_at_stop: int | None = None
        self.bytes_at_switch_over: int | None = None
        self.sending_ns = 0
        self.pass_count = 0
        self.dirty_sync_count = 0
        self.expected_downtime_ms = 0.0
        self._emit = emit
        self._peer_clock = PeerClock()

    def total_ms(self, now_ns: int) -> float:
        """From the start to the destination's word that all is placed, or until now."""
        return (self._end_ns(now_ns) - self.started_ns) / 1e6

    def setup_ms(self, now_ns: int) -> float:
        """From the start to the first page, or until now."""
        return ((self.prepared_ns or self._end_ns(now_ns)) - self.started_ns) / 1e6

    def downtime_ms(self, now_ns: int) -> float:
        """The time in which nobody ran the guest: from its stop until it ran again, or until now.

        That is the time between the events `guest-stop` and `guest-run`; breaks in it count.
        """
        if self.stopped_ns is None:
            return 0.0
        return max((self.running_ns or self._end_ns(now_ns)) - self.stopped_ns, 0) / 1e6

    def postcopy_ms(self, now_ns: int) -> float:
        """From when the guest ran on the destination until all of it was there, or until now."""
        if self.running_ns is None:
            return 0.0
        return max(self._end_ns(now_ns) - self.running_ns, 0) / 1e6

    @contextmanager
    def sending(self, now: Now) -> Iterator[None]:
        """Count the block as time in which RAM is being sent, however it ends."""
        since_ns = now.ns
        try:
            yield
        finally:
            self.sending_ns += now.ns - since_ns

    def compare_clocks(self, asked_ns: int, peer_ns: int, heard_ns: int) -> None:
        """Take an exchange of clocks, as `PeerClock.compare`."""
        self._peer_clock.compare(asked_ns, peer_ns, heard_ns)

    def note_running(self, run_ns: int, heard_ns: int) -> None:
        """Mark since when the destination runs the guest; the first word of that counts.

        Args:
            run_ns: When it began to, by the destination's clock; 0 if it told no time.
            heard_ns: When that was heard, by this side's.
        """
        if self.running_ns is None:
            assert self.stopped_ns is not None
            self._run(self._peer_clock.here(run_ns, self.stopped_ns, heard_ns))

    def take_back(self, now_ns: int) -> None:
        """Mark that the guest runs here again: the switch-over came to nothing."""
        self._run(now_ns)

    def finish(self, now_ns: int) -> None:
        """Mark the end, unless it is marked already: what follows counts for nothing."""
        self.finished_ns = self.finished_ns or now_ns

    def mbps(self, data_bytes: int) -> float:
        """Return megabits of RAM a second over the time in which RAM was being sent."""
        return data_bytes * 8 / (self.sending_ns / 1e3) if self.sending_ns else 0.0

    def _run(self, running_ns: int) -> None:
        self.running_ns = running_ns
        self._emit(events.Downtime(ms=round(self.downtime_ms(running_ns), 3)))

    def _end_ns(self, now_ns: int) -> int:
        return self.finished_ns or now_ns


class PeerClock:
    """How far the destination's clock is ahead of this side's, from one question and its answer.

    Clocks that such an exchange cannot tell apart are taken for one and the same, which they are
    where both sides run on one machine; else half the round trip is the most that it can be wrong.
    """

    def __init__(self) -> None:
        """Start without an exchange: no time of the destination's can be told."""
        self._ahead_ns: int | None = None

    def compare(self, asked_ns: int, peer_ns: int, heard_ns: int) -> None:
        """Take an exchange.

        Args:
            asked_ns: When the question left, by this side's clock.
            peer_ns: When it was answered, by the destination's.
            heard_ns: When the answer came, by this side's.
        """
        if asked_ns <= peer_ns <= heard_ns:
            self._ahead_ns = 0
        else:
            self._ahead_ns = peer_ns - (asked_ns + heard_ns) // 2

    def here(self, peer_ns: int, earliest_ns: int, latest_ns: int) -> int:
        """Return a time of the destination's by this side's clock.

        Args:
            peer_ns: The time by the destination's clock; 0 if it told none.
            earliest_ns: It cannot have been before.
            latest_ns: Nor after; this is returned where nothing better is known.
        """
        if self._ahead_ns is None or not peer_ns:
            return latest_ns
        return min(max(peer_ns - self._ahead_ns, earliest_ns), latest_ns)
