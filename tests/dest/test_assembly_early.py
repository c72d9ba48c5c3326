"""Target pages that are placed before their page is whole, or before their frame has ended."""

import pytest

from protocol.geometry import PageId, Span
from protocol.runs import Runs
from tests.assembled import (
    BASE,
    HALF,
    POSTCOPY,
    PRECOPY,
    in_postcopy,
    incomplete,
    page_span,
    receive,
)


def test_a_critical_unit_is_whole_by_itself() -> None:
    """Under a critical policy what has come of a huge page is placed, and the rest is not."""
    assembly = in_postcopy([page_span(0), page_span(1)], "critical-first")
    touched = Span(0, 7 * BASE, BASE)
    assert receive(assembly, POSTCOPY, touched) == touched
    rest = Span(0, 8 * BASE, 16 * BASE)
    assert receive(assembly, PRECOPY, rest) == rest
    assert [assembly.is_placed(PageId(0, unit)) for unit in (6, 7, 8, 23, 24, 1024)] == [
        False, True, True, True, False, True,
    ]  # fmt: skip
    assert incomplete(assembly) == [Span(0, 0, 7 * BASE), Span(0, 24 * BASE, 1000 * BASE)]
    assert not assembly.is_whole(page_span(0))
    assert assembly.received_bytes(PageId(0, 0)) == 17 * BASE
    assert assembly.channel_of(PageId(0, 0)) is None


def test_a_unit_is_whole_before_its_frame_is() -> None:
    """What has come of a frame under way can be taken for whole, once, and nothing else of it."""
    assembly = in_postcopy([page_span(0)], "critical-first")
    assembly.begin(PRECOPY, Span(0, 8 * BASE, 4 * BASE))
    assembly.progress(PRECOPY, 2 * BASE - 1)
    units = [PageId(block, unit) for block in (0, 1) for unit in (7, 8, 9, 12)]
    assert assembly.come_early(PRECOPY, units) == [PageId(0, 8)]
    assert assembly.take_early(PageId(0, 9)) is None
    assert assembly.take_early(PageId(0, 8)) is PRECOPY
    assert assembly.is_placed(PageId(0, 8))
    assert not assembly.is_placed(PageId(0, 9))
    assembly.progress(PRECOPY, 2 * BASE + 1)
    assert assembly.end(PRECOPY) == Runs.of_span(Span(0, 9 * BASE, 3 * BASE))
    assert incomplete(assembly) == [Span(0, 0, 8 * BASE), Span(0, 12 * BASE, 500 * BASE)]


def test_what_was_taken_early_stays_whole_when_its_frame_breaks_off() -> None:
    """After a break only what came and was not taken before is told as whole."""
    assembly = in_postcopy([page_span(0)], "critical-first")
    assembly.begin(PRECOPY, Span(0, 0, 8 * BASE))
    assembly.progress(PRECOPY, 3 * BASE)
    assert assembly.take_early(PageId(0, 1)) is PRECOPY
    assert assembly.interrupt() == [Span(0, 0, BASE), Span(0, 2 * BASE, BASE)]
    assert incomplete(assembly) == [Span(0, 3 * BASE, 509 * BASE)]


@pytest.mark.parametrize("policy", ["ordered", "resend"])
def test_no_part_of_a_huge_page_is_whole_early(policy: str) -> None:
    """Where a huge page is placed at once, or may come twice, nothing of it is whole early."""
    assembly = in_postcopy([page_span(0)], policy)
    assembly.begin(PRECOPY, page_span(0))
    assembly.progress(PRECOPY, HALF)
    assert assembly.take_early(PageId(0, 0)) is None
    assert not assembly.is_placed(PageId(0, 0))
