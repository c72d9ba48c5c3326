"""The tree's prefetchers: what each picks, and what that is worth.

Times are virtual (`tests/prefetch_model.py`), so the counts are the same on every machine.
"""

from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.geometry import Geometry, PageId
from protocol.pageset import PageSet
from protocol.policy import PRESETS, Policy
from source.prefetchers.bubbling import PIVOT_COUNT_MAX, TURN_BYTES, Bubbling
from source.prefetchers.read_ahead import ReadAhead
from source.prefetchers.recorded import Recorded
from source.prefetchers.schemes import bubbling, no_prefetch, on_no_prefetch, read_ahead, stride
from source.prefetchers.streams import STREAM_COUNT_MAX, WINDOW_PAGES_MAX
from source.prefetchers.stride import STRIDE_PAGES_MAX, Stride
from source.scheme import Prefetcher, Remaining, Scheme
from tests.prefetch_model import PAGE_COUNTS, Ran, run, touches_of
from tests.scheduled import BASE, HUGE, MIXED, Wire, guest, page, set_of, target_pages

PAGES = guest((1000, BASE), (10, BASE))

PAGE_SIZES = sorted(PAGE_COUNTS)
KINDS = ("sequential", "strided", "zipf", "uniform")


class Asked:
    """A prefetcher that is told of requests and asked, each page of which then is sent."""

    def __init__(self, prefetcher: Prefetcher, sent: Iterable[int] = ()) -> None:
        """Have a guest of which some pages were sent."""
        self.prefetcher = prefetcher
        self.left = set_of(PAGES, [target_pages(0, 1000), target_pages(0, 10, 1)])
        self.view = Remaining(self.left)
        for index in sent:
            self.send(page(index))
        prefetcher.restart(PAGES, self.view)

    def send(self, which: PageId) -> None:
        """Have a page sent."""
        self.left.discard(which.block, which.index)

    def request(self, *indices: int, block: int = 0, answer: str = "queued") -> None:
        """Have pages asked for, which are sent for that."""
        for index in indices:
            self.prefetcher.requested(PageId(block, index), 0, 0, answer)
            self.send(PageId(block, index))

    def picks(self, count: int = 1000) -> list[int]:
        """Return the next picks, each of which is sent."""
        picked = []
        for _ in range(count):
            pick = self.prefetcher.next(self.view)
            if pick is None:
                break
            found = PageId(*pick[0])
            assert self.view.holds(found)
            self.send(found)
            picked.append(found.index)
        return picked


def test_read_ahead_wants_two_in_a_row() -> None:
    """One page is read alone; the one behind it begins a window of four."""
    asked = Asked(ReadAhead())
    asked.request(100)
    assert asked.picks() == []
    asked.request(101)
    assert asked.picks() == [102, 103, 104, 105]
    asked.request(500)
    assert asked.picks() == []


def test_read_ahead_doubles_its_window_up_to_its_most() -> None:
    """Each window that is used up is followed by one of twice the size."""
    asked, behind = Asked(ReadAhead()), 11
    sizes: list[int] = []
    asked.request(10, 11)
    while len(sizes) < 6:
        picked = asked.picks()
        assert picked == list(range(behind + 1, behind + 1 + len(picked)))
        sizes.append(len(picked))
        behind = picked[-1] + 1
        asked.request(behind)
    assert sizes == [4, 8, 16, WINDOW_PAGES_MAX, WINDOW_PAGES_MAX, WINDOW_PAGES_MAX]


def test_a_page_that_comes_too_late_moves_the_window_on() -> None:
    """A request inside of a window drops what is before it, and makes it larger."""
    asked = Asked(ReadAhead())
    asked.request(10, 11)
    assert asked.picks(1) == [12]
    asked.request(14)
    assert asked.picks() == list(range(15, 23))
    asked.request(14, answer="duplicate")
    assert asked.picks() == []


def test_streams_run_beside_each_other() -> None:
    """The stream that was asked for last comes first; of too many the oldest is forgotten."""
    asked = Asked(ReadAhead())
    asked.request(100, 200, 101, 201)
    assert asked.picks(5) == [202, 203, 204, 205, 102]
    asked.request(206)
    assert asked.picks(2) == [207, 208]
    for number in range(STREAM_COUNT_MAX):
        asked.request(300 + 20 * number, 301 + 20 * number)
    asked.picks()
    asked.request(106)
    assert asked.picks() == []


def test_read_ahead_ends_with_its_block() -> None:
    """There is nothing behind the last page, and no page of another block."""
    asked = Asked(ReadAhead())
    asked.request(996, 997)
    assert asked.picks() == [998, 999]
    asked.request(8, block=1)
    assert asked.picks() == []
    asked.request(9, block=1)
    assert asked.picks() == []


def test_read_ahead_passes_over_what_was_sent() -> None:
    """What went before is no reason to stop."""
    asked = Asked(ReadAhead(), sent=(12, 13))
    asked.request(10, 11)
    assert asked.picks() == [14, 15]


@pytest.mark.parametrize("step", [3, -3, 1, STRIDE_PAGES_MAX])
def test_a_stride_is_found_by_three_requests(step: int) -> None:
    """Two equal distances make one, upwards or downwards, and it goes on behind the third."""
    asked = Asked(Stride())
    asked.request(400, 400 + step)
    assert asked.picks() == []
    asked.request(400 + 2 * step)
    expected = [400 + number * step for number in range(3, 7)]
    assert asked.picks() == [index for index in expected if 0 <= index < 1000]


def test_strides_are_found_between_each_other() -> None:
    """Requests of several vCPUs come mixed."""
    asked = Asked(Stride())
    asked.request(100, 700, 105, 690, 110)
    assert asked.picks() == [115, 120, 125, 130]
    asked.request(680)
    assert asked.picks() == [670, 660, 650, 640]


def test_what_is_far_apart_makes_no_stride() -> None:
    """Nor do three that are not equally far apart, or the same one again."""
    asked = Asked(Stride())
    asked.request(0, STRIDE_PAGES_MAX + 1, 2 * STRIDE_PAGES_MAX + 2)
    asked.request(310, 320, 335)
    asked.request(335, 335, answer="already-sent")
    assert asked.picks() == []


# Base pages in a bubble's turn.
TURN = TURN_BYTES // BASE


def test_a_bubble_grows_to_both_sides() -> None:
    """Upwards and downwards in turn; where one side has ended the other goes on."""
    asked = Asked(Bubbling(), sent=(105,))
    asked.request(103)
    up = [104, *range(106, 105 + TURN)]
    down = [*range(102, 102 - TURN, -1)]
    assert asked.picks(2 * TURN) == up + down
    asked = Asked(Bubbling())
    asked.request(3)
    up = [*range(4, 4 + TURN)]
    assert asked.picks(TURN + 3 + TURN + 2) == [*up, 2, 1, 0, *range(4 + TURN, 6 + 2 * TURN)]


def test_a_bubble_of_huge_pages_turns_after_each() -> None:
    """One is more than a turn has."""
    geometry = guest((32, HUGE))
    left = set_of(geometry, [target_pages(0, 32 * HUGE // BASE)])
    prefetcher, view = Bubbling(), Remaining(left)
    prefetcher.restart(geometry, view)
    prefetcher.requested(page(9), 0, 0, "queued")
    picked = [prefetcher.next(view) for _ in range(4)]
    assert [pick.page.index for pick in picked if pick is not None] == [10, 8, 11, 7]


def test_bubbles_grow_in_turn_the_newest_first() -> None:
    """Each fault is a pivot; a new one does not wait for the end of another's turn."""
    asked = Asked(Bubbling())
    asked.request(100, 500)
    assert asked.picks(TURN) == [*range(501, 501 + TURN)]
    assert asked.picks(TURN) == [*range(101, 101 + TURN)]
    assert asked.picks(2) == [499, 498]
    asked.request(900)
    assert asked.picks(TURN) == [*range(901, 901 + TURN)]
    assert asked.picks(TURN - 2) == [*range(497, 499 - TURN, -1)]
    assert asked.picks(1) == [99]


@given(left=st.sets(st.integers(0, 19), max_size=4), inside=st.integers(0, 511))
@example(left={19}, inside=511)
@example(left={0}, inside=0)
@pytest.mark.parametrize("per_page", [1, 512])
def test_the_nearest_page_is_found(per_page: int, left: set[int], inside: int) -> None:
    """In either direction, of small pages and of huge ones of which a part remains."""
    geometry = guest((20, per_page * BASE), (20, BASE))
    pages = PageSet(geometry)
    for each in left:
        pages.add(target_pages(each * per_page + inside % per_page, 1))
    pages.add(target_pages(0, 20, 1))
    view = Remaining(pages)
    for index, step, count in product(range(-3, 24), (1, -1), (0, 1, 2, 19, 25)):
        looked_at = range(index, index + step * count, step)
        expected = next((page(each) for each in looked_at if each in left), None)
        assert view.nearest(page(index), step, count) == expected


def test_there_are_only_so_many_pivots() -> None:
    """One more takes the place of that whose turn would have come last."""
    asked = Asked(Bubbling())
    asked.request(*range(50, 50 + 100 * (PIVOT_COUNT_MAX + 1), 100))
    picked = asked.picks(PIVOT_COUNT_MAX * TURN)
    assert sorted(picked[::TURN]) == [151 + 100 * number for number in range(PIVOT_COUNT_MAX)]


def test_a_bubble_ends_where_another_has_been() -> None:
    """It does not search a guest that is all sent for the page that is not."""
    asked = Asked(Bubbling(), sent=range(400, 1000))
    asked.request(700)
    assert asked.picks() == []


def test_a_recording_is_replayed_in_its_order() -> None:
    """Each page once, but for what was sent meanwhile; after a break from its beginning."""
    recorded = Recorded(lambda _: [page(7), page(3), page(7), page(9), page(5)])
    asked = Asked(recorded)
    assert asked.picks(1) == [7]
    asked.request(9)
    assert asked.picks() == [3, 5]
    asked.left.add(target_pages(7, 1))
    recorded.restart(PAGES, asked.view)
    assert asked.picks() == [7]


@cache
def ran(policy: Policy, page_bytes: int, kind: str) -> Ran:
    """Return what comes of a kind of trace under a policy."""
    return run(policy, page_bytes, touches_of(kind, page_bytes))


def recording_of(page_bytes: int, kind: str) -> Policy:
    """Return the scheme that replays a run in which no page came unasked: all that is touched."""
    pages = [page(index) for _, index in touches_of(kind, page_bytes)]

    def pages_of(_: Geometry) -> list[PageId]:
        return pages

    return on_no_prefetch("recorded", prefetcher=lambda: Recorded(pages_of))


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_read_ahead_at_least_halves_sequential_faults(page_bytes: int) -> None:
    """Faults over the network, and the time that they take."""
    with_it, without = (ran(each, page_bytes, "sequential") for each in (read_ahead, no_prefetch))
    assert 2 * len(with_it.faults) <= len(without.faults)
    assert 2 * with_it.blocked_ns <= without.blocked_ns


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_stride_at_least_halves_strided_faults(page_bytes: int) -> None:
    """Where read-ahead finds nothing to do."""
    with_it, without, ahead = (
        len(ran(each, page_bytes, "strided").faults) for each in (stride, no_prefetch, read_ahead)
    )
    assert 2 * with_it <= without
    assert ahead == without


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_a_recording_avoids_nine_in_ten_faults_on_itself(page_bytes: int, kind: str) -> None:
    """Whatever the order of its pages is."""
    touches = touches_of(kind, page_bytes)
    with_it = run(recording_of(page_bytes, kind), page_bytes, touches)
    touched = len({index for _, index in touches})
    assert len(with_it.faults) <= touched / 10


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_nobody_is_worse_where_there_is_nothing_to_foresee(page_bytes: int) -> None:
    """On uniform touches a prefetcher costs no more than one fault in twenty."""
    without = ran(no_prefetch, page_bytes, "uniform")
    for scheme in (read_ahead, stride, bubbling):
        with_it = ran(scheme, page_bytes, "uniform")
        assert len(with_it.faults) <= 1.05 * len(without.faults), scheme.name
        assert with_it.blocked_ns <= 1.05 * without.blocked_ns, scheme.name


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("prefetcher", [ReadAhead, Stride, Bubbling])
def test_each_goes_with_any_switches(name: str, prefetcher: type[Prefetcher]) -> None:
    """All of a guest goes, once, whatever else the policy does."""
    switches = {each.name: getattr(PRESETS[name], each.name) for each in fields(Policy)}
    wire = Wire(Scheme(**switches, prefetcher=prefetcher), MIXED, postcopy=True)
    for index in (9, 10, 11, 40, 37, 34, 31):
        wire.request(page(index))
        wire.send()
    wire.request(page(1, 1), 300)
    wire.drain()
    assert wire.scheduler.prefetched is not None
    assert wire.scheduler.prefetched.pages.length_bytes > 0
    assert not wire.scheduler.policy_failure
    wire.assert_all_sent_once()
