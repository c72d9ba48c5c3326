"""Fewer stretches that hold the same: neighbours are joined, then those that are closest."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np

from protocol.geometry import Span


def at_most(spans: Iterable[Span], count_max: int) -> list[Span]:
    """Return stretches that hold all of the given ones, in ascending order.

    The guest stands still meanwhile, and tens of thousands may be given: hence the arrays.

    Args:
        spans: In any order, apart from each other.
        count_max: The most that may be returned, at least one a block; where there are more, those
            are joined whose gaps are smallest, so that as little as possible lies between them.
    """
    fields = np.fromiter(chain.from_iterable(spans), np.int64).reshape(-1, 3)
    blocks, begins, lengths = fields[np.lexsort((fields[:, 1], fields[:, 0]))].T
    if not len(blocks):
        return []
    ends = begins + lengths
    gaps = begins[1:] - ends[:-1]
    may_join = blocks[1:] == blocks[:-1]
    joined = may_join & (gaps == 0)
    excess = len(blocks) - int(np.count_nonzero(joined)) - count_max
    if excess > 0:
        open_gaps = np.flatnonzero(may_join & ~joined)
        joined[open_gaps[np.argsort(gaps[open_gaps], kind="stable")[:excess]]] = True
    first = np.flatnonzero(np.concatenate(([True], ~joined)))
    last = np.append(first[1:], len(blocks)) - 1
    result = zip(blocks[first], begins[first], ends[last] - begins[first], strict=True)
    return [Span(int(block), int(begin), int(length)) for block, begin, length in result]
