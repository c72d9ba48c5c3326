"""Stretches are joined where it costs least, and nothing of them is left out."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dest.stretches import at_most
from protocol.geometry import TARGET_PAGE_BYTES, Span

PAGES = st.sets(st.tuples(st.integers(0, 2), st.integers(0, 30)), max_size=40)


def spans_of(pages: set[tuple[int, int]]) -> list[Span]:
    """Return a stretch for each page."""
    return [
        Span(block, page * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES) for block, page in sorted(pages)
    ]


def pages_of(spans: list[Span]) -> set[tuple[int, int]]:
    """Return the pages that stretches hold."""
    return {
        (span.block, page)
        for span in spans
        for page in range(span.target_pages.start, span.target_pages.stop)
    }


@given(PAGES, st.integers(1, 12))
def test_all_is_held_in_few(pages: set[tuple[int, int]], count_max: int) -> None:
    """Every page stays in, blocks stay apart, and there are no more than allowed."""
    joined = at_most(reversed(spans_of(pages)), count_max)
    assert pages_of(joined) >= pages
    assert len(joined) <= max(count_max, len({block for block, _ in pages}))
    assert joined == sorted(joined)
    assert all(one.block != other.block or one.end < other.offset
               for one, other in itertools.pairwise(joined))  # fmt: skip


@given(PAGES)
def test_nothing_is_added_without_need(pages: set[tuple[int, int]]) -> None:
    """As long as there is room only neighbours are joined."""
    assert pages_of(at_most(spans_of(pages), 100)) == pages


def test_the_smallest_gaps_are_closed() -> None:
    """What is added is as little as can be."""
    pages = {(0, 0), (0, 5), (0, 7), (0, 20), (1, 1), (1, 2)}
    assert pages_of(at_most(spans_of(pages), 4)) == pages | {(0, 6)}
    expected = pages | {(0, page) for page in range(1, 7)}
    assert pages_of(at_most(spans_of(pages), 3)) == expected
