"""What lies in the precopy connection behind much goes again: by playbooks, and over sockets."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from guest.streams.stream import Delivery
from guest.streams.tcp import TcpStream
from protocol import events
from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.messages import PageData
from protocol.policy import Policy, preset
from source.channel import OutChannel
from source.commands import Room
from source.jobs import Answer
from source.overtaking import BEHIND_BYTES_MAX
from tests.guests import HUGE, KIB, patterned_memory, small_geometry
from tests.sockets import Peer, tcp_pair
from tests.source.stage import CHUNK, PLENTY, Stage
from tests.source.test_sender import Rig

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
BASE = TARGET_PAGE_BYTES
PAGES_PER_CHUNK = CHUNK // BASE
PAGES_PER_HUGE = HUGE // BASE
LOOK = "look precopy"
SMALL = replace(preset("ordered"), name="ordered-overtakes", overtakes=True)
# A frame's head and some of its bytes.
BEGUN = 3 * BASE + 1000


def begun(*, room: int = BEGUN, tracks: bool = False) -> Stage:
    """Return a stage whose background waits for room, with so many bytes gone."""
    stage = Stage("critical-first", tracks=tracks, keeps_behind=True)
    stage.pipes[PRE].room = room
    stage.run()
    assert stage.wait == Room(PRE)
    return stage


def counts(stage: Stage) -> tuple[int, int, int]:
    """Return how many target pages and bytes went twice, and how many requests found them sent."""
    found = stage.scheduler.counts
    return found.copies, found.resent_bytes, found.already_sent


def test_what_lies_in_the_frame_under_way_goes_again() -> None:
    """At once and by itself; the frame is broken off, and its rest is nobody's hurry."""
    stage = begun()
    assert stage.request(0, target_page=10) == [Answer.SENT_AGAIN]
    assert stage.pipes[POST].spans() == [Span(0, 10 * BASE, BASE)]
    assert LOOK not in stage.story
    assert counts(stage) == (1, BASE, 0)
    assert stage.scheduler.preempted_page == PageId(0, 0)
    (overtaking,) = stage.events.of(events.Overtake)
    assert (overtaking["page"], overtaking["channel"]) == (0, "postcopy")
    stage.pipes[PRE].room = PLENTY
    assert all(each.startswith(("background precopy", "turn", "end")) for each in stage.over())
    assert stage.pipes[PRE].spans()[0] == Span(0, 0, CHUNK)
    assert stage.engine.remaining_bytes == 0
    # All that is sent once is told of once.
    assert len(stage.events.of(events.PageSent)) == len(
        {(each["block"], each["page"]) for each in stage.events.of(events.PageSent)}
    )


def test_it_is_told_of_as_what_it_is() -> None:
    """The request waits for its turn and is sent, whatever its frame's rest still lacks."""
    stage = begun(tracks=True)
    stage.request(0, target_page=10)
    (told,) = stage.engine.last_answers(stage.now_ns)
    assert (told.answer, told.page, told.target_page) == ("sent-again", 0, 10)


@pytest.mark.parametrize("with_socket", [False, True])
def test_its_first_copy_is_told_of_too(*, with_socket: bool) -> None:
    """That may be sooner there: it waited until its frame went on, or was on its way already."""
    stage = begun(room=2 * CHUNK, tracks=True)
    stage.delivery = Delivery(PLENTY)
    stage.ask(PageId(0, 2), 7)
    unit = PAGES_PER_CHUNK - 1 if with_socket else 2 * PAGES_PER_CHUNK - 1
    assert stage.ask(PageId(0, 0), unit) is Answer.SENT_AGAIN
    stage.now_ns += 500
    stage.serve()
    told = [each for each in stage.engine.last_answers(stage.now_ns) if each.page == 0]
    assert [(each.answer, each.queued_ns, each.sending_ns) for each in told] == [
        ("sent-again", 500, 0)
    ]
    assert told[0].first_queued_ns == (0 if with_socket else 500)


def test_what_was_taken_back_does_not_go_twice() -> None:
    """A frame of which no byte has gone is taken back, and with it what was asked for."""
    stage = begun(room=CHUNK + 100)
    while (frame := stage.outlets[PRE].open_frame) is not None and frame.sent:
        stage.give_room(PRE, frame.length - frame.sent)
        stage.over()
    assert frame is not None
    first = stage.outlets[PRE].target_pages_sent
    assert stage.request(0, target_page=first + 2) == [Answer.SENT_AGAIN]
    assert stage.pipes[POST].spans() == [Span(0, (first + 2) * BASE, BASE)]
    assert counts(stage) == (0, 0, 0)
    stage.pipes[PRE].room = PLENTY
    stage.over()
    went = [span for pipe in stage.pipes.values() for span in pipe.spans()]
    assert sum(span.length for span in went) == stage.memory.geometry.length_bytes


@pytest.mark.parametrize(
    ("behind_bytes", "again"), [(BEHIND_BYTES_MAX, False), (BEHIND_BYTES_MAX + 1, True)]
)
def test_what_is_with_the_socket_goes_again_behind_much(behind_bytes: int, *, again: bool) -> None:
    """How much of it has left is looked at once; what is soonest there where it is stays there."""
    stage = begun(room=2 * CHUNK)
    head = stage.outlets[PRE].open_frame
    assert head is not None
    first_end = stage.outlets[PRE].bytes_sent - head.sent
    # The last target page of the first frame ends there.
    stage.delivery = Delivery(stage.outlets[PRE].bytes_sent - first_end + behind_bytes)
    answer = Answer.SENT_AGAIN if again else Answer.ALREADY_SENT
    assert stage.request(0, target_page=PAGES_PER_CHUNK - 1) == [answer]
    assert stage.story.count(LOOK) == 1
    assert counts(stage) == ((1, BASE, 0) if again else (0, 0, 1))
    if not again:
        # The next urgent page waits for that page, and for no byte behind it.
        assert stage.outlets[PRE].awaited_bytes == first_end


def test_what_is_on_the_wire_is_in_nobodys_way() -> None:
    """Over a distance much is not acknowledged, and has left all the same."""
    stage = begun(room=4 * CHUNK)
    unacknowledged = stage.outlets[PRE].bytes_sent
    stage.delivery = Delivery(unacknowledged, 10**9, unacknowledged // 1000 + 1)
    assert stage.request(0, target_page=PAGES_PER_CHUNK + 3) == [Answer.ALREADY_SENT]
    stage.delivery = Delivery(unacknowledged, 10**9, 1)
    assert stage.request(0, target_page=PAGES_PER_CHUNK + 4) == [Answer.SENT_AGAIN]


def test_near_bytes_of_the_frame_under_way_make_it_no_more_urgent() -> None:
    """They are with the socket: the frame's rest does not go before what others ask for."""
    stage = begun()
    stage.delivery = Delivery(100)
    assert stage.request(0, target_page=0) == [Answer.ALREADY_SENT]
    assert not stage.scheduler.urgent()
    assert stage.request(1, target_page=5) == [Answer.QUEUED]
    assert stage.pipes[POST].spans() == [] or stage.pipes[POST].spans()[0].offset == HUGE + 5 * BASE


def test_what_went_twice_does_not_go_a_third_time() -> None:
    """Who asks once more waits for either copy."""
    stage = begun()
    assert stage.request(0, target_page=10) == [Answer.SENT_AGAIN]
    assert stage.request(0, target_page=10) == [Answer.ALREADY_SENT]
    stage.scheduler.begin_again(stage.scheduler.remaining.copy())
    assert counts(stage) == (1, BASE, 1)


def test_requests_are_served_in_their_order() -> None:
    """What goes again has its turn among the others."""
    stage = begun()
    for page, target_page in ((2, 7), (0, 10), (3, 8), (0, 10)):
        stage.ask(PageId(0, page), target_page)
    stage.serve()
    assert stage.pipes[POST].spans() == [
        Span(0, 2 * HUGE + 7 * BASE, BASE), Span(0, 10 * BASE, BASE),
        Span(0, 3 * HUGE + 8 * BASE, BASE),
    ]  # fmt: skip
    assert stage.scheduler.counts.duplicate == 1


def test_when_all_was_sent_nothing_goes_again() -> None:
    """Nobody is there who would send it, and what lies in the socket is the last of all."""
    stage = Stage("critical-first", keeps_behind=True)
    assert stage.run()[-1] == "end"
    stage.delivery = Delivery(PLENTY)
    assert stage.request(3, target_page=500) == [Answer.ALREADY_SENT]
    assert stage.scheduler.queued_requests == 0


@pytest.mark.parametrize("policy", [preset("ordered"), SMALL], ids=lambda policy: policy.name)
def test_a_huge_page_that_is_placed_whole_keeps_its_turn_and_its_channel(policy: Policy) -> None:
    """Its order is promised: it is finished where it began, whether small pages overtake or not."""
    stage = Stage(policy, keeps_behind=True)
    stage.pipes[PRE].room = BEGUN
    stage.run()
    assert stage.request(0) == [Answer.URGENT_IN_PLACE]
    assert counts(stage) == (0, 0, 0)


def test_a_small_page_goes_again_though_huge_ones_do_not() -> None:
    """Base pages travel in runs, and one that is asked for leaves its run."""
    stage = Stage(SMALL, keeps_behind=True)
    stage.pipes[PRE].room = 4 * HUGE + 200 * (4 * HUGE // CHUNK) + BEGUN
    stage.run()
    frame = stage.outlets[PRE].open_frame
    assert frame is not None
    assert stage.outlets[PRE].target_pages_sent >= 4 * HUGE // BASE
    first = stage.outlets[PRE].target_pages_sent - 4 * HUGE // BASE
    assert stage.request(first + PAGES_PER_CHUNK - 1, block=1) == [Answer.SENT_AGAIN]
    assert stage.pipes[POST].spans() == [Span(1, (first + PAGES_PER_CHUNK - 1) * BASE, BASE)]
    # The page is told of with its run, once.
    stage.pipes[PRE].room = PLENTY
    stage.over()
    told = stage.events.of(events.PageSent)
    assert sum(each.get("pages", 1) for each in told if each["block"] == 1) == 32


async def test_a_page_in_a_full_socket_overtakes_it() -> None:
    """Over real connections: nobody reads what is before it, and its copy is there all the same."""
    with (
        patterned_memory(small_geometry()) as memory,
        tcp_pair(16 * KIB) as (near, far),
        tcp_pair() as (near_2, far_2),
        ExitStack() as stack,
    ):
        out = {PRE: OutChannel(PRE, TcpStream(near)), POST: OutChannel(POST, TcpStream(near_2))}
        for each in out.values():
            stack.callback(each.close)
        channel = out[PRE]
        channel.keep_little_in_the_kernel()
        rig = Rig(memory, "critical-first", out, {PRE: Peer(far), POST: Peer(far_2)})
        rig.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.drain)
            await wait_all_tasks_blocked()
            # The kernel has no more room, and nobody reads.
            assert isinstance(rig.engine.wait_of(rig.engine.serving_lane), Room)
            frame = channel.open_frame
            # The last target page that is whole with the socket, or the one behind it.
            begun_count = frame.sent // BASE if frame is not None else 0
            wanted = channel.target_pages_sent + max(begun_count - 2, 0)
            page = PageId(0, wanted // PAGES_PER_HUGE)
            assert rig.request(page, wanted % PAGES_PER_HUGE) is Answer.SENT_AGAIN
            message, payload = await rig.peers[POST].receive()
            assert isinstance(message, PageData)
            assert (message.block, message.offset, message.urgent) == (0, wanted * BASE, True)
            assert payload == bytes(memory.views[0][wanted * BASE : (wanted + 1) * BASE])
            nursery.cancel_scope.cancel()
        assert rig.scheduler.counts.copies == 1
