"""What lies in the kernel: how much of the background may, and how long it waits for urgent bytes.

Bytes in the kernel cannot be preempted, so they are in every request's way; but each time that they
run low the source has to be woken, and on a connection that carries gigabytes a second few of them
are gone before it has come to its senses.  So the size follows from the rate, and is measured anew
all the time: between two moments at which the kernel took no more, all that it took has left it.

The kernel counts what is on the wire, too, until it is acknowledged, though it stands in nobody's
way: a buffer that has no room for it starves a long link.  So it is no smaller than two round trips
of what goes.  On a short link that is less than what may lie here, and a plain FIFO, where nothing
is overtaken, holds as little as it can: with room for both, the median fault of `critical-first`
with 4 vCPUs took 1.52 ms there instead of 1.26 (1 Gbit/s).

Whatever the background sends while urgent bytes lie there shares the link with them, though a vCPU
waits for them and for it nobody does.  What is on the wire is no backlog: the background may follow
it closely.
"""

from __future__ import annotations

from guest.streams.stream import Delivery

# What may lie in a request's way.  At 10 Gbit/s this is 312 KiB; with more the waits grow, and with
# less it is the source's wake-ups that a fast connection waits for.
DELAY_NS_MAX = 250_000

# At 1 Gbit/s half a millisecond of line time: with less, a source that gets its processor late
# leaves the line idle.
SEND_BUFFER_BYTES_MIN = 64 * 1024
# Where requests overtake it in this host's queues it is what goes in a millisecond, up to so much.
# A source that gets its processor late then has 0.94 instead of 0.91 of the link, and the median
# fault of `critical-first` takes 0.27 instead of 0.29 ms, 99 of 100 2.2 instead of 2.9 (1 Gbit/s, 1
# vCPU, beside other work, medians of seven runs in turn); on a quiet machine 0.953 instead of 0.948
# and the same faults.  In a plain FIFO the median fault took 1.32 instead of 1.10.  On a slow line
# it would be long until a page goes that a prefetcher picks, which overtakes nothing.
OVERTAKEN_BYTES_MAX = 128 * 1024
_OVERTAKEN_NS = 1_000_000

# No memory of two processors is faster.
SEND_BUFFER_BYTES_MAX = 4 << 20

# So many round trips have room on the wire.  With one, the rate that is measured would be the one
# that the room allows, and neither would ever grow.
ROUND_TRIPS = 2
# Of that, the most: 10 Gbit/s over 25 ms.  The kernel may allow less (net.core.wmem_max).
WIRE_BYTES_MAX = 64 << 20

# So long the connection is busy with one run of small pages, or of parts of a huge page: a vCPU
# that touches something in a run under way waits for its turn in it.  With shorter ones both ends
# are busy with heads and turns of their event loops instead of with page requests.
RUN_NS_MAX = 4_000_000

# Of what may lie here, how much may wait to be sent for the first time.
UNSENT_SHARE = 4

# The kernel holds up to so many times what its send buffer is bounded to.
_HELD_FACTOR = 2

# So long a time is measured together: single moments say more of the machine's than of the line's.
_MEASURED_NS_MIN = 2_000_000

# In one step the size at most doubles: a line that was idle takes a burst faster than it goes on.
_GROWTH_MAX = 2

# The background begins again when so much is left, so that the link does not fall idle until it has
# begun.  At 1 Gbit/s this is a millisecond, which is as long as a busy machine takes to run it.
SLACK_BYTES = 128 * 1024

# How long the background leaves the link to urgent bytes: what has not been delivered by then is
# held up by something else, and may be for ever.
YIELD_NS_MAX = 2_000_000_000

# No wait is so short that its end costs more than it is worth, ...
_NS_MIN = 200_000
# ... and none so long that a rate which was taken for too low matters.
_NS_MAX = 5_000_000


class Buffering:
    """Chooses the size of a send buffer; its user says when the kernel took no more.

    Attributes:
        near_bytes: What may lie here by now.
        wire_bytes: What may be on the wire.
        run_bytes: What goes in one run; 0 until the rate was measured.
    """

    def __init__(self, *, is_overtaken: bool = False) -> None:
        """Start with the smallest.

        Args:
            is_overtaken: What is urgent goes first in this host's queues.
        """
        self._is_overtaken = is_overtaken
        self.near_bytes = SEND_BUFFER_BYTES_MIN
        self.wire_bytes = 0
        self.run_bytes = 0
        self._full_at: tuple[int, int] | None = None
        self._bytes = 0
        self._ns = 0
        # When it was seen to have room, if it has not been full since, and what it had taken.
        self._roomy_since: tuple[int, int] | None = None

    @property
    def send_buffer_bytes(self) -> int:
        """What the kernel may hold, acknowledged or not, all in all."""
        return max(self.near_bytes, self.wire_bytes)

    @property
    def unsent_bytes(self) -> int:
        """Of that, what may wait to be sent for the first time."""
        return self.near_bytes // UNSENT_SHARE

    def full(self, sent_bytes: int, now_ns: int) -> bool:
        """Say that the kernel takes no more; tell whether it is time to `resize`.

        Args:
            sent_bytes: All that it ever took.
            now_ns: The time.
        """
        if self._full_at is not None:
            self._bytes += sent_bytes - self._full_at[0]
            self._ns += now_ns - self._full_at[1]
        self._full_at, self._roomy_since = (sent_bytes, now_ns), None
        if self._ns < _MEASURED_NS_MIN:
            return False
        size = self._bytes * DELAY_NS_MAX // self._ns
        if self._is_overtaken:
            size = max(size, min(self._bytes * _OVERTAKEN_NS // self._ns, OVERTAKEN_BYTES_MAX))
        self.run_bytes = self._bytes * RUN_NS_MAX // self._ns
        self._bytes = self._ns = 0
        size = min(size, _GROWTH_MAX * self.near_bytes, SEND_BUFFER_BYTES_MAX)
        self.near_bytes = max(size, SEND_BUFFER_BYTES_MIN)
        return True

    def resize(self, delivery: Delivery) -> None:
        """Make room on the wire, as far as the channel delivers."""
        on_wire_bytes = delivery.bytes_per_second * delivery.round_trip_us // 10**6
        self.wire_bytes = min(ROUND_TRIPS * on_wire_bytes, WIRE_BYTES_MAX)

    def has_room(self, sent_bytes: int, now_ns: int) -> bool:
        """Say that the kernel took all that there was to go; tell whether runs may be longer.

        A source whose processor is the limit never fills a fast connection, and nothing is measured
        of it; with longer runs it has less to do.  What was taken since there has been room, but
        for what the kernel may hold, has left: no less than that goes in a run's time.

        Args:
            sent_bytes: All that it ever took.
            now_ns: The time.
        """
        if self._roomy_since is None:
            self._roomy_since = sent_bytes, now_ns
        since_bytes, since_ns = self._roomy_since
        passed_ns = now_ns - since_ns
        left_bytes = sent_bytes - since_bytes - _HELD_FACTOR * self.send_buffer_bytes
        if passed_ns < _MEASURED_NS_MIN or left_bytes * RUN_NS_MAX <= self.run_bytes * passed_ns:
            return False
        self.run_bytes = left_bytes * RUN_NS_MAX // passed_ns
        return True

    def state(self, sent_bytes: int, now_ns: int) -> tuple[int | None, ...]:
        """Return all that it goes by, as seen from what the kernel took by now, and from now.

        Two that are equal choose the same sizes from there on.
        """
        before: list[int | None] = []
        for since in (self._full_at, self._roomy_since):
            before += (None, None) if since is None else (sent_bytes - since[0], now_ns - since[1])
        return (
            self.near_bytes, self.wire_bytes, self.run_bytes, self._bytes, self._ns, *before,
        )  # fmt: skip

    def shift(self, sent_bytes: int, passed_ns: int) -> None:
        """Be in the same `state` when the kernel has taken so much more, so much later."""
        if self._full_at is not None:
            self._full_at = self._full_at[0] + sent_bytes, self._full_at[1] + passed_ns
        if self._roomy_since is not None:
            since_bytes, since_ns = self._roomy_since
            self._roomy_since = since_bytes + sent_bytes, since_ns + passed_ns

    def paused(self) -> None:
        """Say that what left the kernel since it was full was not made good at once."""
        self._full_at = None


class Backlog:
    """Whether urgent bytes that went may still be in the kernel."""

    def __init__(self) -> None:
        """Begin with none."""
        # Until when they are waited for at most; 0 for not at all.
        self._until_ns = 0
        self._delivery: Delivery | None = None

    @property
    def is_unknown(self) -> bool:
        """Whether it is to be looked how the urgent bytes are delivered, and said in `delivers`."""
        return bool(self._until_ns) and self._delivery is None

    def urgent_sent(self, now_ns: int) -> None:
        """Say that the kernel has taken urgent bytes."""
        self._until_ns = now_ns + YIELD_NS_MAX

    def delivers(self, delivery: Delivery) -> None:
        """Say how their channel delivers; it holds for one question."""
        self._delivery = delivery

    def pause_ns(self, now_ns: int) -> int:
        """Return how long the background is to wait for them, then to ask anew; 0 if it need not.

        Unless it `is_unknown`.
        """
        if not self._until_ns:
            return 0
        delivery, self._delivery = self._delivery, None
        assert delivery is not None, "it was not said how the urgent bytes are delivered"
        pause_ns = wait_ns(delivery)
        if pause_ns and now_ns < self._until_ns:
            return pause_ns
        self._until_ns = 0
        return 0


def wait_ns(delivery: Delivery) -> int:
    """Return how long the background had better wait behind urgent bytes, 0 if it need not.

    Then ask anew: it may have to wait some more.
    """
    on_wire_bytes = delivery.bytes_per_second * delivery.round_trip_us // 10**6
    excess_bytes = delivery.unacknowledged_bytes - on_wire_bytes - SLACK_BYTES
    if excess_bytes <= 0:
        return 0
    if not delivery.bytes_per_second:
        return _NS_MIN
    return min(max(excess_bytes * 10**9 // delivery.bytes_per_second, _NS_MIN), _NS_MAX)
