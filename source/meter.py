"""What the source measures of itself: when each phase began, and what had been sent by then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from guest import clock
from protocol.channels import Channel
from source.connect import Connections


class Meter:
    """Marks of one migration, in nanoseconds of the monotonic clock and bytes over all channels.

    A mark is None until what it marks has happened.

    Attributes:
        prepared_ns: The destination is ready for the first page.
        stopped_ns: The guest was stopped here.
        running_ns: It ran again: on the destination, or here if the switch-over came to nothing.
        finished_ns: The migration ended, well or not.
        sending_ns: Time in which RAM was being sent, over all stretches that have ended.
    """

    def __init__(self) -> None:
        """Start the clock of `total-time`."""
        self.started_ns = clock.now_ns()
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

    @property
    def total_ms(self) -> float:
        """From the start to the destination's word that all is placed, or until now."""
        return (self._end_ns - self.started_ns) / 1e6

    @property
    def setup_ms(self) -> float:
        """From the start to the first page, or until now."""
        return ((self.prepared_ns or self._end_ns) - self.started_ns) / 1e6

    @property
    def downtime_ms(self) -> float:
        """The time in which nobody ran the guest: from its stop until it ran again, or until now.

        That is the time between the events `guest-stop` and `guest-run`; breaks in it count.
        """
        if self.stopped_ns is None:
            return 0.0
        return max((self.running_ns or self._end_ns) - self.stopped_ns, 0) / 1e6

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Count the block as time in which RAM is being sent, however it ends."""
        since_ns = clock.now_ns()
        try:
            yield
        finally:
            self.sending_ns += clock.now_ns() - since_ns

    def finish(self, now_ns: int) -> None:
        """Mark the end, unless it is marked already: what follows counts for nothing."""
        self.finished_ns = self.finished_ns or now_ns

    def mbps(self, data_bytes: int) -> float:
        """Return megabits of RAM a second over the time in which RAM was being sent."""
        return data_bytes * 8 / (self.sending_ns / 1e3) if self.sending_ns else 0.0

    @property
    def _end_ns(self) -> int:
        return self.finished_ns or clock.now_ns()


def sent_bytes(epochs: Sequence[Connections]) -> int:
    """Return what went over all channels of all epochs, heads and all."""
    return sum(connection.out.bytes_sent for each in epochs for connection in each.values())


def channel_bytes(epochs: Sequence[Connections], name: Channel) -> int:
    """Return what went over one channel; 0 where the policy has none of that name."""
    return sum(each[name].out.bytes_sent for each in epochs if name in each)
