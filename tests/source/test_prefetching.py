"""What prefetchers pick goes before the scan, in frames as they may be, and is accounted for."""

from typing import Any

import pytest

from protocol import events
from protocol.channels import Channel
from protocol.geometry import PageId, Span
from source.jobs import Answer, Lane
from source.prefetched import CAUSE_COUNT_MAX, OTHER_CAUSES, Prefetched
from source.scheme import HalfSent, Order, Pick, Prefetcher, Remaining, Scheme
from tests.scheduled import (
    BASE,
    CHUNK,
    HUGE,
    MIXED,
    Wire,
    guest,
    in_order,
    page,
    pages,
    runs_of,
    set_of,
    target_pages,
)
from tests.schemes import Backwards, HalfSentFirst, Jumper, NewestFirst, ReadAhead


def scheme(
    prefetcher: type[Prefetcher] | None = None,
    order: type[Order] | None = None,
    **switches: Any,  # noqa: ANN401 - as Policy has them
) -> Scheme:
    """Return a policy of somebody's, whose scan stays where it is unless told otherwise."""
    return Scheme("mine", **{"locality": False} | switches, prefetcher=prefetcher, order=order)


def prefetched_of(wire: Wire) -> Prefetched:
    """Return what a wire's prefetcher has picked."""
    assert wire.scheduler.prefetched is not None
    return wire.scheduler.prefetched


def picking(*picks: Pick | tuple[PageId, str]) -> type[Prefetcher]:
    """Return a prefetcher's class that picks these, one after the other, when it is asked."""

    class Picking(Prefetcher):
        def __init__(self) -> None:
            self.picks = list(picks)

        def next(self, remaining: Remaining) -> Pick | tuple[PageId, str] | None:
            return self.picks.pop(0) if self.picks else None

    return Picking


def test_huge_pages_go_one_by_one_before_the_scan() -> None:
    """Behind a request the four next pages go, on the precopy channel and not urgent."""
    wire = Wire(scheme(ReadAhead), guest((12, HUGE)), postcopy=True)
    wire.request(page(5))
    chunks = wire.drain()
    assert in_order(chunks) == pages(5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 10, 11)
    for chunk in chunks:
        is_asked_for = chunk.page == page(5)
        assert chunk.urgent == is_asked_for
        assert chunk.channel is (Channel.POSTCOPY if is_asked_for else Channel.PRECOPY)
    wire.assert_all_sent_once()


def test_base_pages_go_together_in_one_frame() -> None:
    """What is picked one after the other in one block goes in a frame, ascending."""
    picks = [(page(index), "why") for index in (9, 30, 7, 8)]
    wire = Wire(scheme(picking(*picks)), guest((100, BASE)), postcopy=True)
    first = wire.send()
    assert first.span == runs_of(target_pages(7, 3), target_pages(30, 1))
    assert first.page == page(7)
    assert wire.send().span == runs_of(target_pages(0, 7), target_pages(10, 9))


def test_base_pages_side_by_side_are_a_span() -> None:
    """Picks without gaps need no list of runs."""
    wire = Wire(
        scheme(picking(*((page(n), "why") for n in (4, 3)))), guest((9, BASE)), postcopy=True
    )
    assert wire.send().span == target_pages(3, 2)


def test_a_pick_of_another_block_has_its_own_frame() -> None:
    """What cannot go in the frame of a pick comes next, and is not asked for again."""
    picks = (page(9), "a"), (PageId(1, 2), "b"), (page(3), "c")
    wire = Wire(scheme(picking(*picks)), MIXED, postcopy=True)
    assert [wire.send_page() for _ in range(3)] == [page(9), PageId(1, 2), page(3)]
    causes = [
        each.cause for each in wire.scheduler.take_notices() if each.event is events.PageStart
    ]
    assert causes == ["a", "b", "c"]


def test_the_cause_is_of_what_was_picked_alone() -> None:
    """Neither what was asked for nor what the scan came to has one."""
    wire = Wire(scheme(ReadAhead), guest((7, HUGE)), postcopy=True)
    wire.request(page(4))
    wire.drain()
    starts = [each for each in wire.scheduler.take_notices() if each.event is events.PageStart]
    causes = {each.page.index: each.cause for each in starts}
    assert causes == {4: "", 5: "read ahead", 6: "read ahead", 0: "", 1: "", 2: "", 3: ""}


def test_the_built_in_behaviours_have_no_cause() -> None:
    """Locality and demotion are as they were before there were others."""
    wire = Wire("critical-first", guest((3, HUGE)), postcopy=True)
    wire.request(page(1), 100)
    wire.drain()
    assert {each.cause for each in wire.scheduler.take_notices()} == {""}


def test_a_request_breaks_off_what_was_picked() -> None:
    """A picked page is background: it is half-sent, and goes on afterwards."""
    wire = Wire(scheme(picking((page(6), "why"))), guest((8, HUGE)), postcopy=True)
    assert wire.break_off(page(2), mid_chunk=False) == page(6)
    assert in_order(wire.drain())[:2] == pages(2, 6)
    wire.assert_all_sent_once()


@pytest.mark.parametrize("page_bytes", [BASE, HUGE])
def test_what_was_picked_and_not_begun_is_not_lost(page_bytes: int) -> None:
    """A pick that a request came before goes next, though its prefetcher does not say it again."""
    wire = Wire(scheme(picking((page(6), "why"))), guest((8, page_bytes)), postcopy=True)
    assert wire.take().page == page(6)
    assert wire.request(page(2)) is Answer.QUEUED
    wire.interrupt(begun=False)
    assert in_order(wire.drain())[:2] == pages(2, 6)
    assert prefetched_of(wire).causes == {"why": 1}
    wire.assert_all_sent_once()


def test_a_pick_that_was_asked_for_meanwhile_is_dropped() -> None:
    """What a request has taken does not go for a pick that was put back."""
    wire = Wire(scheme(picking((page(6), "why"))), guest((8, BASE)), postcopy=True)
    wire.take()
    wire.request(page(6))
    wire.request(page(2))
    assert wire.urgent, "it became urgent in place"
    wire.drain()
    wire.assert_all_sent_once()


def test_a_policy_in_parts_sends_a_pick_from_its_place_on() -> None:
    """The touched part of a newer request goes first; then the pick goes on to its end."""
    wire = Wire(
        scheme(picking(Pick(page(2), "why", 256)), critical=True),
        guest((4, HUGE)), chunk_bytes=64 * BASE, postcopy=True,
    )  # fmt: skip
    assert wire.send().span == target_pages(2 * 512 + 256, 16)
    wire.request(page(1), 7)
    assert wire.send().span == target_pages(512 + 7, 1)
    rest = in_order(wire.drain())
    assert rest == pages(1, 2, 0, 3)
    wire.assert_all_sent_once()


def test_a_place_moves_the_scan() -> None:
    """The scan goes on at a place that a prefetcher names, as it does behind a request."""
    wire = Wire(
        scheme(picking(Pick(page(5), "there", go_on=True))), guest((8, HUGE)), postcopy=True
    )
    assert in_order(wire.drain()) == pages(5, 6, 7, 0, 1, 2, 3, 4)
    assert prefetched_of(wire).pages.length_bytes == 0


def test_what_another_lane_sends_is_not_picked() -> None:
    """A pick that is being sent for a request waits; the scan goes on, and nothing hangs."""
    policy = scheme(picking((page(3), "why")), preempts=False, concurrent=True)
    wire = Wire(policy, guest((5, HUGE)), postcopy=True)
    wire.request(page(3))
    assert wire.scheduler.next_chunk(Lane.URGENT) is not None
    beside = wire.scheduler.next_chunk(Lane.BACKGROUND)
    assert beside is not None
    assert beside.page == page(0)


def test_hooks_hear_of_all_that_happens() -> None:
    """Each request with its answer, each turn, and each page with its channel."""
    made = []

    class Hearing(Backwards):
        def __init__(self) -> None:
            made.append(self)

    wire = Wire(scheme(Hearing), guest((3, HUGE)), postcopy=True)
    wire.request(page(0), 9)
    wire.request(page(0), 8)
    wire.drain()
    wire.request(page(1))
    assert made[0].told == [
        ("requested", page(0), 9, 1001, "queued"),
        ("requested", page(0), 8, 1002, "duplicate"),
        ("served", page(0), Span(0, 0, HUGE)),
        ("sent", page(0), "postcopy"),
        ("sent", page(2), "precopy"),
        ("sent", page(1), "precopy"),
        ("requested", page(1), 0, 1003, "already-sent"),
    ]


def test_precopy_asks_no_prefetcher() -> None:
    """While no vCPU can wait there is nothing to fetch for it."""
    wire = Wire(scheme(Backwards), guest((3, HUGE)), across_pages=True)
    assert wire.drain()[0].page == page(0)
    assert prefetched_of(wire).pages.length_bytes == 0


def test_a_pick_that_is_asked_for_is_late() -> None:
    """Whether it was on its way, or all sent: a vCPU was stopped in spite of it."""
    wire = Wire(scheme(ReadAhead), guest((12, HUGE)), postcopy=True)
    wire.request(page(3))
    while wire.send().page != page(5):
        pass
    wire.request(page(4))
    wire.request(page(5))
    wire.drain()
    prefetched = prefetched_of(wire)
    late = prefetched.late.pages_with_members(0).nonzero()[0].tolist()
    assert late == [4, 5]
    assert prefetched.pages.pages_with_members(0).nonzero()[0].tolist() == [4, 5, 6, 7, 8, 9]


def test_what_a_break_has_lost_was_fetched_for_nothing() -> None:
    """It is missing again, and counts as never picked."""
    wire = Wire(scheme(picking((page(4), "a"), (page(6), "b"))), guest((8, HUGE)), postcopy=True)
    wire.send_page()
    wire.send_page()
    wire.scheduler.begin_again(set_of(wire.geometry, [wire.geometry.page_span(page(4))]))
    assert prefetched_of(wire).pages.pages_with_members(0).nonzero()[0].tolist() == [6]
    assert wire.take().span == Span(0, 4 * HUGE, CHUNK)


def test_causes_without_end_are_counted_together() -> None:
    """Who makes up a cause for each page does not fill the memory."""
    picks = [(page(index), f"cause {index}") for index in range(CAUSE_COUNT_MAX + 9)]
    wire = Wire(scheme(picking(*picks)), guest((50, BASE)), postcopy=True)
    wire.drain()
    causes = prefetched_of(wire).causes
    assert len(causes) == CAUSE_COUNT_MAX + 1
    assert causes[OTHER_CAUSES] == 9


def test_the_newest_request_is_served_first() -> None:
    """An order of service of one's own."""
    wire = Wire(scheme(order=NewestFirst), guest((9, HUGE)), postcopy=True)
    for index in (3, 7, 5):
        wire.request(page(index))
    assert in_order(wire.drain())[:3] == pages(5, 7, 3)
    wire.assert_all_sent_once()


def test_an_order_knows_the_half_sent_page() -> None:
    """It may serve it before older requests; it goes on where it was broken off."""
    wire = Wire(scheme(order=HalfSentFirst), guest((9, HUGE)), postcopy=True)
    half_sent = wire.break_off(page(5), mid_chunk=False)
    wire.request(page(7))
    wire.request(half_sent)
    assert in_order(wire.drain())[:3] == [page(5), half_sent, page(7)]
    wire.assert_all_sent_once()


@pytest.mark.parametrize("half_sent", HalfSent)
def test_a_jumping_scan_sends_all(half_sent: HalfSent) -> None:
    """However the scan is sent about, all goes, once."""
    wire = Wire(scheme(Jumper, half_sent=half_sent), MIXED, postcopy=True)
    wire.drain()
    wire.assert_all_sent_once()


@pytest.mark.parametrize("page_bytes", [BASE, HUGE])
def test_the_cause_goes_into_page_start_alone(page_bytes: int) -> None:
    """What is broken off, goes on urgently or is sent in parts is told without."""
    geometry = guest((64, BASE)) if page_bytes == BASE else guest((8, HUGE))
    wire = Wire(scheme(picking((page(6), "why"))), geometry, postcopy=True)
    assert wire.take().page == page(6)
    wire.request(page(2))
    wire.interrupt(begun=True)
    wire.request(page(6))
    wire.drain()
    told = {each.event: each.cause for each in wire.scheduler.take_notices() if each.cause}
    assert told == {events.PageStart: "why"}


@pytest.mark.parametrize("is_out", [True, False], ids=["on-its-way", "half-sent"])
def test_what_lies_between_picked_pages_is_no_part_of_their_frame(is_out: bool) -> None:
    """A request for it is queued and served at once, not taken for one of what is being sent."""
    picks = [(page(index), "why") for index in (4, 30)]
    wire = Wire(scheme(picking(*picks)), guest((64, BASE)), postcopy=True)
    assert wire.take().span == runs_of(target_pages(4, 1), target_pages(30, 1))
    if not is_out:
        wire.request(page(50))
        wire.interrupt(begun=True)
        assert wire.send().page == page(50)
    assert wire.request(page(10)) is Answer.QUEUED
    if is_out:
        wire.interrupt(begun=True)
    assert wire.send().span == target_pages(10, 1)
    wire.drain()
    wire.assert_all_sent_once()
