"""The guest's own clock: set by its host, read by its vCPU, and carried from host to host."""

import time

import pytest

from guest.native import clock
from guest.native.clock import Calibration, GuestClock, Moment
from guest.native.layout import ProgramData, StateData
from guest.spec import ProgramSpec
from tests.machines import bench, needs_native

# Ticks of half a nanosecond.
RATE = 2e9


class Host:
    """A host whose counter and clocks a test sets.

    Attributes:
        ticks: What its counter shows.
        ns: What its clocks show.
    """

    def __init__(self, ticks: int, ns: int) -> None:
        """Begin there."""
        self.ticks, self.ns = ticks, ns

    def pass_by(self, ns: int) -> None:
        """Let time pass."""
        self.ticks += 2 * ns
        self.ns += ns

    def counter(self) -> int:
        """Return what its counter shows."""
        return self.ticks

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be this host from now on."""
        monkeypatch.setattr(clock, "functions", lambda: self)
        monkeypatch.setattr("guest.native.clock.time.clock_gettime_ns", lambda _: self.ns)


def test_it_goes_on_on_another_host_by_what_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another counter, another moment: the guest's time is what it was, and the time on the way."""
    here, there = Host(1_000_000, 5_000), Host(77, 9_000_000)
    state = StateData()
    here.use(monkeypatch)
    first = GuestClock(ProgramData(), state, RATE)
    first.start()
    assert state.read_ns == 5_000
    here.pass_by(700)
    guest_ns, wall_ns = first.read()
    assert (guest_ns, wall_ns) == (5_700, 5_700)

    there.use(monkeypatch)
    program = ProgramData()
    second = GuestClock(program, state, RATE)
    second.resume(guest_ns, there.ns - 250)
    assert second.now_ns() == 5_950
    assert program.clock_version > state.read_version
    there.pass_by(50)
    assert second.now_ns() == 6_000


def test_it_does_not_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose wall clock is behind lets no time pass, and takes none back."""
    host = Host(0, 1_000)
    host.use(monkeypatch)
    taken = GuestClock(ProgramData(), StateData(), RATE)
    taken.resume(50_000, 1_001_000)
    assert taken.now_ns() == 50_000


def test_a_counter_of_its_own_is_reckoned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vCPU whose counter shows more than the host's has the same time."""
    host = Host(100, 1_000)
    host.use(monkeypatch)
    program = ProgramData()
    taken = GuestClock(program, StateData(), RATE, offset=1 << 40)
    taken.start()
    assert program.clock_tsc == 100 + (1 << 40)
    host.pass_by(10)
    assert taken.now_ns() == 1_010


def test_moments_are_told_by_the_hosts_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was a while ago by the guest's clock was as long ago by the host's, and the reverse."""
    host = Host(0, 10_000)
    host.use(monkeypatch)
    taken = GuestClock(ProgramData(), StateData(), RATE)
    taken.resume(90_000, 10_000)
    host.pass_by(500)
    assert taken.monotonic_ns(90_100) == 10_100
    assert taken.guest_ns(10_100) == 90_100


@needs_native
def test_the_vcpu_reads_what_its_host_reads() -> None:
    """The code's own arithmetic comes to the same time, between two looks of the host's."""
    with bench(ProgramSpec("uniform", seed=7)) as made:
        before = time.time_ns()
        _, state = made.run_thread(0, 1)
        after = time.time_ns()
        # Both clocks are looked at a moment apart.
        assert before - 1_000_000 <= state.read_ns <= after + 1_000_000


@needs_native
def test_the_counters_rate_is_measured() -> None:
    """Two calibrations of the same counter agree."""
    rates = [Calibration().ticks_per_second() for _ in range(2)]
    assert rates[0] == pytest.approx(rates[1], rel=0.01)
    assert Moment.monotonic().ticks < Moment.monotonic().ticks
