"""What goes first waits for urgent bytes that lie below it, and for nothing else, nor for ever."""

from __future__ import annotations

import pytest

from guest.streams.stream import Delivery
from protocol import events
from protocol.channels import Channel
from source.commands import Until
from source.jobs import Answer
from source.leaving import STALL_NS, Leaving
from source.outlet import Outlet
from tests.guests import HUGE
from tests.source.stage import CHUNK, MS, PLENTY, Stage, waiting

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
LOOK = "look precopy"


def sent(stage: Stage) -> list[tuple[int, str]]:
    """Return the huge pages that are whole with a stream, in order, and with which."""
    told = stage.events.of(events.PageSent)
    return [(each["page"], each["channel"]) for each in told if each["block"] == 0]


def busy() -> Stage:
    """Return a stage of which page 0 lies half-sent while page 2 has been served."""
    stage = waiting(keeps_behind=True)
    stage.give_room(PRE, PLENTY)
    stage.request(2)
    assert sent(stage) == [(2, "postcopy")]
    return stage


def test_the_next_page_waits_until_the_half_sent_one_has_left() -> None:
    """It goes in its turn, and page 3 only when all of its bytes are acknowledged."""
    stage = busy()
    stage.delivery = Delivery(1, 125_000_000, 100)
    assert stage.request(0, 3) == [Answer.QUEUED] * 2
    assert sent(stage) == [(2, "postcopy"), (0, "precopy")]
    assert isinstance(stage.engine.wait_of(stage.engine.serving_lane), Until)
    taken = len(stage.pipes[POST].taken)
    stage.rouse()
    stage.run()
    stage.over()
    assert len(stage.pipes[POST].taken) == taken
    assert stage.pipes[PRE].room == PLENTY - stage.outlets[PRE].bytes_sent + 1000
    stage.delivery = Delivery(0, 125_000_000, 100)
    stage.over()
    assert sent(stage)[:3] == [(2, "postcopy"), (0, "precopy"), (3, "postcopy")]


def test_so_do_pages_behind_one_that_became_urgent_where_it_was() -> None:
    """The background comes first to the page: it is finished there, and has to leave."""
    stage = waiting(keeps_behind=True)
    assert stage.request(0) == [Answer.URGENT_IN_PLACE]
    stage.give_room(PRE, PLENTY)
    stage.over()
    stage = waiting(keeps_behind=True)
    stage.request(0)
    stage.delivery = Delivery(1)
    stage.give_room(PRE, PLENTY)
    stage.request(3)
    story = stage.over()
    assert story.count(LOOK) == 1
    assert sent(stage) == [(0, "precopy")]
    assert isinstance(stage.wait, Until)


def test_so_do_pages_behind_one_that_lies_in_the_socket() -> None:
    """It was sent in the background, and a vCPU asks for it: nothing goes again, it must leave."""
    stage = Stage(keeps_behind=True)
    stage.pipes[PRE].room = HUGE + HUGE // 2
    stage.run()
    assert stage.request(0) == [Answer.ALREADY_SENT]
    stage.delivery = Delivery(HUGE)
    stage.request(3)
    assert sent(stage) == [(0, "precopy")]
    stage.delivery = Delivery(0)
    stage.run()
    stage.over()
    assert sent(stage)[:2] == [(0, "precopy"), (3, "postcopy")]


def test_a_sign_of_life_gets_out_before_an_urgent_frame_goes_on() -> None:
    """An urgent page of any size does not keep the precopy connection silent."""
    stage = busy()
    stage.pipes[POST].room = CHUNK
    stage.request(3)
    assert stage.run() == ["room postcopy"]
    stage.outlets[PRE].owes_sign = True
    stage.delivery = Delivery(1)
    stage.pipes[POST].room = PLENTY
    story = stage.over()
    assert [each.split()[0] for each in story] == ["look", "until"]
    assert sent(stage) == [(2, "postcopy")]
    stage.delivery = Delivery(0)
    stage.over()
    assert sent(stage)[:2] == [(2, "postcopy"), (3, "postcopy")]


def test_a_sign_of_life_gets_out_in_the_middle_of_a_frame() -> None:
    """On a slow line a frame takes longer than a peer may be silent; what is awaited may wait."""
    stage = Stage(keeps_behind=True, chunk_bytes=HUGE)
    stage.pipes[PRE].room = 1000
    stage.run()
    stage.pipes[POST].room = CHUNK
    stage.request(3)
    assert stage.run() == ["room postcopy"]
    # What lies below is not waited for before the frame's end, but a sign of life is.
    stage.outlets[PRE].await_sent()
    stage.delivery = Delivery(1)
    stage.pipes[POST].room = CHUNK
    assert stage.over()[0] == f"urgent postcopy {CHUNK}"
    stage.outlets[PRE].owes_sign = True
    stage.pipes[POST].room = PLENTY
    assert [each.split()[0] for each in stage.over()] == ["look", "until"]
    # Who brings requests does not go on with it, either.
    stage.request(2)
    assert len(stage.pipes[POST].taken) == 2 * CHUNK
    stage.delivery = Delivery(0)
    stage.over()
    assert sent(stage)[0] == (3, "postcopy")


def test_what_a_break_has_left_of_pages_goes_before_all() -> None:
    """What is with the socket when the sending begins is awaited."""
    stage = Stage(keeps_behind=True)
    stage.outlets[PRE].bytes_sent = 5000
    stage.engine.start()
    stage.delivery = Delivery(1)
    stage.pipes[PRE].room = 0
    stage.run()
    stage.request(3)
    assert sent(stage) == []
    stage.delivery = Delivery(0)
    stage.run()
    stage.over()
    assert sent(stage) == [(3, "postcopy")]


def test_nobody_looks_where_nothing_is_awaited() -> None:
    """The background alone, and requests over the postcopy channel, cost no system call."""
    stage = waiting(keeps_behind=True)
    stage.request(2)
    stage.request(3, 1)
    assert LOOK not in stage.story
    assert len(sent(stage)) == 3


def test_who_asks_meanwhile_wakes_nobody() -> None:
    """The wait stays the one that it is until its time comes."""
    stage = busy()
    stage.delivery = Delivery(1)
    stage.request(0, 3)
    stage.run()
    wait = stage.wait
    assert isinstance(wait, Until)
    stage.request(1)
    assert stage.rouse() == []
    stage.now_ns = wait.at_ns
    looks = stage.story.count(LOOK)
    stage.serve()
    assert stage.story.count(LOOK) == looks + 1


def test_a_connection_that_does_not_move_holds_up_nobody_for_long() -> None:
    """What is held up further on is not in this host's queues, and may never come."""
    stage = busy()
    stage.deliveries[PRE] = Delivery(1)
    stage.request(0, 3)
    stage.run()
    began_ns = stage.now_ns
    wait_on(stage)
    assert STALL_NS <= stage.now_ns - began_ns < STALL_NS + 10 * MS


def test_while_bytes_that_go_first_leave_nothing_else_can() -> None:
    """On a slow line what the other socket holds takes longer: then nobody is stalled."""
    stage = busy()
    stage.deliveries[PRE] = Delivery(1)
    stage.request(0, 3)
    stage.run()
    for unacknowledged in range(100_000, 0, -20_000):
        stage.deliveries[POST] = Delivery(unacknowledged)
        wait_on(stage, STALL_NS)
        assert len(sent(stage)) == 2
    began_ns = stage.now_ns
    wait_on(stage)
    assert stage.now_ns - began_ns < STALL_NS + 10 * MS


@pytest.mark.parametrize(("unacknowledged", "times"), [(0, 1), (1, 2)])
def test_two_that_do_not_move_hold_up_nobody_for_long(unacknowledged: int, times: int) -> None:
    """What goes first is held up, too: the first look at it cannot tell, the second can."""
    stage = busy()
    stage.deliveries[PRE] = Delivery(1)
    stage.deliveries[POST] = Delivery(unacknowledged)
    stage.request(0, 3)
    stage.run()
    began_ns = stage.now_ns
    wait_on(stage)
    assert times * STALL_NS <= stage.now_ns - began_ns < times * (STALL_NS + 10 * MS)


def test_progress_is_waited_for() -> None:
    """A slow line may take its time, as long as it takes something."""
    leaving, outlet = make(sent_bytes=100_000)
    now_ns = 0
    for unacknowledged in range(100_000, 0, -1000):
        now_ns += STALL_NS - 1
        leaving.delivers(Delivery(unacknowledged))
        assert leaving.pause_ns(now_ns)
    leaving.delivers(Delivery(0))
    assert not leaving.pause_ns(now_ns)
    outlet.bytes_sent += 1
    assert not leaving.is_pending


def test_a_sign_of_life_is_waited_for_with_all_before_it() -> None:
    """What acknowledges the peer's signs lies behind that; what is sent later is no matter."""
    leaving, outlet = make(sent_bytes=0)
    outlet.bytes_sent, outlet.owes_sign = 64_000, True
    assert leaving.is_pending
    for unacknowledged in (60_000, 59_000, 1):
        leaving.delivers(Delivery(unacknowledged))
        assert leaving.pause_ns(0)
    outlet.bytes_sent += 7000
    leaving.delivers(Delivery(7000))
    assert leaving.pause_ns(0) == 0
    assert not outlet.owes_sign
    # Where all has left there is nothing to hold back for.
    outlet.owes_sign = True
    leaving.delivers(Delivery(0))
    assert leaving.pause_ns(0) == 0


def test_what_was_sent_behind_it_is_not_waited_for() -> None:
    """The background may have gone on since."""
    leaving, outlet = make(sent_bytes=1000)
    outlet.bytes_sent = 5000
    leaving.delivers(Delivery(4000))
    assert not leaving.pause_ns(0)


@pytest.mark.parametrize(
    ("delivery", "pause_ns"),
    [
        (Delivery(100_000), 200_000),
        (Delivery(100_000, 125_000_000, 100), 800_000),
        (Delivery(100_000, 125_000_000, 10_000), 2_500_000),
        (Delivery(100_000, 1000, 100), 5_000_000),
    ],
)
def test_the_wait_is_what_the_line_takes(delivery: Delivery, pause_ns: int) -> None:
    """Where that is known; or a part of the round trip, and never too short or too long."""
    leaving, _ = make(sent_bytes=100_000)
    leaving.delivers(delivery)
    assert leaving.pause_ns(0) == pause_ns


def make(sent_bytes: int) -> tuple[Leaving, Outlet]:
    """Return what waits for so many bytes of an outlet."""
    outlet = Outlet(PRE)
    outlet.bytes_sent = sent_bytes
    outlet.await_sent()
    return Leaving(outlet, Outlet(POST)), outlet


def wait_on(stage: Stage, for_ns: int = PLENTY) -> None:
    """Let time pass until the next page has been sent, or for so long."""
    until_ns, before = stage.now_ns + for_ns, len(sent(stage))
    while len(sent(stage)) == before and stage.now_ns < until_ns:
        assert isinstance(stage.wait, Until)
        stage.now_ns = max(stage.wait.at_ns, stage.now_ns + MS)
        stage.over()
