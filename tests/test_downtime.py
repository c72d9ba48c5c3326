"""The downtime is the time in which nobody ran the guest, whatever broke, and told alike by all.

Both sides are in this process, so one clock tells when what happened.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from guest.interface import GuestSnapshot
from guest.programs import ProgramSpec
from protocol import events
from protocol.channels import Channel
from protocol.geometry import Geometry, RamBlock
from protocol.messages import PageData, Running, SwitchOver
from scripts.injection.actions import NetworkAction
from scripts.injection.marks import Direction
from source.convergence import SwitchRule
from tests.bounds import bounded, nothing_left
from tests.breaking import Breaking, Place, Run
from tests.guests import HUGE, KIB, SEED, FakeGuest
from tests.stories import Recorder

GEOMETRY = Geometry((RamBlock("ram", 2 * HUGE, HUGE), RamBlock("rom", 32 * 4 * KIB, 4 * KIB)))
# As the runs' frames are.
CHUNKS = -(-GEOMETRY.length_bytes // (64 * KIB))
PRECOPY_ONLY = SwitchRule(postcopy_after=None, downtime_ms_max=300)
SPEC = ProgramSpec(seed=SEED, vcpu_count=1)
CUT = NetworkAction("cut", (Channel.PRECOPY,))
FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD


@dataclass(frozen=True)
class Heard:
    """An event and when it was told, in nanoseconds."""

    event: type[events.Event]
    state: str
    at_ns: int


class TimedRecorder(Recorder):
    """Knows when it was told what."""

    def __init__(self) -> None:
        """Start with nothing."""
        super().__init__()
        self.heard: list[Heard] = []

    def __call__(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, event: events.Event, /
    ) -> None:
        """Take an event."""
        state = event.state if isinstance(event, events.State) else ""
        self.heard.append(Heard(type(event), state, time.monotonic_ns()))
        super().__call__(event)

    def before(self, event: type[events.Event]) -> int:
        """Return when the last thing before an event was told."""
        index = [each.event for each in self.heard].index(event)
        return self.heard[index - 1].at_ns

    def when(self, event: type[events.Event], state: str = "") -> int:
        """Return when something was told first."""
        return next(each.at_ns for each in self.heard if (each.event, each.state) == (event, state))


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Breaking:
    """Runs that know when what was told."""
    monkeypatch.setattr("tests.breaking.Recorder", TimedRecorder)
    return Breaking(monkeypatch)


def check(run: Run) -> float:
    """Check that all places tell one downtime, and that it is the true one; return it."""
    source, dest = run.events["source"], run.events["dest"]
    assert isinstance(source, TimedRecorder)
    assert isinstance(dest, TimedRecorder)
    told = {report["midstream"]["downtime-ms"] for report in run.reports.values()}
    told |= {fields["ms"] for fields in source.of(events.Downtime)}
    told |= {round(fields["downtime_ms"], 3) for fields in source.of(events.Verdict)}
    (downtime_ms,) = told
    assert {report["downtime"] for report in run.reports.values()} == {round(downtime_ms)}
    # It stopped between what was told before and the event, and likewise it ran.
    stopped = source.before(events.GuestStop), source.when(events.GuestStop)
    ran = dest.before(events.GuestRun), dest.when(events.GuestRun)
    rounding_ms = 0.0006
    assert (ran[0] - stopped[1]) / 1e6 - rounding_ms <= downtime_ms
    assert downtime_ms <= (ran[1] - stopped[0]) / 1e6 + rounding_ms
    return float(downtime_ms)


CASES = {
    "nothing breaks": (None, 0),
    "a break in postcopy": (Place(Channel.PRECOPY, FORWARD, PageData, 3, 1000), 0),
    "the word that it runs is lost": (Place(Channel.PRECOPY, BACKWARD, Running), 0),
    "a break before it runs": (Place(Channel.PRECOPY, FORWARD, SwitchOver, behind=1), 0),
    "in precopy": (None, None),
}


@pytest.mark.parametrize("case", CASES)
async def test_the_downtime_is_the_time_in_which_nobody_ran_it(
    breaking: Breaking, case: str
) -> None:
    """A break costs downtime only while the guest stands still."""
    place, postcopy_after = CASES[case]
    with nothing_left(), bounded(60):
        run = await breaking.run(
            GEOMETRY, {} if place is None else {place: CUT},
            rule=SwitchRule(postcopy_after=postcopy_after, downtime_ms_max=300), spec=SPEC,
        )  # fmt: skip
    assert not run.errors
    assert not run.unreached
    check(run)
    source, dest = run.events["source"], run.events["dest"]
    assert isinstance(source, TimedRecorder)
    assert isinstance(dest, TimedRecorder)
    if place is None:
        return
    # What the break took is in it only if it came before the guest ran.
    recovered, ran = source.when(events.Recovered), dest.when(events.GuestRun)
    assert (recovered < ran) == (place.kind is SwitchOver)


async def test_a_guest_that_is_taken_back_was_down_until_then(
    breaking: Breaking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the switch-over comes to nothing the guest runs on at the source, and that is told."""
    source, pause = breaking.guests["source"], FakeGuest.pause

    async def write_and_pause(guest: FakeGuest, *, anywhere: bool = False) -> GuestSnapshot:
        guest.board.dirty[:] = 1
        return await pause(guest, anywhere=anywhere)

    # What is left is sent while the guest stands still, and that breaks.
    monkeypatch.setattr(FakeGuest, "pause", write_and_pause)
    place = Place(Channel.PRECOPY, FORWARD, PageData, CHUNKS + 3, 100)
    with nothing_left(), bounded(60):
        run = await breaking.run(GEOMETRY, {place: CUT}, rule=PRECOPY_ONLY, spec=SPEC)
    assert set(run.errors) == {"source", "dest"}
    told = run.events["source"]
    assert isinstance(told, TimedRecorder)
    assert source.made[-1].is_running
    assert told.kinds(events.GuestStop, events.GuestRun, events.Downtime) == [
        events.GuestStop, events.GuestRun, events.Downtime,
    ]  # fmt: skip
    (downtime,) = told.of(events.Downtime)
    latest_ns = told.when(events.Downtime) - told.before(events.GuestStop)
    assert told.when(events.ChannelLost) - told.when(events.GuestStop) <= downtime["ms"] * 1e6
    assert downtime["ms"] * 1e6 <= latest_ns + 600
    assert run.events["dest"].of(events.GuestRun) == []
