"""The policies that bend the scheduler's rules, each by its own: what QEMU does now, and what not.

`test_scheduler.py` has the rules that all of them share.
"""

import pytest

from protocol import events
from protocol.channels import Channel
from protocol.errors import LocalProtocolError
from protocol.geometry import Span
from protocol.pageset import PageSet
from protocol.runs import Stretch
from source.background import POSTCOPY_RUN_BYTES_MIN
from source.jobs import Answer, Chunk, Lane, Notice
from tests.scheduled import (
    BASE,
    CHUNK,
    HUGE,
    HUGE_PAGES,
    MIXED,
    Wire,
    guest,
    in_order,
    page,
    pages,
    target_pages,
    urgent,
)

PRECOPY, POSTCOPY = Channel.PRECOPY, Channel.POSTCOPY
PER_PAGE = HUGE // BASE

# The two ways to break off a page that has begun: behind its first chunk, or inside its second.
BROKEN_OFF = pytest.mark.parametrize("mid_chunk", [False, True], ids=["between", "mid-chunk"])


def spans(chunks: list[Chunk], channel: Channel) -> list[Stretch]:
    """Return what goes over a channel, in order."""
    return [chunk.span for chunk in chunks if chunk.channel is channel]


def quarters(index: int, first: int = 0) -> list[Span]:
    """Return the chunks of a huge page from one of them on."""
    return [Span(0, index * HUGE + number * CHUNK, CHUNK) for number in range(first, 4)]


# parallel: requests and background, each in a lane of its own.


def test_parallel_serves_requests_beside_the_background() -> None:
    """Each lane has a chunk of its own out, and neither waits for the other."""
    scheduler = Wire("parallel").scheduler
    assert scheduler.lanes == (Lane.URGENT, Lane.BACKGROUND)
    assert scheduler.next_chunk(Lane.URGENT) is None
    background = scheduler.next_chunk(Lane.BACKGROUND)
    assert scheduler.request(page(5), 0, 1) is Answer.QUEUED
    assert not scheduler.wants_preemption
    asked_for = scheduler.next_chunk(Lane.URGENT)
    assert background == Chunk(quarters(0)[0], page(0), PRECOPY, False, False, None)
    assert asked_for == Chunk(quarters(5)[0], page(5), POSTCOPY, True, False, 1)
    assert (scheduler.urgent(Lane.URGENT), scheduler.urgent(Lane.BACKGROUND)) == (True, False)
    scheduler.chunk_sent(Lane.URGENT)
    # The other lane's chunk is still out.
    with pytest.raises(LocalProtocolError):
        scheduler.next_chunk(Lane.BACKGROUND)
    assert scheduler.next_chunk(Lane.URGENT) is not None
    scheduler.chunk_sent(Lane.BACKGROUND)


def test_parallel_leaves_the_streamed_page_to_the_background() -> None:
    """A request for the page that the background is in the middle of changes nothing about it."""
    wire = Wire("parallel")
    wire.send()
    wire.take()
    assert wire.request(page(0)) is Answer.POSTPONED
    assert not wire.urgent
    assert wire.request(page(0)) is Answer.POSTPONED
    assert wire.request(page(9)) is Answer.QUEUED
    wire.send()
    # What is asked for later is not behind it: nothing is ordered between the lanes.
    assert wire.send_page() == page(9)
    rest = wire.drain()
    assert [(chunk.page, chunk.channel, chunk.urgent) for chunk in rest[:2]] == [
        (page(0), PRECOPY, False)
    ] * 2
    counts = wire.scheduler.counts
    assert (counts.postponed, counts.preemptions, counts.boosted) == (2, 0, 0)
    wire.assert_all_sent_once()


def test_parallel_leaves_a_queued_page_to_the_background_that_comes_to_it() -> None:
    """A page that the background begins while its request is queued stays on its channel."""
    scheduler = Wire("parallel").scheduler
    scheduler.request(page(5), 0, 1)
    scheduler.request(page(0), 0, 2)
    assert scheduler.next_chunk(Lane.URGENT) is not None
    streamed = scheduler.next_chunk(Lane.BACKGROUND)
    assert streamed is not None
    assert streamed.page == page(0)
    while not scheduler.chunk_sent(Lane.URGENT):
        scheduler.next_chunk(Lane.URGENT)
    assert scheduler.next_chunk(Lane.URGENT) is None
    assert scheduler.counts.postponed == 1
    assert scheduler.queued_requests == 0


def test_parallel_leaves_a_requested_page_to_its_lane() -> None:
    """The scan passes over the page that is sent urgently, and ends when only that is left."""
    scheduler = Wire("parallel", guest((3, HUGE))).scheduler
    scheduler.request(page(1), 0, 1)
    scheduler.next_chunk(Lane.URGENT)
    scanned = []
    while (chunk := scheduler.next_chunk(Lane.BACKGROUND)) is not None:
        scanned.append(chunk)
        scheduler.chunk_sent(Lane.BACKGROUND)
    assert in_order(scanned) == pages(0, 2)
    assert scheduler.remaining_bytes == HUGE - CHUNK
    assert scheduler.request(page(1), 0, 2) is Answer.DUPLICATE


def test_parallel_does_not_move_the_background() -> None:
    """The background goes on where it is, whatever is requested."""
    wire = Wire("parallel")
    wire.send_page()
    wire.request(page(9))
    wire.drain()
    assert in_order(wire.sent)[:4] == pages(0, 9, 1, 2)
    wire.assert_all_sent_once()


def test_a_policy_has_the_lanes_that_it_has() -> None:
    """Only a concurrent policy gives chunks out by lane, and then only so."""
    with pytest.raises(LocalProtocolError):
        Wire("parallel").scheduler.next_chunk()
    for lane in (Lane.URGENT, Lane.BACKGROUND):
        with pytest.raises(LocalProtocolError):
            Wire("ordered").scheduler.next_chunk(lane)


# resend: the half-sent page goes again, whole.


def resend(*, mid_chunk: bool) -> tuple[Wire, int]:
    """Have page 0 broken off for page 5, and asked for; return what of it is to go twice."""
    wire = Wire("resend")
    assert wire.break_off(page(5), mid_chunk=mid_chunk) == page(0)
    assert wire.request(page(0)) is Answer.QUEUED
    assert wire.request(page(7)) is Answer.QUEUED
    wire.send_page()
    return wire, CHUNK * (2 if mid_chunk else 1)


@BROKEN_OFF
def test_resend_sends_the_half_sent_page_again(mid_chunk: bool) -> None:
    """The half-sent page goes whole over the postcopy channel, in the order of the requests."""
    wire, twice_bytes = resend(mid_chunk=mid_chunk)
    wire.drain()
    assert in_order(urgent(wire.sent)) == pages(5, 0, 7)
    again = [chunk for chunk in urgent(wire.sent) if chunk.page == page(0)]
    assert [chunk.span for chunk in again] == quarters(0)
    assert {(chunk.channel, chunk.boosted) for chunk in again} == {(POSTCOPY, False)}
    counts = wire.scheduler.counts
    assert counts.resent_bytes == wire.twice_bytes == twice_bytes
    assert (counts.boosted, counts.on_precopy_channel, counts.on_postcopy_channel) == (0, 0, 3)
    wire.assert_all_sent_once()


@BROKEN_OFF
def test_resend_ends_the_begun_frame_before_anything_else_on_its_channel(mid_chunk: bool) -> None:
    """The frame that was under way ends in the background, and its page is not told again."""
    wire, _ = resend(mid_chunk=mid_chunk)
    wire.scheduler.take_notices()
    wire.drain()
    on_precopy = [chunk for chunk in wire.sent if chunk.channel is PRECOPY]
    assert on_precopy[0].span == quarters(0)[0]
    left_over = on_precopy[1]
    # Without a frame under way the page never comes back to this channel.
    assert (left_over.span == quarters(0)[1]) == mid_chunk
    assert not left_over.urgent
    assert [chunk.page for chunk in on_precopy].count(page(0)) == 1 + mid_chunk


def test_resend_breaks_the_begun_frame_off_for_other_requests() -> None:
    """The rest of a frame that nobody needs any more gives way, and still ends first."""
    wire, twice_bytes = resend(mid_chunk=True)
    for served in (0, 7):
        assert wire.send_page() == page(served)
    left_over = wire.take()
    assert left_over.span == quarters(0)[1]
    assert wire.request(page(9)) is Answer.QUEUED
    assert wire.scheduler.wants_preemption
    wire.interrupt(begun=True)
    assert wire.send_page() == page(9)
    # It is a frame and no page: nothing is preempted.
    assert wire.scheduler.preempted_page is None
    assert wire.scheduler.counts.preemptions == 1
    with pytest.raises(LocalProtocolError):
        wire.scheduler.add(PageSet(HUGE_PAGES))
    assert wire.take() == left_over
    wire.drain()
    assert wire.scheduler.counts.resent_bytes == twice_bytes
    wire.assert_all_sent_once()


def test_resend_sends_nothing_for_a_second_request() -> None:
    """A request for a page that went again is met, also while its old frame has yet to end."""
    wire, _ = resend(mid_chunk=True)
    assert wire.request(page(0)) is Answer.DUPLICATE
    assert wire.take().page == page(0)
    assert wire.request(page(0)) is Answer.DUPLICATE
    wire.send_page()
    assert wire.request(page(0)) is Answer.ALREADY_SENT
    wire.send_page()
    assert wire.take().span == quarters(0)[1]
    assert wire.request(page(0)) is Answer.ALREADY_SENT
    assert not wire.urgent
    wire.drain()
    wire.assert_all_sent_once()


def test_resend_may_have_only_the_last_chunk_under_way() -> None:
    """A page goes again whole even if all of it was on its way."""
    wire = Wire("resend")
    for _ in range(2):
        wire.send()
    wire.break_off(page(5), mid_chunk=True)
    wire.request(page(0))
    wire.drain()
    assert spans(wire.sent, POSTCOPY) == [*quarters(5), *quarters(0)]
    assert wire.scheduler.counts.resent_bytes == HUGE
    wire.assert_all_sent_once()


def test_resend_finishes_a_run_of_base_pages() -> None:
    """A run of base pages is one frame: it ends urgently where it began, and nothing goes twice."""
    wire = Wire("resend", MIXED, chunk_bytes=64 * BASE)
    run = wire.take()
    wire.request(page(1, block=1))
    wire.interrupt(begun=True)
    wire.request(page(33))
    wire.send_page()
    finished = wire.send()
    assert (finished.span, finished.channel) == (run.span, PRECOPY)
    assert (finished.urgent, finished.boosted) == (True, True)
    wire.drain()
    assert wire.scheduler.counts.resent_bytes == 0
    wire.assert_all_sent_once()


# split: the rest of the half-sent page goes over the other channel.


@BROKEN_OFF
def test_split_sends_the_rest_over_the_postcopy_channel(mid_chunk: bool) -> None:
    """The begun frame ends first, urgently and where it began; the rest takes the other channel."""
    wire = Wire("split")
    wire.break_off(page(5), mid_chunk=mid_chunk)
    wire.request(page(0))
    wire.request(page(7))
    wire.drain()
    assert in_order(urgent(wire.sent)) == pages(5, 0, 7)
    rest = [chunk for chunk in urgent(wire.sent) if chunk.page == page(0)]
    assert [chunk.span for chunk in rest] == quarters(0, 1)
    channels = [PRECOPY, POSTCOPY, POSTCOPY] if mid_chunk else [POSTCOPY] * 3
    assert [chunk.channel for chunk in rest] == channels
    counts = wire.scheduler.counts
    assert (counts.boosted, counts.on_precopy_channel, counts.on_postcopy_channel) == (0, 0, 3)
    wire.assert_all_sent_once()


def test_split_finishes_a_page_of_which_only_the_frame_is_left() -> None:
    """With nothing to send but the begun frame, the page is finished where it began."""
    wire = Wire("split")
    for _ in range(2):
        wire.send()
    wire.break_off(page(5), mid_chunk=True)
    wire.request(page(0))
    wire.send_page()
    last = wire.send()
    assert (last.span, last.channel, last.boosted) == (quarters(0)[3], PRECOPY, True)
    counts = wire.scheduler.counts
    assert (counts.boosted, counts.on_precopy_channel) == (1, 1)
    wire.drain()
    wire.assert_all_sent_once()


# critical-first: of a requested page only the touched target page is urgent.

SMALL = POSTCOPY_RUN_BYTES_MIN // BASE


def test_critical_sends_the_touched_target_page_alone() -> None:
    """Only the target page that was touched is urgent, over the postcopy channel."""
    wire = Wire("critical-first", postcopy=True)
    assert wire.request(page(3), 100) is Answer.QUEUED
    first = wire.send()
    assert first == Chunk(
        target_pages(3 * PER_PAGE + 100, 1), page(3), POSTCOPY, True, False, wire.now_ns
    )
    rest = wire.drain()
    assert not urgent(rest)
    assert {chunk.channel for chunk in rest} == {PRECOPY}
    wire.assert_all_sent_once()


def test_critical_goes_on_with_the_rest_of_the_page_from_the_touched_place() -> None:
    """What is left of a requested page comes before the scan, from the touched place and round."""
    wire = Wire("critical-first", postcopy=True)
    wire.request(page(3), 400)
    wire.drain()
    rest = [chunk.span for chunk in wire.sent[1:] if chunk.page == page(3)]
    assert wire.sent[1].page == page(3)
    first = 3 * PER_PAGE
    sizes = [*[SMALL] * 6, 111 - 6 * SMALL]
    starts = [401 + sum(sizes[:number]) for number in range(7)]
    assert rest[:7] == [
        target_pages(first + start, size) for start, size in zip(starts, sizes, strict=True)
    ]
    assert rest[7] == target_pages(first, SMALL)
    # Locality: the scan goes on behind the page.
    assert in_order(wire.sent)[:3] == pages(3, 4, 5)
    wire.assert_all_sent_once()


def test_critical_sends_the_rest_of_the_newest_requested_page_first() -> None:
    """Demoted pages stand newest first, and one that is touched again is the newest."""
    wire = Wire("critical-first", postcopy=True)
    for index, touched in ((3, 0), (5, 0), (7, 0), (3, 200)):
        wire.request(page(index), touched)
    assert in_order(wire.drain())[:7] == pages(3, 5, 7, 3, 7, 5, 4)
    wire.assert_all_sent_once()


def test_critical_serves_requests_before_demoted_pages() -> None:
    """What is left of a page gives way to any request, between chunks and inside them."""
    wire = Wire("critical-first", postcopy=True)
    wire.request(page(3), 0)
    wire.send()
    demoted = wire.take()
    assert wire.request(page(8), 9) is Answer.QUEUED
    assert wire.scheduler.wants_preemption
    wire.interrupt(begun=True)
    assert wire.send().span == target_pages(8 * PER_PAGE + 9, 1)
    # The begun frame ends before anything else goes over its channel.
    assert wire.send().span == demoted.span
    assert wire.send().page == page(8)
    wire.drain()
    wire.assert_all_sent_once()


def test_critical_asks_for_each_target_page_by_itself() -> None:
    """A second touch of the same page is a request of its own, unless that place went already."""
    wire = Wire("critical-first", postcopy=True)
    answers = [wire.request(page(3), touched) for touched in (7, 8, 7)]
    assert answers == [Answer.QUEUED, Answer.QUEUED, Answer.DUPLICATE]
    assert wire.send().span == target_pages(3 * PER_PAGE + 7, 1)
    assert wire.request(page(3), 7) is Answer.ALREADY_SENT
    assert wire.request(page(3), 300) is Answer.QUEUED
    assert [wire.send().span for _ in range(2)] == [
        target_pages(3 * PER_PAGE + 8, 1),
        target_pages(3 * PER_PAGE + 300, 1),
    ]
    assert wire.send().span == target_pages(3 * PER_PAGE + 301, SMALL)
    wire.drain()
    wire.assert_all_sent_once()


def test_critical_finishes_the_begun_frame_for_a_request_inside_it() -> None:
    """A request for what lies in the broken-off frame ends that frame in its turn, urgently."""
    wire = Wire("critical-first", postcopy=True)
    wire.request(page(3), 0)
    wire.send()
    begun = wire.take()
    wire.request(page(8), 0)
    wire.interrupt(begun=True)
    assert wire.request(page(3), 5) is Answer.QUEUED
    assert wire.request(page(3), SMALL + 1) is Answer.QUEUED
    wire.send()
    finished = wire.send()
    assert (finished.span, finished.channel) == (begun.span, PRECOPY)
    assert (finished.urgent, finished.boosted) == (True, True)
    # What lies behind the frame goes over the postcopy channel like any other.
    assert wire.send().channel is POSTCOPY
    assert wire.scheduler.counts.boosted == 1
    wire.drain()
    wire.assert_all_sent_once()


def test_critical_makes_the_frame_under_way_urgent_for_a_request_inside_it() -> None:
    """A request for what is being sent ends that frame at once, and no more of its page."""
    wire = Wire("critical-first", postcopy=True)
    frame = wire.take()
    assert wire.request(page(0), 5) is Answer.URGENT_IN_PLACE
    assert wire.urgent
    wire.send()
    after = wire.send()
    assert not after.urgent
    # The rest of the touched page goes on from behind the frame, in small chunks.
    assert after.span == Span(0, frame.span.end, POSTCOPY_RUN_BYTES_MIN)
    wire.drain()
    wire.assert_all_sent_once()


def test_critical_puts_a_page_first_whose_touched_place_was_under_way() -> None:
    """A page is demoted by its request also when a frame under way meets that."""
    wire = Wire("critical-first", postcopy=True)
    wire.request(page(3), 0)
    wire.send()
    assert wire.take().page == page(3)
    wire.request(page(8), 0)
    wire.interrupt(begun=True)
    wire.request(page(3), 5)
    wire.drain()
    assert in_order(wire.sent)[:5] == pages(3, 8, 3, 8, 4)


def test_critical_forgets_nothing_of_an_unbegun_demoted_chunk() -> None:
    """A demoted chunk broken off before its first byte is made anew, and the scan has not moved."""
    wire = Wire("critical-first", postcopy=True)
    wire.request(page(3), 0)
    wire.send()
    wire.take()
    wire.request(page(8), 0)
    wire.interrupt(begun=False)
    wire.drain()
    assert in_order(wire.sent)[:5] == pages(3, 8, 3, 9, 10)
    assert wire.scheduler.counts.preemptions == 0
    wire.assert_all_sent_once()


def test_critical_has_many_pages_half_sent() -> None:
    """Any number of pages may lie half-sent, and of each the source knows what went."""
    wire = Wire("critical-first", postcopy=True)
    for index in range(16):
        wire.request(page(index), 30 * index)
        wire.send()
    assert wire.scheduler.remaining_bytes == 16 * (HUGE - BASE)
    assert [wire.request(page(index), 30 * index) for index in range(16)] == [
        Answer.ALREADY_SENT
    ] * 16
    wire.drain()
    wire.assert_all_sent_once()


def test_critical_tells_a_page_as_sent_with_the_last_of_it() -> None:
    """A page is whole when all of it went: not with its target page, nor with any other part."""
    scheduler = Wire("critical-first", guest((1, HUGE)), postcopy=True).scheduler
    scheduler.request(page(0), 17, 1)
    said = []
    while scheduler.next_chunk() is not None:
        said.append(scheduler.chunk_sent())
    assert said == [False] * (len(said) - 1) + [True]
    assert len(said) == 34


def test_critical_streams_pages_in_whole_chunks_where_nobody_can_ask() -> None:
    """In precopy pages go in chunks of the agreed size, a page's end included."""
    wire = Wire("critical-first", guest((2, HUGE)), chunk_bytes=3 * CHUNK)
    assert [chunk.span.length for chunk in wire.drain()] == [3 * CHUNK, CHUNK] * 2


def test_critical_never_makes_a_demoted_chunk_longer_than_agreed() -> None:
    """Where chunks are short already, those of a demoted page are no longer."""
    wire = Wire("critical-first", guest((2, HUGE)), chunk_bytes=4 * BASE, postcopy=True)
    wire.request(page(1), 0)
    for _ in range(2):
        wire.send()
    # Behind each of them the page is as if not begun: nothing is preempted for the next request.
    wire.request(page(0), 0)
    assert {chunk.span.length // BASE for chunk in wire.drain()} == {1, 3, 4}
    assert wire.scheduler.counts.preemptions == 0


def test_critical_treats_base_pages_as_pages() -> None:
    """A base page is its own target page: it goes alone, and nothing is left to be demoted."""
    wire = Wire("critical-first", MIXED, chunk_bytes=64 * BASE)
    wire.request(page(70))
    assert wire.send().span == target_pages(70, 1)
    assert wire.send().span == target_pages(71, 64)
    wire.drain()
    wire.assert_all_sent_once()


def test_notices_of_a_critical_page_name_the_page() -> None:
    """Who watches hears of pages and of where they go, part by part."""
    wire = Wire("critical-first", postcopy=True)
    wire.request(page(3), 100)
    wire.send()
    wire.send()
    assert wire.scheduler.take_notices() == [
        Notice(events.PageStart, page(3), POSTCOPY, urgent=True, boosted=False),
        Notice(events.PartSent, page(3), POSTCOPY, urgent=True, boosted=False),
        Notice(events.PageStart, page(3), PRECOPY, urgent=False, boosted=False),
        Notice(events.PartSent, page(3), PRECOPY, urgent=False, boosted=False),
    ]
