"""Where a step goes, and how often its vCPU was there before, follows from the step alone."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.bands import Bands
from guest.spec import BAND_PROGRAMS

NAMES = st.sampled_from(BAND_PROGRAMS)


@given(
    name=NAMES,
    page_count=st.integers(1, 200),
    vcpu_count=st.integers(1, 5),
    seed=st.integers(0, 2**64 - 1),
    data=st.data(),
)
def test_rounds_count_earlier_visits(
    name: str, page_count: int, vcpu_count: int, seed: int, data: st.DataObject
) -> None:
    """The closed form agrees with a naive count of visits, step by step."""
    vcpu = data.draw(st.integers(0, vcpu_count - 1))
    visits = Bands(name, page_count, vcpu_count, seed).visits(vcpu, 0, 1500)
    seen: Counter[int] = Counter()
    for page, visit_round in zip(visits.flat_pages.tolist(), visits.rounds.tolist(), strict=True):
        assert 0 <= page < page_count
        assert visit_round == seen[page]
        seen[page] += 1


@given(name=NAMES, page_count=st.integers(1, 200), cuts=st.lists(st.integers(0, 500), max_size=5))
def test_any_cut_gives_the_same_visits(name: str, page_count: int, cuts: list[int]) -> None:
    """Visits do not depend on how the steps are asked for."""
    bands = Bands(name, page_count, 2, 3)
    bounds = [0, *sorted(cuts), 500]
    parts = [bands.visits(1, a, b - a) for a, b in pairwise(bounds)]
    whole = bands.visits(1, 0, 500)
    assert np.array_equal(np.concatenate([part.flat_pages for part in parts]), whole.flat_pages)
    assert np.array_equal(np.concatenate([part.rounds for part in parts]), whole.rounds)


@pytest.mark.parametrize("name", ["uniform", "sequential"])
@pytest.mark.parametrize("page_count", [1, 2, 100, 128, 129])
def test_one_band_visits_every_page_once_a_round(name: str, page_count: int) -> None:
    """Each round of uniform and sequential goes over the whole guest."""
    visits = Bands(name, page_count, 1, 5).visits(0, 3 * page_count, page_count)
    assert sorted(visits.flat_pages.tolist()) == list(range(page_count))
    assert set(visits.rounds.tolist()) == {3}


def test_uniform_changes_its_order() -> None:
    """Two rounds, two vCPUs and two seeds all go different ways."""
    bands = Bands("uniform", 100, 2, 5)
    orders = [
        bands.visits(0, 0, 100),
        bands.visits(0, 100, 100),
        bands.visits(1, 0, 100),
        Bands("uniform", 100, 2, 6).visits(0, 0, 100),
    ]
    assert len({tuple(order.flat_pages.tolist()) for order in orders}) == 4


def test_sequential_starts_each_vcpu_at_its_share() -> None:
    """The vCPUs ascend, a share of the guest apart, and go round."""
    bands = Bands("sequential", 10, 2, 5)
    assert bands.visits(0, 0, 12).flat_pages.tolist() == [*range(10), 0, 1]
    assert bands.visits(1, 0, 12).flat_pages.tolist() == [*range(5, 10), *range(7)]


def test_hotspot_gives_nine_of_ten_steps_to_a_tenth_of_the_pages() -> None:
    """The hot tenth is the same for all vCPUs, and not simply the guest's beginning."""
    bands = Bands("hotspot", 1000, 2, 5)
    hot = []
    for vcpu in (0, 1):
        counts = np.bincount(bands.visits(vcpu, 0, 10_000).flat_pages.astype(int), minlength=1000)
        hot.append(set(np.flatnonzero(counts >= 50).tolist()))
        assert np.sort(counts)[-100:].sum() == 9000
    assert hot[0] == hot[1]
    assert hot[0] != set(range(100))


def test_zipf_halves_the_share_as_the_rank_doubles() -> None:
    """Every octave of ranks gets the same number of visits."""
    counts = np.bincount(
        Bands("zipf", 1023, 1, 5).visits(0, 0, 10_230).flat_pages.astype(int), minlength=1023
    )
    ranked = np.sort(counts)[::-1]
    for octave in range(10):
        assert ranked[(1 << octave) - 1 : (2 << octave) - 1].sum() == 1023


def test_steps_far_ahead_are_computed_at_once() -> None:
    """A month of steps costs nothing to skip."""
    visits = Bands("uniform", 1000, 1, 5).visits(0, 1 << 39, 10)
    assert visits.rounds.tolist() == [(step // 1000) for step in range(1 << 39, (1 << 39) + 10)]
