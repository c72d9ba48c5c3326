"""Tests of protocol/runs.py: scattered stretches, beside sets of target pages."""

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Span
from protocol.limits import RUN_COUNT_MAX
from protocol.runs import Runs, at_most, hull_of, overlap, pack_runs, unpack_runs

BASE = TARGET_PAGE_BYTES
PAGES = st.sets(st.integers(0, 60), min_size=1).map(sorted)
SPANS = st.tuples(st.integers(0, 60), st.integers(1, 30)).map(
    lambda drawn: Span(0, drawn[0] * BASE, drawn[1] * BASE)
)
SCATTERED = st.sets(st.tuples(st.integers(0, 2), st.integers(0, 30)), max_size=40)


def runs_of(pages: list[int], block: int = 0) -> Runs:
    """Return target pages as runs."""
    return Runs.of_target_pages(block, np.array(pages))


def pairs(*numbers: int) -> bytes:
    """Return packed runs by their very numbers."""
    return struct.pack(f">{len(numbers)}I", *numbers)


@given(PAGES)
def test_runs_are_the_pages_that_they_are_made_of(pages: list[int]) -> None:
    """Target pages come back, in as few runs as can be, with the bytes and ends that they have."""
    runs = runs_of(pages)
    assert runs.target_pages.tolist() == pages
    assert len(runs) == sum(page - 1 not in pages for page in pages)
    assert (runs.length, runs.offset, runs.end) == (
        len(pages) * BASE, pages[0] * BASE, (pages[-1] + 1) * BASE
    )  # fmt: skip
    assert hull_of(runs) == Span(0, runs.offset, runs.end - runs.offset)
    assert [at for span in runs.spans() for at in range(span.offset, span.end, BASE)] == [
        page * BASE for page in pages
    ]
    assert runs == runs_of(pages)
    assert runs != runs_of(pages, block=1)
    marks = bytearray(at in pages for at in range(pages[0], pages[-1] + 1))
    marked = Runs(0, runs.offset, runs.end, runs.length, marks)
    assert (marked.length, marked.offset, marked.end) == (runs.length, runs.offset, runs.end)
    assert marked.target_pages.tolist() == pages
    assert marked == runs
    assert hash(runs) == hash(runs_of(pages))


@given(PAGES, SPANS, st.integers(0, 61 * BASE))
def test_overlaps_are_counted_in_bytes(pages: list[int], span: Span, received: int) -> None:
    """What a span has of the runs is counted, without what came of them already."""
    runs = runs_of(pages)
    inside = [page * BASE in range(span.offset, span.end) for page in pages]
    assert runs.overlap_bytes(span) == sum(inside) * BASE
    left = [min(BASE, max(0, (place + 1) * BASE - received)) for place in range(len(pages))]
    assert runs.overlap_bytes(span, received) == sum(
        part for part, is_inside in zip(left, inside, strict=True) if is_inside
    )
    assert overlap(runs, span) == overlap(span, runs) == any(inside)
    assert not overlap(runs, Span(1, 0, 61 * BASE))
    assert Runs.of_span(span).overlap_bytes(span) == span.length


@given(PAGES, PAGES)
def test_two_sets_of_runs_overlap_where_they_share_a_page(one: list[int], two: list[int]) -> None:
    """That their hulls overlap is not enough."""
    assert overlap(runs_of(one), runs_of(two)) == bool(set(one) & set(two))


@given(PAGES, st.integers(1, 20))
def test_pages_are_counted_once(pages: list[int], per_page: int) -> None:
    """Runs in the same page are in one page, and a run may reach through several."""
    assert runs_of(pages).page_count(per_page) == len({page // per_page for page in pages})


@given(PAGES, st.data())
def test_runs_are_divided_where_a_flag_changes(pages: list[int], data: st.DataObject) -> None:
    """Divided runs hold the same pages, each run of one flag, and can be had by their flag."""
    drawn = data.draw(st.lists(st.booleans(), min_size=len(pages), max_size=len(pages)))
    flags = np.array(drawn)
    runs, flag_of_run = runs_of(pages).divided(flags)
    assert runs.target_pages.tolist() == pages
    assert np.repeat(flag_of_run, runs.counts).tolist() == drawn
    assert len(runs) == sum(
        place == 0 or pages[place - 1] != page - 1 or drawn[place - 1] != drawn[place]
        for place, page in enumerate(pages)
    )
    chosen = runs.where(flag_of_run)
    assert (chosen.target_pages.tolist() if chosen else []) == [
        page for page, flag in zip(pages, drawn, strict=True) if flag
    ]


@given(PAGES, st.integers(0, 1 << 30), st.data())
@settings(max_examples=50)
def test_packed_runs_come_back(pages: list[int], first: int, data: st.DataObject) -> None:
    """What was packed is unpacked, wherever in the block it lies."""
    runs = runs_of([first + page for page in pages])
    is_zero = np.array(data.draw(st.lists(st.booleans(), min_size=len(runs), max_size=len(runs))))
    packed = pack_runs(runs, is_zero)
    assert len(packed) == 8 * len(runs)
    unpacked, was_zero = unpack_runs(0, runs.offset, packed)
    assert unpacked == runs
    assert was_zero.tolist() == is_zero.tolist()


ZERO = 1 << 31


@pytest.mark.parametrize(
    ("packed", "offset"),
    [
        (b"", 0),
        (bytes(7), 0),
        (pairs(0, 1) + b"x", 0),
        (pairs(*(number for run in range(RUN_COUNT_MAX + 1) for number in (2 * run, 1))), 0),
        (pairs(0, 1), 1),
        (pairs(0, 1), BASE - 1),
        (pairs(1, 1), 0),
        (pairs(0, 0), 0),
        (pairs(0, ZERO), 0),
        (pairs(0, 1, 5, 0), 0),
        (pairs(0, 2, 1, 1), 0),
        (pairs(0, 2, 1, 1 | ZERO), 0),
        (pairs(0, 1, 0, 1), 0),
        (pairs(0, 1, 9, 1, 5, 1), 0),
        (pairs(0, ZERO - 1, ZERO - 2, 1), 0),
    ],
)  # fmt: skip
def test_packed_runs_of_a_hostile_peer(packed: bytes, offset: int) -> None:
    """Too many, none, cut off, unaligned, empty, out of order, overlapping: the peer's fault."""
    with pytest.raises(RemoteProtocolError):
        unpack_runs(0, offset, packed)


@pytest.mark.parametrize("offset", [0, (1 << 63) - BASE])
def test_the_largest_numbers_stay_numbers(offset: int) -> None:
    """Runs at the far end of what can be said have ends that can be compared with a block's."""
    runs, _ = unpack_runs(63, offset, pairs(0, ZERO - 1, ZERO - 1, 1, 0xFFFFFFFF, 0xFFFFFFFF))
    assert runs.length == (ZERO - 1 + 1 + ZERO - 1) * BASE
    assert runs.end == offset + (0xFFFFFFFF + ZERO - 1) * BASE
    assert runs.hull.length == runs.end - offset


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


@given(SCATTERED, st.integers(1, 12))
def test_all_is_held_in_few(pages: set[tuple[int, int]], count_max: int) -> None:
    """Every page stays in, blocks stay apart, and there are no more than allowed."""
    joined = at_most(reversed(spans_of(pages)), count_max)
    assert pages_of(joined) >= pages
    assert len(joined) <= max(count_max, len({block for block, _ in pages}))
    assert joined == sorted(joined)
    assert all(one.block != other.block or one.end < other.offset
               for one, other in itertools.pairwise(joined))  # fmt: skip


@given(SCATTERED)
def test_nothing_is_added_without_need(pages: set[tuple[int, int]]) -> None:
    """As long as there is room only neighbours are joined."""
    assert pages_of(at_most(spans_of(pages), 100)) == pages


def test_the_smallest_gaps_are_closed() -> None:
    """What is added is as little as can be."""
    pages = {(0, 0), (0, 5), (0, 7), (0, 20), (1, 1), (1, 2)}
    assert pages_of(at_most(spans_of(pages), 4)) == pages | {(0, 6)}
    expected = pages | {(0, page) for page in range(1, 7)}
    assert pages_of(at_most(spans_of(pages), 3)) == expected
