"""Fewer stretches that hold the same: neighbours are joined, then those that are closest."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import pairwise

from protocol.geometry import Span


def at_most(spans: Iterable[Span], count_max: int) -> list[Span]:
    """Return stretches that hold all of the given ones, in ascending order.

    Args:
        spans: In any order, apart from each other.
        count_max: The most that may be returned, at least one a block; where there are more, those
            are joined whose gaps are smallest, so that as little as possible lies between them.
    """
    spans = sorted(spans)
    # A gap of nothing is always closed; one between blocks never.
    gaps = [
        (after.offset - before.end, place)
        for place, (before, after) in enumerate(pairwise(spans), 1)
        if before.block == after.block
    ]
    joined = {place for gap_bytes, place in gaps if not gap_bytes}
    open_gaps = [gap for gap in gaps if gap[1] not in joined]
    excess = len(spans) - len(joined) - count_max
    joined.update(place for _, place in heapq.nsmallest(excess, open_gaps))
    result: list[Span] = []
    for place, span in enumerate(spans):
        if place in joined:
            begin = result.pop()
            result.append(Span(begin.block, begin.offset, span.end - begin.offset))
        else:
            result.append(span)
    return result
