"""Tests of scripts/injection/marks.py: holds and passings; `test_tap.py` has the rest."""

import pytest

from protocol.channels import Channel
from protocol.geometry import Geometry, PageId, RamBlock, Span
from scripts.injection.marks import Marks, Passing, ShareMark

PAGE_BYTES = 2 << 20
GEOMETRY = Geometry((RamBlock("ram", 4 * PAGE_BYTES, PAGE_BYTES), RamBlock("rom", 16384, 4096)))
PAGE = PageId(0, 1)
PRECOPY, POSTCOPY = Channel.PRECOPY, Channel.POSTCOPY


def span(start: int, stop: int) -> Span:
    """Return a stretch of the page."""
    return Span(0, PAGE_BYTES + start, stop - start)


@pytest.mark.parametrize("share", [0, 0.25])
def test_a_held_page_passes_up_to_its_byte(share: float) -> None:
    """Of a page that is held so much passes, wherever a stretch begins; other pages pass."""
    most = int(share * PAGE_BYTES)
    marks = Marks(GEOMETRY, [], watched=[PAGE])
    marks.hold(PAGE, share, tuple(Channel))
    for channel in Channel:
        assert marks.page_limit(channel, span(0, 1 << 20)) == most
        assert marks.page_limit(channel, span(-4096, 1 << 20)) == 4096 + most
        assert marks.page_limit(channel, Span(1, 0, 8192)) == 8192
    marks.page_passed(PRECOPY, span(0, most))
    assert marks.page_limit(POSTCOPY, span(most, 1 << 20)) == 0
    # What has passed may pass again.
    assert marks.page_limit(POSTCOPY, span(0, 1 << 20)) == most
    assert marks.is_held(PRECOPY, span(most, most + 1))
    marks.release(PAGE)
    assert marks.page_limit(PRECOPY, span(most, 1 << 20)) == (1 << 20) - most
    assert not marks.is_held(PRECOPY, span(most, 1 << 20))


def test_a_page_is_held_only_where_it_is_wanted() -> None:
    """A hold of one channel lets the other's bytes pass; they count."""
    marks = Marks(GEOMETRY, [], watched=[PAGE])
    marks.hold(PAGE, 0.5, (PRECOPY,))
    marks.page_passed(POSTCOPY, span(0, PAGE_BYTES // 2))
    assert marks.page_limit(POSTCOPY, span(PAGE_BYTES // 2, PAGE_BYTES)) == PAGE_BYTES // 2
    assert marks.page_limit(PRECOPY, span(PAGE_BYTES // 2, PAGE_BYTES)) == 0
    assert marks.page_limit(None, span(PAGE_BYTES // 2, PAGE_BYTES)) == PAGE_BYTES // 2


def test_a_hold_counts_anew_from_the_switch_over() -> None:
    """What precopy brought of a page is stale where it comes again."""
    marks = Marks(GEOMETRY, [], watched=[PAGE])
    marks.page_passed(PRECOPY, span(0, PAGE_BYTES))
    marks.hold(PAGE, 0.25, (PRECOPY,))
    marks.switched_over()
    assert marks.page_limit(PRECOPY, span(0, PAGE_BYTES)) == PAGE_BYTES // 4


def test_a_share_may_be_of_postcopy() -> None:
    """A mark of postcopy is not reached before, and counts nothing of what went before."""
    late, early = ShareMark(PAGE, 0.25, in_postcopy=True), ShareMark(PAGE, 0.25)
    marks = Marks(GEOMETRY, [late, early])
    assert marks.page_limit(PRECOPY, span(0, PAGE_BYTES)) == PAGE_BYTES // 4
    assert marks.page_passed(PRECOPY, span(0, PAGE_BYTES)) == [early]
    marks.switched_over()
    assert marks.page_limit(PRECOPY, span(0, PAGE_BYTES)) == PAGE_BYTES // 4
    assert marks.page_passed(PRECOPY, span(0, PAGE_BYTES // 4 - 1)) == []
    assert marks.page_passed(POSTCOPY, span(PAGE_BYTES // 4 - 1, PAGE_BYTES // 4)) == [late]


def test_the_last_passing_of_a_page_is_remembered() -> None:
    """When a watched page's last byte passed, and whether all of it has by then."""
    other = PageId(0, 2)
    marks = Marks(GEOMETRY, [], watched=[PAGE, other])
    marks.page_passed(PRECOPY, span(0, 4096), 5)
    marks.switched_over()
    assert marks.passings == {}
    marks.page_passed(PRECOPY, span(4096, PAGE_BYTES), 7)
    assert marks.passings == {PAGE: Passing(2, 7, is_whole=False)}
    marks.page_passed(POSTCOPY, span(0, PAGE_BYTES + 4096), 9)
    assert marks.passings == {
        PAGE: Passing(3, 9, is_whole=True), other: Passing(4, 9, is_whole=False)
    }  # fmt: skip
    assert marks.carriers == {PAGE: [PRECOPY, POSTCOPY], other: [POSTCOPY]}
