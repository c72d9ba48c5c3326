"""What the source measures of itself: when each phase began, and what had been sent by then."""

from __future__ import annotations

import time
from collections.abc import Sequence

from protocol.channels import Channel
from source.connect import Connections


class Meter:
    """Marks of one migration, in nanoseconds of the monotonic clock and bytes over all channels."""

    def __init__(self) -> None:
        """Start the clock of `total-time`."""
        self.started_ns = time.monotonic_ns()
        self.prepared_ns = self.started_ns
        self.stopped_ns = self.started_ns
        self.running_ns = self.started_ns
        self.finished_ns: int | None = None
        self.bytes_at_stop = 0
        self.bytes_at_switch_over = 0
        self.sending_ns = 0
        self.pass_count = 0
        self.dirty_sync_count = 0
        self.expected_downtime_ms = 0.0

    @property
    def total_ms(self) -> float:
        """From the start to the destination's word that all is placed, or until now."""
        return ((self.finished_ns or time.monotonic_ns()) - self.started_ns) / 1e6

    @property
    def setup_ms(self) -> float:
        """From the start to the first page."""
        return (self.prepared_ns - self.started_ns) / 1e6

    @property
    def downtime_ms(self) -> float:
        """From the guest's stop here to the word that it runs there; the way back is in it."""
        return (self.running_ns - self.stopped_ns) / 1e6

    def mbps(self, data_bytes: int) -> float:
        """Return megabits of RAM a second over the time in which RAM was being sent."""
        return data_bytes * 8 / (self.sending_ns / 1e3) if self.sending_ns else 0.0


def sent_bytes(epochs: Sequence[Connections]) -> int:
    """Return what went over all channels of all epochs, heads and all."""
    return sum(connection.out.bytes_sent for each in epochs for connection in each.values())


def channel_bytes(epochs: Sequence[Connections], name: Channel) -> int:
    """Return what went over one channel; 0 where the policy has none of that name."""
    return sum(each[name].out.bytes_sent for each in epochs if name in each)
