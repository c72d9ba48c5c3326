"""Since when the guest runs again: one clock, each mark once, and told when it is over."""

import pytest

from protocol import events
from source.downtime import Downtime, PeerClock
from source.meter import Meter
from tests.stories import Recorder

MS = 1_000_000


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
    """A downtime, and the meter that takes its marks."""

    def __init__(self) -> None:
        """Begin with a guest that runs here."""
        self.events = Recorder()
        self.meter = Meter()
        self.downtime = Downtime(self.meter, self.events)

    def at(self, ms: int) -> int:
        """Return a time so long after the start."""
        return self.meter.started_ns + ms * MS


def test_it_ends_when_the_guest_ran_there() -> None:
    """What counts is when the guest ran, not when that was heard, and the first word of it."""
    rig = Rig()
    rig.downtime.compare_clocks(rig.at(1), rig.at(2), rig.at(3))
    rig.downtime.stop(rig.at(10))
    assert rig.events.of(events.Downtime) == []
    rig.downtime.note_running(rig.at(14), rig.at(19))
    rig.downtime.note_running(rig.at(30), rig.at(31))
    assert rig.meter.downtime_ms == 4
    assert rig.events.of(events.Downtime) == [{"ms": 4}]


def test_without_a_clock_it_ends_when_that_is_heard() -> None:
    """A destination that tells no time is believed when it speaks."""
    rig = Rig()
    rig.downtime.stop(rig.at(10))
    rig.downtime.note_running(0, rig.at(19))
    assert rig.meter.downtime_ms == 9


def test_a_guest_that_is_taken_back_was_down_until_then() -> None:
    """Where the switch-over comes to nothing the guest runs here again, and that is told, too."""
    rig = Rig()
    rig.downtime.stop(rig.at(10))
    rig.downtime.take_back(rig.at(17))
    assert rig.downtime.has_stopped
    assert rig.meter.running_ns == rig.at(17)
    assert rig.events.of(events.Downtime) == [{"ms": 7}]
