"""The source's marks: what is between them, by one clock, and since when the guest runs again."""

import pytest

from protocol import events
from protocol.events import ignore
from source.meter import Meter, PeerClock
from source.steps import Now
from tests.stories import Recorder

MS = 1_000_000
START_NS = 1000 * MS


def new_meter() -> Meter:
    """Return one that has just started."""
    return Meter(START_NS, ignore)


def in_ms(meter: Meter, now_ns: int) -> tuple[float, float, float]:
    """Return the times of setup, downtime and all."""
    return meter.setup_ms(now_ns), meter.downtime_ms(now_ns), meter.total_ms(now_ns)


def test_times_are_differences_of_marks() -> None:
    """Each figure is the time between the two marks that its name says."""
    meter = new_meter()
    start_ns = meter.started_ns
    meter.prepared_ns = start_ns + 20 * MS
    meter.stopped_ns = start_ns + 50 * MS
    meter.running_ns = start_ns + 57 * MS
    meter.finished_ns = start_ns + 100 * MS
    assert in_ms(meter, start_ns + 999 * MS) == (20, 7, 100)


def test_the_total_runs_until_it_is_finished() -> None:
    """Before the destination's last word the total is the time until now."""
    meter = new_meter()
    assert [meter.total_ms(START_NS + ms * MS) for ms in (0, 30)] == [0, 30]
    meter.finish(START_NS + 40 * MS)
    meter.finish(START_NS + 50 * MS)
    assert meter.total_ms(START_NS + 60 * MS) == 40


def test_what_has_not_happened_lasts_until_the_end() -> None:
    """A migration that ends in its setup was all setup; a guest that stands still is down."""
    meter = new_meter()
    assert in_ms(meter, START_NS + 30 * MS) == (30, 0, 30)
    meter.finish(START_NS + 40 * MS)
    assert in_ms(meter, START_NS + 99 * MS) == (40, 0, 40)
    meter.prepared_ns = START_NS + 10 * MS
    meter.stopped_ns = START_NS + 15 * MS
    assert in_ms(meter, START_NS + 99 * MS) == (10, 25, 40)


def test_postcopy_is_from_the_guests_run_to_the_last_page() -> None:
    """Before the destination runs the guest there is none; it lasts until the migration's end."""
    meter = new_meter()
    assert meter.postcopy_ms(START_NS + 5 * MS) == 0
    meter.stopped_ns = START_NS + 10 * MS
    meter.note_running(0, START_NS + 15 * MS)
    assert meter.postcopy_ms(START_NS + 20 * MS) == 5
    meter.finish(START_NS + 40 * MS)
    assert meter.postcopy_ms(START_NS + 99 * MS) == 25


def test_the_rate_is_over_the_time_of_sending() -> None:
    """Megabits are 10^6 bits, and before anything was sent the rate is none."""
    meter = new_meter()
    assert meter.mbps(1000) == 0
    meter.sending_ns = 2_000_000_000
    assert meter.mbps(250_000_000) == 1000


def test_sending_is_counted_however_it_ends() -> None:
    """What was sent until a break or a cancellation took its time, too."""
    meter, now = new_meter(), Now(START_NS)

    def fail() -> None:
        with meter.sending(now):
            now.ns += 2 * MS
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    assert meter.sending_ns == 2 * MS
    assert meter.mbps(1000) == 4


@pytest.mark.parametrize(
    ("exchange", "told_ns", "here_ns"),
    [
        # One clock: the time is taken as it is.
        ((100, 150, 200), 300, 300),
        ((100, 100, 200), 300, 300),
        ((100, 200, 200), 300, 300),
        # Two: the answer was given half-way.
        ((100, 5150, 200), 5300, 300),
        ((10_100, 150, 10_200), 350, 10_350),
        # What cannot be is moved to what can.
        ((100, 150, 200), 10, 250),
        ((100, 150, 200), 99_999, 20_000),
        # Nothing is known without an exchange, or if no time was told.
        (None, 300, 20_000),
        ((100, 150, 200), 0, 20_000),
    ],
)
def test_the_peers_times_are_told_by_this_clock(
    exchange: tuple[int, int, int] | None, told_ns: int, here_ns: int
) -> None:
    """Two clocks are compared once; then a time of one is a time of the other."""
    clock = PeerClock()
    if exchange is not None:
        clock.compare(*exchange)
    assert clock.here(told_ns, 250, 20_000) == here_ns


class Rig:
    """A meter, and what it tells."""

    def __init__(self) -> None:
        """Begin with a guest that runs here."""
        self.events = Recorder()
        self.meter = Meter(START_NS, self.events)

    def at(self, ms: int) -> int:
        """Return a time so long after the start."""
        return START_NS + ms * MS

    @property
    def downtime_ms(self) -> float:
        """What it comes to, long after."""
        return self.meter.downtime_ms(self.at(1000))


def test_it_ends_when_the_guest_ran_there() -> None:
    """What counts is when the guest ran, not when that was heard, and the first word of it."""
    rig = Rig()
    rig.meter.compare_clocks(rig.at(1), rig.at(2), rig.at(3))
    rig.meter.stopped_ns = rig.at(10)
    assert rig.events.of(events.Downtime) == []
    rig.meter.note_running(rig.at(14), rig.at(19))
    rig.meter.note_running(rig.at(30), rig.at(31))
    assert rig.downtime_ms == 4
    assert rig.events.of(events.Downtime) == [{"ms": 4}]


def test_without_a_clock_it_ends_when_that_is_heard() -> None:
    """A destination that tells no time is believed when it speaks."""
    rig = Rig()
    rig.meter.stopped_ns = rig.at(10)
    rig.meter.note_running(0, rig.at(19))
    assert rig.downtime_ms == 9


def test_a_guest_that_is_taken_back_was_down_until_then() -> None:
    """Where the switch-over comes to nothing the guest runs here again, and that is told, too."""
    rig = Rig()
    rig.meter.stopped_ns = rig.at(10)
    rig.meter.take_back(rig.at(17))
    assert rig.meter.running_ns == rig.at(17)
    assert rig.events.of(events.Downtime) == [{"ms": 7}]
