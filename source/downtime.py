"""The downtime: since when the guest runs again, told by this side's clock.

The destination says when it began to run the guest, by a clock of its own; from one question and
its answer before the guest stops it is known how far that one is ahead.
"""

from __future__ import annotations

from protocol import events
from protocol.events import Emit
from source.meter import Meter


class Downtime:
    """Marks when the guest was stopped here, and when it ran again; each once."""

    def __init__(self, meter: Meter, emit: Emit) -> None:
        """Prepare; the guest runs here.

        Args:
            meter: Takes both marks; nobody else sets them.
            emit: Takes the downtime, when it is over.
        """
        self._meter = meter
        self._emit = emit
        self._peer_clock = PeerClock()

    @property
    def has_stopped(self) -> bool:
        """Whether the guest was stopped here."""
        return self._meter.stopped_ns is not None

    def compare_clocks(self, asked_ns: int, peer_ns: int, heard_ns: int) -> None:
        """Take an exchange of clocks, as `PeerClock.compare`."""
        self._peer_clock.compare(asked_ns, peer_ns, heard_ns)

    def stop(self, now_ns: int) -> None:
        """Mark that the guest is being stopped here."""
        self._meter.stopped_ns = now_ns

    def note_running(self, run_ns: int, heard_ns: int) -> None:
        """Mark since when the destination runs the guest; the first word of that counts.

        Args:
            run_ns: When it began to, by the destination's clock; 0 if it told no time.
            heard_ns: When that was heard, by this side's.
        """
        stopped_ns = self._meter.stopped_ns
        if self._meter.running_ns is None:
            assert stopped_ns is not None
            self._end(self._peer_clock.here(run_ns, stopped_ns, heard_ns))

    def take_back(self, now_ns: int) -> None:
        """Mark that the guest runs here again: the switch-over came to nothing."""
        self._end(now_ns)

    def _end(self, running_ns: int) -> None:
        self._meter.running_ns = running_ns
        self._emit(events.Downtime(ms=round(self._meter.downtime_ms, 3)))


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
