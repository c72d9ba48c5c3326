"""Whole migrations in virtual time: each ends as it may, repeats itself, and a defect is found.

The long form is a command: `python -m tests.simulated 5000`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from dest.assembly import Assembly
from dest.engine import Engine
from dest.placement import SimulatedPlacement
from protocol.geometry import TARGET_PAGE_BYTES, Span
from protocol.pageset import PageSet
from source.halfsent import SentAgain
from source.jobs import Job
from source.phases import Phases
from tests.simulated import Simulation, simulation


@pytest.fixture
def simulated() -> Iterator[Simulation]:
    """Both sides of this process in virtual time."""
    with simulation() as runs:
        yield runs


@pytest.mark.parametrize("seed", range(40))
def test_every_migration_ends_as_it_may(simulated: Simulation, seed: int) -> None:
    """No memory is lost or doubled, nothing hangs, and one side alone has the guest."""
    assert simulated.run(seed).problem == ""


@pytest.mark.parametrize("seed", range(8))
def test_a_seed_tells_one_story(simulated: Simulation, seed: int) -> None:
    """Run twice, both sides tell the same at the same times."""
    first, second = (simulated.run(seed).story for _ in range(2))
    assert first == second
    assert first


Method = Callable[..., Any]


class Planted(NamedTuple):
    """A defect, planted in place of a method.

    Attributes:
        owner: Whose method.
        name: Which.
        wrong: Takes the method, and returns what stands in for it.
    """

    owner: type
    name: str
    wrong: Callable[[Any], Any]


def a_page_less(missing: Method) -> Callable[[Assembly], PageSet]:
    """Say of a page that is missing that it is here."""

    def told(assembly: Assembly) -> PageSet:
        pages: PageSet = missing(assembly)
        if (first := pages.first_from(0, 0)) is not None:
            pages.discard(*first)
        return pages

    return told


def a_page_more(missing: Method) -> Callable[[Assembly], PageSet]:
    """Say of a page that is here that it is missing."""

    def told(assembly: Assembly) -> PageSet:
        pages: PageSet = missing(assembly)
        for block, flags in enumerate(map(pages.members, range(2))):
            for page in np.flatnonzero(~flags)[:1].tolist():
                pages.add(Span(block, page * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
        return pages

    return told


def deaf_at_times(wake: Method) -> Callable[[SimulatedPlacement, int], None]:
    """Lose one wake-up in three."""
    count = itertools.count()

    def maybe(placement: SimulatedPlacement, vcpu: int) -> None:
        if next(count) % 3:
            wake(placement, vcpu)

    return maybe


def without_frame(serve: Method) -> Callable[[SentAgain, Job], Job]:
    """Send a half-sent page again, and forget the frame of it that was begun."""

    def again(page: SentAgain, job: Job) -> Job:
        job.chunk = None
        whole: Job = serve(page, job)
        return whole

    return again


PLANTED = {
    "a request is not asked again after a break": Planted(
        Engine, "resumed", lambda _: lambda engine: engine.faults.resumed()
    ),
    "a page that lacks is told to be here": Planted(Assembly, "missing", a_page_less),
    "a page that is held is sent again": Planted(Assembly, "missing", a_page_more),
    "a leftover frame is forgotten": Planted(SentAgain, "_serve", without_frame),
    "a wake-up is lost": Planted(SimulatedPlacement, "wake", deaf_at_times),
    "the guest runs on both sides": Planted(
        Phases, "handed_over", lambda _: property(lambda _: False, lambda _, __: None)
    ),
}
SEEDS_MAX = 500


@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found(
    simulated: Simulation, defect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some hundred seeds are enough for each."""
    planted = PLANTED[defect]
    right = getattr(planted.owner, planted.name, None)
    monkeypatch.setattr(planted.owner, planted.name, planted.wrong(right), raising=False)
    found = (seed for seed in range(SEEDS_MAX) if simulated.find(seed))
    assert next(found, None) is not None
