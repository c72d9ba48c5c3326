"""In which order a synthetic program visits target pages.

The guest's target pages are ranked, and the ranks cut into *bands*.  A fixed schedule, repeated for
ever, says which band each step visits.  Inside a band a vCPU goes round after round; every round
visits each page of the band once, in an order of its own.  So where step n goes, and how often the
vCPU was there before, follow from n alone: no table, no history.

    uniform     one band, every round in a new pseudo-random order
    sequential  one band in ascending order, each vCPU starting at its own share of it
    hotspot     9 of 10 steps go to a band of a tenth of the pages
    zipf        bands of 1, 2, 4, 8, ... ranks, visited equally often: rank x is visited about
                1/x times as often as rank 1

Which pages are hot is the same for all vCPUs, scattered over the guest by the seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guest.pattern import Words, chain, key_of, permute


@dataclass(frozen=True, eq=False)
class Visits:
    """Where consecutive steps of one vCPU go, as arrays of the same length.

    Attributes:
        flat_pages: The flat target page of each step.
        rounds: How many times the vCPU has visited that page before.
    """

    flat_pages: Words
    rounds: Words


class Bands:
    """The bands of one program over a guest of some target pages.

    Attributes:
        is_sequential: Each round of a band goes up, and does not hop.
        is_scattered: Ranks are not flat target pages.
        scatter_key: Names the permutation that makes these of ranks.
        sizes: How many pages each band has.
        weights: How often a period of the schedule visits each.
        starts: The first rank of each.
        keys: Of each vCPU, for each band.
        schedule: The band of each step of a period.
        earlier: For each step of a period, how many before it have the same band.
    """

    def __init__(self, name: str, page_count: int, vcpu_count: int, seed: int) -> None:
        """Lay out the bands of a program of BAND_PROGRAMS."""
        self.is_sequential = name == "sequential"
        self.is_scattered = name in ("zipf", "hotspot")
        self._page_count = page_count
        self._vcpu_count = vcpu_count
        self.scatter_key = key_of(seed, 3)
        sizes, weights = _layout(name, page_count)
        self.sizes = np.array(sizes, dtype=np.uint64)
        self.weights = np.array(weights, dtype=np.uint64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        band_numbers = np.arange(len(sizes), dtype=np.uint64)
        self.keys = [chain(key_of(seed, 2, vcpu), band_numbers) for vcpu in range(vcpu_count)]
        self.schedule = _spread(weights)
        self.earlier = _count_earlier(self.schedule)

    def visits(self, vcpu: int, first_step: int, count: int) -> Visits:
        """Return where the steps first_step to first_step + count - 1 of a vCPU go."""
        steps = np.arange(first_step, first_step + count, dtype=np.uint64)
        periods, places = np.divmod(steps, np.uint64(len(self.schedule)))
        bands = self.schedule[places]
        sizes = self.sizes[bands]
        # The how-manieth visit of its band each step is, and so which round of the band it is in.
        ordinals = periods * self.weights[bands] + self.earlier[places]
        rounds, indices = np.divmod(ordinals, sizes)
        if self.is_sequential:
            return Visits((indices + np.uint64(self.share(vcpu))) % sizes, rounds)
        keys = chain(self.keys[vcpu][bands], rounds)
        ranks = self.starts[bands] + permute(indices, sizes, keys)
        return Visits(self._scatter(ranks) if self.is_scattered else ranks, rounds)

    def share(self, vcpu: int) -> int:
        """Return the flat target page at which a vCPU begins, if it goes up from there."""
        return vcpu * self._page_count // self._vcpu_count

    def _scatter(self, ranks: Words) -> Words:
        """Return the flat target page of each rank, the same for all vCPUs."""
        page_counts = np.full(len(ranks), self._page_count, dtype=np.uint64)
        return permute(ranks, page_counts, np.broadcast_to(self.scatter_key, len(ranks)))


def _layout(name: str, page_count: int) -> tuple[list[int], list[int]]:
    """Return the size of each band, and how often a period visits it."""
    if name == "hotspot" and page_count > 1:
        hot_count = max(1, page_count // 10)
        return [hot_count, page_count - hot_count], [9, 1]
    if name == "zipf":
        sizes: list[int] = []
        while (left := page_count - sum(sizes)) > 0:
            sizes.append(min(1 << len(sizes), left))
        return sizes, [1] * len(sizes)
    return [page_count], [1]


def _spread(weights: list[int]) -> NDArray[np.int64]:
    """Return a schedule in which each band comes as often as its weight says, evenly spread."""
    schedule = []
    owed = [0] * len(weights)
    for _ in range(sum(weights)):
        owed = [debt + weight for debt, weight in zip(owed, weights, strict=True)]
        band = owed.index(max(owed))
        owed[band] -= sum(weights)
        schedule.append(band)
    return np.array(schedule, dtype=np.int64)


def _count_earlier(schedule: NDArray[np.int64]) -> Words:
    """Return for each place of a schedule how many earlier places have the same band."""
    places = range(len(schedule))
    counts = [int(np.count_nonzero(schedule[:place] == schedule[place])) for place in places]
    return np.array(counts, dtype=np.uint64)
