"""The rules of the scheduler, one by one, and the cases in which the policies differ.

`test_scheduler_policies.py` has the policies that bend them, `test_scheduler_model.py` holds the
scheduler against a model of all the rules at once.
"""

from dataclasses import replace

import pytest

from protocol import events
from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import PageId, Span
from protocol.pageset import PageSet
from protocol.policy import PRESETS, HalfSent, preset
from protocol.runs import hull_of
from source.background import POSTCOPY_RUN_BYTES_MIN
from source.jobs import Answer, Chunk, Notice
from source.scheduler import Scheduler
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
    runs_of,
    set_of,
    target_pages,
    urgent,
)

GIANT = 1 << 30

PRECOPY, POSTCOPY = Channel.PRECOPY, Channel.POSTCOPY

ALL = sorted(PRESETS)
# With whole pages for what is urgent; `critical-first` and `parallel` have rules of their own, in
# `test_scheduler_policies.py`.
WHOLE = sorted(name for name, p in PRESETS.items() if not (p.critical or p.concurrent))
PREEMPTING = [name for name in WHOLE if PRESETS[name].preempts]
WAITING = [name for name in WHOLE if not PRESETS[name].preempts]
IN_PLACE = [name for name in WHOLE if PRESETS[name].half_sent is not HalfSent.POSTPONE]

# The two ways to break off a page that has begun: behind its first chunk, or inside its second.
BROKEN_OFF = pytest.mark.parametrize("mid_chunk", [False, True], ids=["between", "mid-chunk"])


# The background.


@pytest.mark.parametrize("policy", ALL)
def test_the_background_goes_through_the_guest_in_chunks(policy: str) -> None:
    """Without requests every byte goes once, in order, over the precopy channel, not urgent."""
    wire = Wire(policy, guest((3, HUGE), (2, HUGE)))
    chunks = wire.drain()
    assert [chunk.span for chunk in chunks] == [
        Span(block, offset, CHUNK)
        for block, count in ((0, 3), (1, 2))
        for offset in range(0, count * HUGE, CHUNK)
    ]
    for chunk in chunks:
        assert chunk.page == PageId(chunk.span.block, chunk.span.offset // HUGE)
        assert (chunk.channel, chunk.urgent, chunk.boosted) == (PRECOPY, False, False)
        assert chunk.requested_ns is None
    wire.assert_all_sent_once()


def test_a_page_is_whole_with_its_last_chunk() -> None:
    """The scheduler says that a page is whole after the last of its chunks, and only then."""
    scheduler = Wire("ordered").scheduler
    said = []
    for _ in range(8):
        scheduler.next_chunk()
        said.append(scheduler.chunk_sent())
    assert said == [False, False, False, True] * 2


def test_remaining_bytes_are_those_that_no_chunk_was_made_of() -> None:
    """What is out has left the remaining bytes, and is back when its frame was not begun."""
    wire = Wire("ordered")
    assert wire.scheduler.remaining_bytes == 16 * HUGE
    wire.take()
    assert wire.scheduler.remaining_bytes == 16 * HUGE - CHUNK
    wire.request(page(1))
    wire.interrupt(begun=False)
    assert wire.scheduler.remaining_bytes == 16 * HUGE


# Rule 1: the oldest request, then the preempted page, then the scan.


@pytest.mark.parametrize("policy", PREEMPTING)
@BROKEN_OFF
def test_requests_go_before_the_preempted_page_and_that_goes_before_the_scan(
    policy: str, mid_chunk: bool
) -> None:
    """The queue is served oldest first, then the page that was broken off, then the scan."""
    wire = Wire(policy)
    wire.break_off(page(9), mid_chunk=mid_chunk)
    wire.request(page(4))
    wire.request(page(12))
    wire.drain()
    assert in_order(wire.sent)[:6] == pages(0, 9, 4, 12, 0, 13)
    wire.assert_all_sent_once()


@pytest.mark.parametrize("policy", ALL)
def test_requests_are_served_in_the_order_in_which_they_come(policy: str) -> None:
    """Requests that come while others are served stand behind them in the queue."""
    wire = Wire(policy)
    wire.take()
    for index in (7, 3, 11):
        assert wire.request(page(index)) is Answer.QUEUED
    wire.send_page()
    wire.take()
    for index in (2, 13, 5):
        assert wire.request(page(index)) is Answer.QUEUED
    wire.drain()
    assert in_order(urgent(wire.sent)) == pages(7, 3, 11, 2, 13, 5)


@pytest.mark.parametrize(("policy", "channel"), [("vanilla", PRECOPY), ("ordered", POSTCOPY)])
def test_an_urgent_page_takes_the_channel_of_its_policy(policy: str, channel: Channel) -> None:
    """A requested page goes over the postcopy channel where there is one, whole, and urgent."""
    wire = Wire(policy)
    wire.request(page(6))
    asked_ns = wire.now_ns
    wire.send_page()
    assert [chunk.span for chunk in wire.sent] == [
        Span(0, offset, CHUNK) for offset in range(6 * HUGE, 7 * HUGE, CHUNK)
    ]
    for chunk in wire.sent:
        assert (chunk.channel, chunk.urgent, chunk.boosted) == (channel, True, False)
        assert chunk.requested_ns == asked_ns


# Rule 2: a request for the preempted page is served in its turn.


def ask_without_pause(wire: Wire, *, mid_chunk: bool) -> PageId:
    """Ask for pages 5, 6, the half-sent one, 7, 3 and 4, and serve until no request is queued.

    After the first, one comes while each page is served: the queue is empty for the first time
    when the last of them is taken from it.
    """
    coming = iter(pages(7, 3, 4))
    half_sent = wire.break_off(page(5), mid_chunk=mid_chunk)
    wire.request(page(6))
    puts_off = wire.policy.half_sent is HalfSent.POSTPONE
    assert wire.request(half_sent) is (Answer.POSTPONED if puts_off else Answer.QUEUED)
    while wire.scheduler.queued_requests:
        if (wanted := next(coming, None)) is not None:
            assert wire.request(wanted) is Answer.QUEUED
        wire.send_page()
        wire.take()
    wire.send_page()
    return half_sent


@BROKEN_OFF
def test_ordered_serves_the_half_sent_page_in_the_order_of_the_requests(mid_chunk: bool) -> None:
    """A request for the half-sent page is served between those before and after it."""
    wire = Wire("ordered")
    half_sent = ask_without_pause(wire, mid_chunk=mid_chunk)
    assert in_order(urgent(wire.sent)) == [*pages(5, 6), half_sent, *pages(7, 3, 4)]
    wire.drain()
    wire.assert_all_sent_once()


@BROKEN_OFF
def test_ordered_finishes_the_half_sent_page_where_it_began(mid_chunk: bool) -> None:
    """The half-sent page goes on at the byte where it stopped, urgent, on the precopy channel."""
    wire = Wire("ordered")
    half_sent = ask_without_pause(wire, mid_chunk=mid_chunk)
    before, *rest = [chunk for chunk in wire.sent if chunk.page == half_sent]
    assert (before.urgent, before.boosted, before.requested_ns) == (False, False, None)
    assert [chunk.span for chunk in rest] == [
        Span(0, offset, CHUNK) for offset in range(CHUNK, HUGE, CHUNK)
    ]
    for chunk in rest:
        assert (chunk.channel, chunk.urgent, chunk.boosted) == (PRECOPY, True, True)
        assert chunk.requested_ns is not None
    assert {chunk.channel for chunk in urgent(wire.sent) if not chunk.boosted} == {POSTCOPY}
    counts = wire.scheduler.counts
    assert (counts.preemptions, counts.boosted, counts.postponed) == (1, 1, 0)
    assert (counts.on_precopy_channel, counts.on_postcopy_channel) == (1, 5)


@BROKEN_OFF
def test_drop_leaves_the_half_sent_page_until_no_request_is_queued(mid_chunk: bool) -> None:
    """Under `drop` the request for the half-sent page is forgotten, the page comes at the end."""
    wire = Wire("drop")
    half_sent = ask_without_pause(wire, mid_chunk=mid_chunk)
    assert in_order(urgent(wire.sent)) == pages(5, 6, 7, 3, 4)
    rest = wire.drain()
    assert in_order(rest)[0] == half_sent
    assert not urgent(rest)
    counts = wire.scheduler.counts
    assert (counts.preemptions, counts.boosted, counts.postponed) == (1, 0, 1)
    wire.assert_all_sent_once()


@pytest.mark.parametrize("policy", WAITING)
def test_without_preemption_the_page_ends_before_any_request_is_served(policy: str) -> None:
    """A policy that does not preempt ends the page that it streams, asked for or not."""
    wire = Wire(policy)
    wire.send()
    assert wire.request(page(5)) is Answer.QUEUED
    assert not wire.scheduler.wants_preemption
    assert wire.request(page(0)) is Answer.URGENT_IN_PLACE
    wire.request(page(6))
    wire.drain()
    assert in_order(wire.sent)[:3] == pages(0, 5, 6)
    assert in_order(urgent(wire.sent)) == pages(0, 5, 6)
    assert wire.scheduler.counts.preemptions == 0
    wire.assert_all_sent_once()


def served_before_the_half_sent_page(policy: str, trace: int) -> int:
    """Return how many pages are served from the request for the half-sent page until it is whole.

    Two requests are queued before it, and one more comes before the next page is taken from the
    queue, which is never empty while the trace lasts.

    Args:
        policy: A preset.
        trace: How many more come.
    """
    wire = Wire(policy, guest((1, HUGE), (trace + 2, BASE)))
    half_sent = wire.break_off(page(0, block=1), mid_chunk=True)
    wire.request(page(1, block=1))
    wire.request(half_sent)
    served = 0
    while wire.send_page() != half_sent:
        served += 1
        if served <= trace:
            assert wire.request(page(served + 1, block=1)) is Answer.QUEUED
            assert wire.scheduler.queued_requests > 1
    return served


TRACES = (10, 30, 100, 300)


def test_the_wait_under_drop_grows_with_the_trace() -> None:
    """Under `drop` the half-sent page waits for every request of the trace, however many."""
    waits = [served_before_the_half_sent_page("drop", trace) for trace in TRACES]
    assert waits == [trace + 2 for trace in TRACES]


def test_the_wait_under_ordered_is_that_of_the_requests_before() -> None:
    """Under `ordered` the half-sent page waits for the two requests before it, no more."""
    waits = [served_before_the_half_sent_page("ordered", trace) for trace in TRACES]
    assert waits == [2] * len(TRACES)


def test_a_resumed_chunk_carries_what_became_of_its_page() -> None:
    """A chunk broken off in the background is urgent and boosted when it is given out again."""
    wire = Wire("ordered")
    half_sent = wire.break_off(page(5), mid_chunk=True)
    wire.request(half_sent)
    asked_ns = wire.now_ns
    wire.send_page()
    again = wire.take()
    assert again == Chunk(Span(0, CHUNK, CHUNK), half_sent, PRECOPY, True, True, asked_ns)


def test_a_page_broken_off_twice_goes_on_each_time() -> None:
    """A page that resumes in the background may be broken off again, and is sent once."""
    wire = Wire("ordered")
    for wanted in pages(5, 6, 7):
        assert wire.break_off(wanted, mid_chunk=True) == page(0)
        wire.send_page()
    wire.request(page(0))
    chunks = wire.drain()
    assert wire.scheduler.counts.preemptions == 3
    assert wire.scheduler.counts.boosted == 1
    assert chunks[0].span == Span(0, 3 * CHUNK, CHUNK)
    wire.assert_all_sent_once()


# Rule 3: urgent pages are never preempted, background pages always.


def test_a_request_wants_the_background_page_broken_off() -> None:
    """A page in the background is to be broken off as soon as a request is queued."""
    wire = Wire("ordered")
    wanted = [wire.scheduler.wants_preemption]
    wire.take()
    wanted.append(wire.scheduler.wants_preemption)
    wire.request(page(5))
    wanted.append(wire.scheduler.wants_preemption)
    wire.interrupt(begun=True)
    wanted.append(wire.scheduler.wants_preemption)
    assert wanted == [False, False, True, False]


@pytest.mark.parametrize("policy", ALL)
def test_an_urgent_page_is_never_broken_off(policy: str) -> None:
    """No request wants an urgent page broken off, and to do it all the same is refused."""
    wire = Wire(policy)
    wire.request(page(5))
    wire.take()
    wire.request(page(6))
    assert wire.urgent
    assert not wire.scheduler.wants_preemption
    with pytest.raises(LocalProtocolError):
        wire.scheduler.chunk_interrupted(begun=True)
    wire.drain()
    assert in_order(wire.sent)[:2] == pages(5, 6)
    wire.assert_all_sent_once()


@pytest.mark.parametrize("policy", IN_PLACE)
def test_a_boosted_page_is_never_broken_off(policy: str) -> None:
    """A page that became urgent on its way is sent to its end, whatever is requested."""
    wire = Wire(policy)
    wire.send()
    wire.request(page(0))
    wire.take()
    wire.request(page(5))
    assert not wire.scheduler.wants_preemption
    assert wire.send_page() == page(0)


@pytest.mark.parametrize("policy", WAITING)
def test_a_policy_without_preemption_breaks_nothing_off(policy: str) -> None:
    """Without preemption a request never wants anything broken off, and doing it is refused."""
    wire = Wire(policy)
    wire.take()
    wire.request(page(5))
    assert not wire.scheduler.wants_preemption
    with pytest.raises(LocalProtocolError):
        wire.scheduler.chunk_interrupted(begun=False)
    wire.drain()
    wire.assert_all_sent_once()


# Rule 4: at most one page is preempted.


@pytest.mark.parametrize("policy", PREEMPTING)
@BROKEN_OFF
def test_no_other_background_page_begins_while_one_is_preempted(
    policy: str, mid_chunk: bool
) -> None:
    """Through many requests the half-sent page stays the only one until it is whole."""
    wire = Wire(policy)
    half_sent = wire.break_off(page(5), mid_chunk=mid_chunk)
    for index in (6, 7, 8, 9):
        wire.request(page(index))
        wire.send_page()
        assert wire.scheduler.preempted_page == half_sent
    rest = wire.drain()
    assert in_order(rest)[:2] == [page(9), half_sent]
    assert wire.scheduler.counts.preemptions == 1
    assert wire.scheduler.preempted_page is None


# Rule 5: a request for what was sent, or is queued, sends nothing.


@pytest.mark.parametrize("policy", ALL)
def test_a_request_for_a_sent_page_sends_nothing(policy: str) -> None:
    """A page that went is not sent again, and nothing is broken off for its request."""
    wire = Wire(policy)
    wire.send_page()
    wire.take()
    assert wire.request(page(0)) is Answer.ALREADY_SENT
    assert not wire.scheduler.wants_preemption
    assert wire.scheduler.queued_requests == 0
    wire.drain()
    assert not urgent(wire.sent)
    wire.assert_all_sent_once()


def test_a_request_for_a_clean_page_sends_nothing() -> None:
    """A page of which nothing is to be sent counts as sent."""
    wire = Wire("ordered", dirty=[Span(0, 0, HUGE)])
    assert wire.request(page(1)) is Answer.ALREADY_SENT
    assert in_order(wire.drain()) == pages(0)


@pytest.mark.parametrize("policy", ALL)
def test_a_second_request_for_a_queued_page_sends_nothing(policy: str) -> None:
    """A second vCPU's request for a queued page is a duplicate and does not move the page."""
    wire = Wire(policy)
    assert [wire.request(wanted) for wanted in pages(5, 6, 5, 6)] == [
        Answer.QUEUED,
        Answer.QUEUED,
        Answer.DUPLICATE,
        Answer.DUPLICATE,
    ]
    assert wire.scheduler.queued_requests == 2
    first_ns = wire.now_ns - 3
    assert wire.take().requested_ns == first_ns
    assert wire.request(page(5)) is Answer.DUPLICATE
    wire.drain()
    assert in_order(urgent(wire.sent)) == pages(5, 6)
    assert wire.scheduler.counts.duplicate == 3
    wire.assert_all_sent_once()


def test_a_second_request_for_the_half_sent_page_is_a_duplicate() -> None:
    """A second vCPU's request for the half-sent page changes nothing, queued or boosted."""
    wire = Wire("ordered")
    half_sent = wire.break_off(page(5), mid_chunk=True)
    assert wire.request(half_sent) is Answer.QUEUED
    assert wire.request(half_sent) is Answer.DUPLICATE
    wire.send_page()
    assert wire.take().page == half_sent
    assert wire.request(half_sent) is Answer.DUPLICATE
    wire.drain()
    assert wire.scheduler.counts.boosted == 1
    wire.assert_all_sent_once()


def test_a_page_whose_request_was_answered_may_be_asked_for_again() -> None:
    """A request leaves the queue with its answer: the next one for the page has its own."""
    wire = Wire("drop")
    half_sent = wire.break_off(page(5), mid_chunk=True)
    for wanted in pages(6, 7):
        assert wire.request(half_sent) is Answer.POSTPONED
        wire.request(wanted)
        wire.send_page()
        wire.take()
    assert wire.scheduler.counts.postponed == 2
    assert wire.request(page(5)) is Answer.ALREADY_SENT
    wire.drain()
    assert in_order(urgent(wire.sent)) == pages(5, 6, 7)
    wire.assert_all_sent_once()


# Rule 6: a request for the page being streamed makes it urgent in place.


@pytest.mark.parametrize("policy", IN_PLACE)
@pytest.mark.parametrize("chunk_out", [False, True])
def test_a_request_for_the_streamed_page_makes_it_urgent_in_place(
    policy: str, chunk_out: bool
) -> None:
    """The page being streamed turns urgent: same channel, nothing broken off, nothing twice."""
    wire = Wire(policy)
    wire.send()
    if chunk_out:
        wire.take()
    assert wire.request(page(0)) is Answer.URGENT_IN_PLACE
    asked_ns = wire.now_ns
    assert wire.urgent
    assert wire.scheduler.queued_requests == 0
    wire.request(page(9))
    chunks = wire.drain()
    assert in_order(chunks)[:2] == pages(0, 9)
    rest = chunks[chunk_out:3]
    assert [(c.page, c.channel, c.urgent, c.boosted, c.requested_ns) for c in rest] == [
        (page(0), PRECOPY, True, False, asked_ns)
    ] * len(rest)
    counts = wire.scheduler.counts
    assert (counts.preemptions, counts.boosted, counts.on_precopy_channel > 0) == (0, 0, True)
    wire.assert_all_sent_once()


@pytest.mark.parametrize("policy", [name for name in PREEMPTING if name in IN_PLACE])
@pytest.mark.parametrize("begun", [False, True])
def test_a_request_for_a_page_about_to_be_broken_off_waits_behind_the_older_one(
    policy: str, begun: bool
) -> None:
    """The page under way is asked for when another page was before it: that one comes first."""
    wire = Wire(policy)
    wire.take()
    assert wire.request(page(9)) is Answer.QUEUED
    assert wire.request(page(0)) is Answer.QUEUED
    assert wire.request(page(0)) is Answer.DUPLICATE
    assert not wire.urgent
    wire.interrupt(begun=begun)
    wire.drain()
    assert in_order(urgent(wire.sent))[:2] == pages(9, 0)


def test_a_request_for_a_page_that_ends_before_it_is_broken_off_sends_nothing() -> None:
    """The page under way is whole before anybody broke it off: its request was in time."""
    wire = Wire("ordered", guest((16, HUGE)), chunk_bytes=HUGE)
    wire.take()
    wire.request(page(9))
    assert wire.request(page(0)) is Answer.QUEUED
    wire.send()
    wire.drain()
    assert in_order(urgent(wire.sent)) == pages(9)
    assert wire.scheduler.counts.already_sent == 1
    wire.assert_all_sent_once()


def test_drop_puts_off_a_request_for_the_streamed_page() -> None:
    """Under `drop` the page being streamed stays background, and gives way to other requests."""
    wire = Wire("drop")
    wire.send()
    wire.take()
    assert wire.request(page(0)) is Answer.POSTPONED
    assert not wire.urgent
    wire.request(page(9))
    assert wire.scheduler.wants_preemption
    wire.interrupt(begun=True)
    wire.request(page(8))
    wire.drain()
    assert in_order(wire.sent)[:4] == pages(0, 9, 8, 0)
    assert wire.scheduler.counts.postponed == 1
    wire.assert_all_sent_once()


# A page broken off before its first byte.


def test_a_page_without_a_byte_on_the_wire_is_not_preempted() -> None:
    """A page broken off before its first byte is as it was before: no channel binds it."""
    wire = Wire("ordered")
    assert wire.take().page == page(0)
    wire.request(page(5))
    wire.interrupt(begun=False)
    assert wire.scheduler.preempted_page is None
    assert wire.scheduler.counts.preemptions == 0
    assert wire.request(page(0)) is Answer.QUEUED
    wire.drain()
    assert in_order(wire.sent)[:3] == pages(5, 0, 1)
    assert {chunk.channel for chunk in wire.sent if chunk.page == page(0)} == {POSTCOPY}
    assert wire.scheduler.counts.boosted == 0
    wire.assert_all_sent_once()


def test_an_unbegun_chunk_of_a_begun_page_is_made_anew() -> None:
    """A page broken off before the first byte of a later chunk resumes with that chunk."""
    wire = Wire("ordered")
    first = wire.send()
    second = wire.take()
    wire.request(page(5))
    wire.interrupt(begun=False)
    assert wire.scheduler.preempted_page == page(0)
    wire.send_page()
    assert wire.take().span == second.span
    assert second.span.offset == first.span.end
    wire.drain()
    wire.assert_all_sent_once()


def test_the_scan_goes_back_for_a_page_that_it_did_not_begin() -> None:
    """Without locality the page that was broken off unbegun is the next of the background."""
    wire = Wire(replace(preset("ordered"), locality=False))
    wire.send_page()
    assert wire.take().page == page(1)
    wire.request(page(9))
    wire.interrupt(begun=False)
    wire.drain()
    assert in_order(wire.sent)[:4] == pages(0, 9, 1, 2)


def test_drop_remembers_a_page_that_it_put_off_before_its_first_byte() -> None:
    """Under `drop` a page put off while nothing of it went is the next after the requests."""
    wire = Wire("drop")
    wire.take()
    assert wire.request(page(0)) is Answer.POSTPONED
    wire.request(page(9))
    wire.interrupt(begun=False)
    assert wire.scheduler.preempted_page == page(0)
    wire.request(page(4))
    wire.drain()
    assert in_order(wire.sent)[:4] == pages(9, 4, 0, 5)
    wire.assert_all_sent_once()


# A chunk broken off in the middle.


@pytest.mark.parametrize("policy", PREEMPTING)
def test_an_open_chunk_is_the_next_on_its_channel(policy: str) -> None:
    """What was broken off in mid-chunk comes again as it was, before all else on its channel."""
    wire = Wire(policy)
    first = wire.send()
    broken_off = wire.take()
    for index in (5, 6, 7):
        wire.request(page(index))
    wire.interrupt(begun=True)
    chunks = wire.drain()
    on_precopy = [chunk.span for chunk in chunks if chunk.channel is PRECOPY]
    assert on_precopy[0] == broken_off.span
    assert on_precopy[1].offset == broken_off.span.end
    assert first.span not in on_precopy
    wire.assert_all_sent_once()


@BROKEN_OFF
def test_the_last_chunk_of_a_page_may_be_broken_off(mid_chunk: bool) -> None:
    """A page of which only the last chunk is missing is finished like any other."""
    wire = Wire("ordered")
    for _ in range(2):
        wire.send()
    wire.break_off(page(5), mid_chunk=mid_chunk)
    wire.request(page(0))
    wire.send_page()
    assert wire.send().span == Span(0, 3 * CHUNK, CHUNK)
    assert wire.scheduler.preempted_page is None
    assert wire.take().page == page(1)


# Base pages go in runs.


def test_base_pages_go_in_runs_of_a_chunk() -> None:
    """Base pages that lie side by side go as one chunk, up to its size and the block's end."""
    wire = Wire("ordered", MIXED, chunk_bytes=64 * BASE)
    chunks = wire.drain()
    runs = [chunk for chunk in chunks if chunk.span.block == 0]
    assert [chunk.span for chunk in runs] == [
        target_pages(0, 64),
        target_pages(64, 64),
        target_pages(128, 64),
        target_pages(192, 8),
    ]
    assert [chunk.page for chunk in runs] == pages(0, 64, 128, 192)
    wire.assert_all_sent_once()


def test_scattered_base_pages_go_together() -> None:
    """A chunk holds runs of pages that are to be sent, as many as it has room for, no other."""
    dirty = [target_pages(3, 5), target_pages(10, 1), target_pages(12, 2)]
    wire = Wire("ordered", MIXED, dirty=dirty)
    assert [chunk.span for chunk in wire.drain()] == [runs_of(*dirty)]
    wire.assert_all_sent_once()
    wire = Wire("ordered", MIXED, dirty=dirty, chunk_bytes=6 * BASE)
    assert [chunk.span for chunk in wire.drain()] == [runs_of(*dirty[:2]), dirty[2]]
    wire.assert_all_sent_once()


def test_a_request_for_what_lies_between_two_runs_is_not_met_by_them() -> None:
    """A page between the dirty ones of a chunk was sent before: asking for it sends nothing."""
    dirty = [target_pages(3, 5), target_pages(12, 2)]
    wire = Wire("ordered", MIXED, dirty=dirty)
    wire.take()
    assert wire.request(page(10)) is Answer.ALREADY_SENT
    assert not wire.urgent
    assert wire.request(page(13)) is Answer.URGENT_IN_PLACE
    assert wire.urgent


def test_scattered_runs_are_broken_off_and_finished() -> None:
    """Runs that went in part are given out again as they were, urgently if one of them is asked."""
    dirty = [target_pages(3, 5), target_pages(12, 2)]
    wire = Wire("ordered", MIXED, dirty=[*dirty, target_pages(0, 512, block=1)])
    first = wire.take()
    assert wire.request(page(0, block=1)) is Answer.QUEUED
    wire.interrupt(begun=True)
    assert wire.request(page(12)) is Answer.QUEUED
    assert wire.request(page(11)) is Answer.ALREADY_SENT
    chunks = wire.drain()
    assert [chunk.page for chunk in chunks[-1:]] == [page(3)]
    assert (chunks[-1].span, chunks[-1].boosted) == (first.span, True)


def test_a_pass_puts_scattered_parts_of_huge_pages_into_few_chunks() -> None:
    """In precopy a chunk holds parts of many pages, each counted with the last of its parts."""
    sown = range(3, 16 * 512, 37)
    dirty = [target_pages(index, 1) for index in sown]
    wire = Wire("ordered", dirty=dirty, chunk_bytes=64 * BASE, across_pages=True)
    ended = []
    while (chunk := wire.next()) is not None:
        assert chunk.span.length <= 64 * BASE
        ended.append(wire.scheduler.chunk_sent())
        wire.gone.add(chunk.span)
    assert len(ended) == -(-len(sown) // 64)
    assert sum(ended) == 16
    wire.assert_all_sent_once()


def test_a_pass_puts_whole_pages_together_as_far_as_a_chunk_holds() -> None:
    """In precopy a chunk of whole huge pages is one run, and counts those that end with it."""
    wire = Wire(
        "ordered", dirty=[target_pages(512, 5 * 512)], chunk_bytes=3 * HUGE // 2, across_pages=True
    )
    ended = []
    while (chunk := wire.next()) is not None:
        assert isinstance(chunk.span, Span)
        ended.append((chunk.span.length, wire.scheduler.chunk_sent()))
        wire.gone.add(chunk.span)
    assert ended == [(3 * HUGE // 2, 1), (3 * HUGE // 2, 2), (3 * HUGE // 2, 1), (HUGE // 2, 1)]
    wire.assert_all_sent_once()


def test_nobody_asks_for_pages_during_a_pass() -> None:
    """A request during a pass is a mistake of this side, and without a trace."""
    wire = Wire("ordered", across_pages=True)
    with pytest.raises(LocalProtocolError, match="no page requests"):
        wire.request(page(3))
    assert wire.scheduler.counts.received == 0


@pytest.mark.parametrize("policy", ALL)
def test_a_requested_base_page_goes_alone(policy: str) -> None:
    """A request for a base page sends that page, not the run that it would be in."""
    wire = Wire(policy, MIXED)
    wire.request(page(70))
    assert wire.send().span == target_pages(70, 1)
    wire.drain()
    wire.assert_all_sent_once()


@pytest.mark.parametrize("policy", IN_PLACE)
def test_a_request_for_a_page_inside_the_streamed_run_is_met_by_the_run(policy: str) -> None:
    """Any page of the run that is being sent makes the run urgent; another is a duplicate."""
    wire = Wire(policy, MIXED, chunk_bytes=64 * BASE)
    wire.take()
    assert wire.request(page(40)) is Answer.URGENT_IN_PLACE
    assert wire.request(page(63)) is Answer.DUPLICATE
    assert wire.request(page(64)) is Answer.QUEUED
    wire.send()
    assert wire.request(page(63)) is Answer.ALREADY_SENT
    assert wire.send().span == target_pages(64, 1)
    wire.drain()
    wire.assert_all_sent_once()


def test_a_request_for_a_page_inside_the_half_sent_run_finishes_the_run() -> None:
    """The broken-off run is finished for the first of its pages asked for, and for the second."""
    wire = Wire("ordered", MIXED, chunk_bytes=64 * BASE)
    run = wire.take()
    wire.request(page(1, block=1))
    wire.interrupt(begun=True)
    answers = [wire.request(wanted) for wanted in pages(33, 20, 33, 100)]
    assert answers == [Answer.QUEUED, Answer.QUEUED, Answer.DUPLICATE, Answer.QUEUED]
    assert wire.send_page() == page(1, block=1)
    finished = wire.send()
    assert (finished.span, finished.boosted, finished.channel) == (run.span, True, PRECOPY)
    # Page 20 came with the run.
    assert wire.send().page == page(100)
    assert wire.scheduler.counts.already_sent == 1
    wire.drain()
    wire.assert_all_sent_once()


def test_a_run_broken_off_before_its_first_byte_falls_apart() -> None:
    """A page of a run of which nothing went is served alone, over the postcopy channel."""
    wire = Wire("ordered", MIXED, chunk_bytes=64 * BASE)
    wire.take()
    wire.request(page(1, block=1))
    wire.interrupt(begun=False)
    wire.request(page(33))
    wire.send_page()
    alone = wire.send()
    assert (alone.span, alone.channel) == (target_pages(33, 1), POSTCOPY)
    wire.drain()
    wire.assert_all_sent_once()


# Rule 7: a page is its block and its index.


@BROKEN_OFF
def test_the_same_index_in_another_block_is_another_page(mid_chunk: bool) -> None:
    """A request for the half-sent page's index in another block does not finish that page."""
    wire = Wire("ordered", guest((4, HUGE), (4, HUGE)))
    half_sent = wire.break_off(page(3, block=1), mid_chunk=mid_chunk)
    other = page(half_sent.index, block=1)
    assert wire.request(other) is Answer.QUEUED
    wire.send_page()
    assert wire.take().page == other
    assert wire.send().channel is POSTCOPY
    assert wire.scheduler.preempted_page == half_sent
    assert wire.request(half_sent) is Answer.QUEUED
    wire.drain()
    assert wire.scheduler.counts.boosted == 1
    wire.assert_all_sent_once()


def test_the_same_index_in_another_block_is_no_duplicate() -> None:
    """Requests for one index in two blocks are two requests, queued, streamed or sent."""
    wire = Wire("ordered", guest((2, HUGE), (2, HUGE)))
    wire.take()
    assert wire.request(page(0, block=1)) is Answer.QUEUED
    assert wire.request(page(1, block=0)) is Answer.QUEUED
    assert wire.request(page(1, block=1)) is Answer.QUEUED
    wire.interrupt(begun=True)
    wire.send_page()
    assert wire.request(page(0, block=0)) is Answer.QUEUED
    wire.drain()
    wanted = [PageId(1, 0), PageId(0, 1), PageId(1, 1), PageId(0, 0)]
    assert in_order(urgent(wire.sent)) == wanted
    wire.assert_all_sent_once()


# Rule 8: who asks whether the bandwidth limit holds gets the truth of the moment.


def test_urgency_is_that_of_what_is_being_sent() -> None:
    """The scheduler is urgent from a request's first chunk, or its coming, to the page's end."""
    wire = Wire("ordered")
    seen = []

    def look() -> None:
        seen.append(wire.urgent)

    wire.take()
    look()
    wire.request(page(5))
    look()
    wire.interrupt(begun=True)
    look()
    wire.take()
    look()
    wire.send_page()
    look()
    wire.take()
    look()
    wire.request(page(0))
    look()
    wire.send_page()
    look()
    assert seen == [False, False, False, True, False, False, True, False]


# Rule 9: the background goes on near the last urgent page.


def test_the_background_goes_on_behind_the_last_urgent_page() -> None:
    """With locality the scan follows the last requested page, and wraps round for the rest."""
    wire = Wire("ordered", guest((6, HUGE), (3, HUGE)))
    wire.send_page()
    wire.request(page(4))
    wire.request(page(2))
    wire.drain()
    order = [*pages(0, 4, 2, 3, 5), *(page(index, block=1) for index in range(3)), page(1)]
    assert in_order(wire.sent) == order


@BROKEN_OFF
def test_the_background_goes_on_behind_a_boosted_page(mid_chunk: bool) -> None:
    """With locality a half-sent page that was requested is an urgent page like any other."""
    wire = Wire("ordered")
    half_sent = wire.break_off(page(9), mid_chunk=mid_chunk)
    wire.request(half_sent)
    wire.drain()
    assert in_order(wire.sent)[:5] == pages(0, 9, 0, 1, 2)


def test_the_background_stays_where_it_is_without_locality() -> None:
    """Without locality requests do not move the scan."""
    wire = Wire(replace(preset("ordered"), locality=False))
    wire.send_page()
    wire.request(page(9))
    wire.drain()
    assert in_order(wire.sent)[:4] == pages(0, 9, 1, 2)


# Pages of which only a part is to be sent.


def test_of_a_page_only_the_dirty_target_pages_go() -> None:
    """Clean target pages are left out; a chunk holds as many dirty ones as it has room for."""
    dirty = [target_pages(7, 1), target_pages(100, 200), target_pages(510, 3)]
    wire = Wire("ordered", dirty=dirty, chunk_bytes=128 * BASE)
    chunks = wire.drain()
    assert [chunk.span for chunk in chunks] == [
        runs_of(target_pages(7, 1), target_pages(100, 127)),
        runs_of(target_pages(227, 73), target_pages(510, 2)),
        target_pages(512, 1),
    ]
    assert [chunk.page for chunk in chunks] == pages(0, 0, 1)
    wire.assert_all_sent_once()


@pytest.mark.parametrize("policy", WHOLE)
def test_of_a_requested_page_only_the_dirty_target_pages_go(policy: str) -> None:
    """An urgent page, too, is whole when its dirty target pages went."""
    first, last = target_pages(3 * 512 + 40, 2), target_pages(4 * 512 - 1, 1)
    wire = Wire(policy, dirty=[target_pages(0, 5), first, last])
    wire.request(page(3))
    assert wire.send_page() == page(3)
    assert [chunk.span for chunk in wire.sent] == [runs_of(first, last)]
    assert [chunk.span for chunk in wire.drain()] == [target_pages(0, 5)]


@BROKEN_OFF
def test_a_half_sent_partial_page_goes_on_with_what_is_missing(mid_chunk: bool) -> None:
    """A page of which a part is dirty is broken off and finished like a whole one."""
    runs = [target_pages(10, 4), target_pages(20, 4), target_pages(30, 4)]
    dirty = [*runs, target_pages(5 * 512, 9), target_pages(6 * 512, 9)]
    wire = Wire("ordered", dirty=dirty, chunk_bytes=4 * BASE)
    half_sent = wire.break_off(page(5), mid_chunk=mid_chunk)
    wire.request(half_sent)
    wire.request(page(6))
    wire.drain()
    assert in_order(wire.sent) == [page(0), page(5), half_sent, page(6)]
    assert [chunk.span for chunk in wire.sent if chunk.page == half_sent] == runs
    wire.assert_all_sent_once()


def test_a_giant_page_is_broken_off_and_finished() -> None:
    """Pages of 1 GiB follow the same rules."""
    wire = Wire("ordered", guest((2, GIANT)), chunk_bytes=64 << 20)
    half_sent = wire.break_off(page(1), mid_chunk=True)
    wire.request(half_sent)
    chunks = wire.drain()
    assert len(chunks) == 31
    assert in_order(chunks) == [page(1), half_sent]
    wire.assert_all_sent_once()


# The use of it.


def test_added_pages_are_scanned_from_the_start() -> None:
    """What a new pass adds is sent, again where it was sent before, from the guest's start."""
    wire = Wire("ordered")
    wire.request(page(9))
    wire.drain()
    again = [Span(0, 12 * HUGE, CHUNK), Span(0, 3 * HUGE, CHUNK)]
    wire.scheduler.add(set_of(HUGE_PAGES, again))
    wire.gone = PageSet(HUGE_PAGES)
    assert [chunk.span for chunk in wire.drain()] == sorted(again)


@pytest.mark.parametrize("policy", PREEMPTING)
def test_pages_cannot_be_added_while_one_is_on_its_way(policy: str) -> None:
    """Adding is refused from a page's first chunk to its end, also while it is preempted."""
    wire = Wire(policy)
    one = set_of(HUGE_PAGES, [Span(0, 0, HUGE)])
    wire.take()
    wire.request(page(5))
    with pytest.raises(LocalProtocolError):
        wire.scheduler.add(one)
    wire.interrupt(begun=True)
    # Nothing is being sent now, but page 0 is half-sent.
    with pytest.raises(LocalProtocolError):
        wire.scheduler.add(one)
    assert wire.scheduler.remaining_bytes == 16 * HUGE - CHUNK
    for _ in range(2):
        wire.send_page()
    wire.scheduler.add(one)
    assert wire.scheduler.remaining_bytes == 15 * HUGE


def test_an_empty_scheduler_has_nothing() -> None:
    """Before anything is added there is nothing to send, and every request is met already."""
    scheduler = Scheduler(HUGE_PAGES, preset("ordered"), CHUNK)
    assert scheduler.next_chunk() is None
    assert scheduler.request(page(0), 0, 1) is Answer.ALREADY_SENT
    assert scheduler.next_chunk() is None
    assert not scheduler.wants_preemption
    assert scheduler.preempted_page is None


def test_a_second_chunk_is_refused_while_one_is_out() -> None:
    """The chunk that is out must be sent or broken off before the next, and is not lost."""
    wire = Wire("ordered")
    wire.take()
    with pytest.raises(LocalProtocolError):
        wire.scheduler.next_chunk()
    wire.drain()
    wire.assert_all_sent_once()


def test_word_of_a_chunk_that_is_not_out_is_refused() -> None:
    """Without a chunk out there is none that was sent or broken off."""
    wire = Wire("ordered")
    with pytest.raises(LocalProtocolError):
        wire.scheduler.chunk_sent()
    wire.send()
    wire.request(page(5))
    with pytest.raises(LocalProtocolError):
        wire.scheduler.chunk_sent()
    with pytest.raises(LocalProtocolError):
        wire.scheduler.chunk_interrupted(begun=True)
    wire.drain()
    wire.assert_all_sent_once()


@pytest.mark.parametrize(
    "outside", [PageId(0, 200), PageId(1, 4), PageId(2, 0), PageId(-1, 0), PageId(0, -1)]
)
def test_a_request_outside_the_guest_is_the_peers_fault(outside: PageId) -> None:
    """A request for a page that the guest has not is refused and leaves no trace."""
    wire = Wire("ordered", MIXED)
    wire.take()
    with pytest.raises(RemoteProtocolError):
        wire.request(outside)
    assert wire.scheduler.counts.received == 0
    assert not wire.scheduler.wants_preemption
    wire.drain()
    wire.assert_all_sent_once()


@pytest.mark.parametrize("chunk_bytes", [0, -BASE, 1, BASE - 1, BASE + 512])
def test_a_chunk_is_made_of_whole_target_pages(chunk_bytes: int) -> None:
    """A chunk size that does not divide into target pages is refused."""
    with pytest.raises(LocalProtocolError):
        Scheduler(HUGE_PAGES, preset("ordered"), chunk_bytes)


@BROKEN_OFF
def test_notices_tell_of_preemption_and_boost(mid_chunk: bool) -> None:
    """Who watches hears of each page that begins, is broken off, and is finished urgently."""
    wire = Wire("ordered")
    half_sent = wire.break_off(page(5), mid_chunk=mid_chunk)
    assert wire.scheduler.take_notices() == [
        Notice(events.PageStart, half_sent, PRECOPY, urgent=False, boosted=False),
        Notice(events.Preempt, half_sent, PRECOPY, urgent=False, boosted=False),
        Notice(events.PageStart, page(5), POSTCOPY, urgent=True, boosted=False),
    ]
    wire.request(half_sent)
    assert wire.scheduler.take_notices() == []
    wire.send_page()
    wire.take()
    assert wire.scheduler.take_notices() == [
        Notice(events.Boost, half_sent, PRECOPY, urgent=True, boosted=True),
        Notice(events.PageStart, half_sent, PRECOPY, urgent=True, boosted=True),
    ]
    wire.drain()
    assert {notice.event for notice in wire.scheduler.take_notices()} == {events.PageStart}


@pytest.mark.parametrize("policy", ["ordered", "critical-first"])
def test_where_requests_may_come_runs_are_short(policy: str) -> None:
    """Small pages go in short runs, so that a request for one of them does not wait for many."""
    blocks = guest((300, BASE))
    longest = {
        postcopy: max(c.span.length for c in Wire(policy, blocks, postcopy=postcopy).drain())
        for postcopy in (False, True)
    }
    assert longest == {False: CHUNK, True: POSTCOPY_RUN_BYTES_MIN}


@pytest.mark.parametrize("policy", ["ordered", "critical-first"])
def test_runs_become_as_long_as_the_connection_deserves(policy: str) -> None:
    """A fast connection gets longer runs, never over a chunk; a slow one those of before."""
    for run_bytes, longest in (
        (3 * BASE, POSTCOPY_RUN_BYTES_MIN),
        (40 * BASE, 40 * BASE),
        (1 << 40, CHUNK),
    ):
        wire = Wire(policy, guest((300, BASE)), postcopy=True)
        wire.scheduler.keep_runs(run_bytes)
        assert max(chunk.span.length for chunk in wire.drain()) == longest


@BROKEN_OFF
def test_after_a_break_exactly_what_is_missing_goes(mid_chunk: bool) -> None:
    """Nothing of what was queued, under way or half-sent is left: what is missing is sent, once."""
    wire = Wire("ordered")
    wire.break_off(page(5), mid_chunk=mid_chunk)
    wire.request(page(9))
    missing = set_of(HUGE_PAGES, [page_span(2), page_span(9)])
    scheduler = wire.scheduler
    scheduler.begin_again(missing)
    assert (scheduler.queued_requests, scheduler.preempted_page) == (0, None)
    assert not scheduler.wants_preemption
    assert scheduler.take_notices() == []
    sent = []
    while (chunk := scheduler.next_chunk()) is not None:
        assert not chunk.urgent
        sent.append(chunk.span)
        scheduler.chunk_sent()
    assert sum(span.length for span in sent) == missing.length_bytes
    assert {HUGE_PAGES.pages_of(hull_of(span))[0] for span in sent} == {2, 9}
    assert missing.length_bytes == 2 * HUGE


def page_span(index: int) -> Span:
    """Return the bytes of a page."""
    return HUGE_PAGES.page_span(page(index))


@pytest.mark.parametrize("asked_for", [False, True], ids=["background", "urgent"])
def test_what_came_changed_goes_again_behind_what_is_out(asked_for: bool) -> None:
    """Pages that are wanted again while their chunk is out end with it, and go a second time."""
    scheduler = Wire("ordered", MIXED, chunk_bytes=64 * BASE).scheduler
    if asked_for:
        scheduler.request(page(0), 0, 1)
    first = scheduler.next_chunk()
    assert first is not None
    assert first.urgent is asked_for
    scheduler.send_again(target_pages(0, 1))
    assert scheduler.chunk_sent() == first.span.length // BASE
    sent = []
    while (chunk := scheduler.next_chunk()) is not None:
        sent.append(chunk.span)
        scheduler.chunk_sent()
    assert sent[-1] == target_pages(0, 1)
    whole = sum(block.length_bytes for block in MIXED.blocks)
    assert sum(span.length for span in [first.span, *sent]) == whole + BASE


def test_what_was_not_begun_can_be_taken_back() -> None:
    """Between two chunks the rest comes back whole, and nothing is left; not while one is out."""
    scheduler = Wire("ordered", MIXED, chunk_bytes=64 * BASE).scheduler
    whole = scheduler.remaining_bytes
    chunk = scheduler.next_chunk()
    assert chunk is not None
    with pytest.raises(LocalProtocolError, match="cannot be taken back"):
        scheduler.withdraw()
    assert scheduler.unsent_bytes == whole
    scheduler.chunk_sent()
    # The page that was begun is part of it.
    withdrawn = scheduler.withdraw()
    assert withdrawn.length_bytes == whole - chunk.span.length
    assert not withdrawn.holds_any(chunk.span)
    assert (scheduler.remaining_bytes, scheduler.unsent_bytes) == (0, 0)
    scheduler.add(withdrawn, across_pages=True)
    assert scheduler.remaining_bytes == withdrawn.length_bytes
