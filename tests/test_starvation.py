"""A queue of requests that is never empty, and bands in the host's queues: who starves.

Whole migrations of both sides, in virtual time, over a line on which the postcopy connection goes
first.  Times are exact, and the same each time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protocol import events
from protocol.geometry import Geometry, PageId, RamBlock
from protocol.limits import SILENCE_SECONDS_MAX, SILENCE_SECONDS_MIN
from tests import simulated
from tests.guests import HUGE, KIB
from tests.simulated import VCPU_COUNT, Outcome, Plan, simulation

RATE = 12.5e6
PAGE_SECONDS = HUGE / RATE
PAGE_COUNT = 20
PAGE_UNITS = HUGE // (4 * KIB)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[simulated.Simulation]:
    """Both sides in virtual time, with a guest of huge pages; silence is no sign of death."""
    geometry = Geometry((RamBlock("ram", PAGE_COUNT * HUGE, HUGE),))
    monkeypatch.setattr(simulated, "GEOMETRY", geometry)
    monkeypatch.setattr(simulated, "SILENCE_SECONDS", SILENCE_SECONDS_MAX)
    with simulation() as made:
        yield made


def run(
    runs: simulated.Simulation, monkeypatch: pytest.MonkeyPatch, policy: str,
    *pages: tuple[int, ...], rate: float = RATE,
) -> Outcome:  # fmt: skip
    """Migrate with vCPUs that touch these pages without pause, each in its order."""
    touches = tuple(tuple(page * PAGE_UNITS for page in each) for each in pages)
    plan = Plan(policy, "postcopy", touches, (), False, rate)
    monkeypatch.setattr(simulated, "plan_of", lambda _: plan)
    outcome = runs.run(0)
    assert outcome.problem == ""
    return outcome


def half_sent_pages(outcome: Outcome) -> list[int]:
    """Return the pages that went on as half-sent ones because they were asked for."""
    told = [event for _, _, event in outcome.story if isinstance(event, events.Boost)]
    return [event.page for event in told]


def wait_of(outcome: Outcome, page: int) -> float:
    """Return how long the one vCPU waited that touched a page."""
    (wait,) = (each for each in outcome.waits if each.page == PageId(0, page))
    return wait.ended - wait.began


def requests(count: int) -> list[tuple[int, ...]]:
    """Return what vCPUs touch: page 9, then 0, which lies half-sent, and so many others."""
    others = range(10, 10 + count)
    return [(9, *others[0::3]), (0,), (8, *others[1::3]), (7, *others[2::3])]


@pytest.mark.parametrize("policy", ["ordered", "split", "resend"])
def test_the_wait_for_the_half_sent_page_does_not_grow(
    runs: simulated.Simulation, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """However many others are asked for, the page comes in its turn."""
    few, many = (wait_of(run(runs, monkeypatch, policy, *requests(count)), 0) for count in (3, 10))
    assert many == pytest.approx(few, abs=PAGE_SECONDS / 2)
    # At most the three that others wait for go before it, and what of it had not gone.
    assert many < 5 * PAGE_SECONDS


def test_it_grows_where_priority_follows_the_channel(
    runs: simulated.Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last bytes lie below all that is asked for later: a page time for each of these."""
    few, many = (
        run(runs, monkeypatch, "priority-by-channel", *requests(count)) for count in (3, 10)
    )
    assert half_sent_pages(few) == half_sent_pages(many) == [0]
    assert wait_of(many, 0) - wait_of(few, 0) == pytest.approx(7 * PAGE_SECONDS, rel=0.2)


def test_no_length_of_urgent_pages_makes_a_connection_look_dead(
    runs: simulated.Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signs of life get out between urgent frames; where they lie below them, one is lost."""
    monkeypatch.setattr(simulated, "SILENCE_SECONDS", SILENCE_SECONDS_MIN)
    busy = [tuple(range(1 + vcpu, PAGE_COUNT, VCPU_COUNT)) for vcpu in range(VCPU_COUNT)]
    rate = RATE / 20
    assert (PAGE_COUNT - 1) * HUGE / rate > 60
    states = [
        run(runs, monkeypatch, policy, *busy, rate=rate).run.states("source")
        for policy in ("ordered", "priority-by-channel")
    ]
    assert "postcopy-paused" not in states[0]
    assert "postcopy-paused" in states[1]
