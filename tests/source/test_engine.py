"""Playbooks of the sending engine: what happened, and what it wants done; then any order of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.streams.stream import Delivery
from protocol import events
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.pageset import PageSet
from protocol.policy import PRESETS
from source.background import POSTCOPY_RUN_BYTES_MIN
from source.buffering import SLACK_BYTES, YIELD_NS_MAX, Buffering
from source.commands import REQUEST, Room, Until
from source.jobs import Answer, Lane
from tests.guests import HUGE, KIB
from tests.source.stage import CHUNK, MS, PLENTY, Stage, small_memory, waiting
from tests.stories import Deaf

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
CHUNKS_PER_PAGE = HUGE // CHUNK
URGENT, BACKGROUND = Lane.URGENT, Lane.BACKGROUND


def kinds(story: list[str]) -> list[str]:
    """Return the first word of each thing that was done."""
    return [each.split()[0] for each in story]


# In the background.


def test_others_have_a_turn_behind_each_piece_of_the_background() -> None:
    """Requests that have come are heard before more is sent; then it is the stream that waits."""
    stage = Stage()
    stage.pipes[PRE].room = CHUNK + 500
    story = stage.run()
    assert kinds(story) == ["background", "turn", "background", "turn", "background", "room"]
    assert story[-2:] == ["background precopy 0", "room precopy"]


def test_all_goes_and_then_it_ends() -> None:
    """In order, over the precopy channel; what remains falls to the byte."""
    stage = Stage()
    whole = stage.engine.remaining_bytes
    assert whole == stage.memory.geometry.length_bytes
    stage.pipes[PRE].room = CHUNK // 2
    stage.run()
    frame = stage.outlets[PRE].open_frame
    assert frame is not None
    assert stage.engine.remaining_bytes == whole - CHUNK * frame.sent // frame.length
    stage.pipes[PRE].room = PLENTY
    assert stage.over()[-1] == "end"
    assert stage.engine.remaining_bytes == 0
    assert stage.pipes[POST].taken == b""
    assert [each["page"] for each in stage.events.of(events.PageSent)[:4]] == [0, 1, 2, 3]


def test_the_rest_is_left_between_two_frames_when_its_user_says_so() -> None:
    """He is asked with the time, before each frame, and none is left half-sent."""
    stage = Stage()
    asked: list[int] = []

    def is_due(now_ns: int) -> bool:
        asked.append(now_ns)
        return len(asked) > 3

    stage.engine.start(is_due)
    assert stage.run()[-1] == "end"
    assert asked == [stage.now_ns] * 4
    assert len(stage.pipes[PRE].spans()) == 3
    assert stage.outlets[PRE].open_frame is None


def test_the_limit_is_kept_and_a_new_one_holds_at_once() -> None:
    """The wait is as long as the bucket says; with a new rate it is worked out anew."""
    rate = 50 * CHUNK
    stage = Stage(rate=rate)
    *_, last = stage.run()
    wait = stage.wait
    assert isinstance(wait, Until)
    assert last == f"until {wait.at_ns}"
    assert 0 < wait.at_ns - stage.now_ns <= 20 * MS
    sent = stage.outlets[PRE].bytes_sent
    stage.now_ns = wait.at_ns
    stage.over()
    assert stage.outlets[PRE].bytes_sent > sent
    assert stage.rouse() == []
    stage.engine.pace(0, stage.now_ns)
    assert stage.rouse() == [Lane.ALL]
    assert stage.run()[-1] == "end"


def test_no_limit_holds_up_the_end_when_all_was_asked_for() -> None:
    """What the background waits to send goes urgently, and then there is nothing to wait for."""
    stage = Stage(rate=1)
    stage.run()
    assert isinstance(stage.wait, Until)
    # The page that the background stands at comes last: a request for it would have it go on.
    for block, shape in enumerate(stage.memory.geometry.blocks):
        for page in range(shape.page_count):
            if (block, page) != (0, 0):
                stage.request(page, block=block)
    assert stage.rouse() == []
    stage.request(0)
    assert stage.rouse() == [Lane.ALL]
    assert stage.run() == ["end"]
    assert stage.engine.remaining_bytes == 0


def test_a_new_limit_does_not_end_a_wait_for_room() -> None:
    """The stream is as full as it was."""
    stage = waiting()
    stage.engine.pace(1, stage.now_ns)
    assert stage.rouse() == []


def test_runs_are_as_long_as_the_channel_says_when_it_has_room_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rate is known anew each time that the kernel was full."""
    stage = waiting()
    heard: list[int] = []
    monkeypatch.setattr(stage.scheduler, "keep_runs", heard.append)
    monkeypatch.setattr(type(stage.outlets[PRE]), "run_bytes", 300_000)
    stage.over()
    assert heard == [300_000]


def longest_runs(stage: Stage, *, is_full: bool) -> list[int]:
    """Have all go, a frame in 100 us, and return how long each was."""
    outlet = stage.outlets[PRE]
    outlet.buffering = Buffering()
    while "end" not in stage.run(most=1):
        stage.now_ns += MS // 20
        if is_full:
            outlet.buffering.full(outlet.bytes_sent, stage.now_ns)
    return [span.length for span in stage.pipes[PRE].spans()]


@pytest.mark.parametrize("policy", ["ordered", "critical-first"])
def test_runs_grow_where_a_connection_is_never_full(policy: str) -> None:
    """A source whose processor is the limit sends longer ones, and so comes to more."""
    lengths = longest_runs(Stage(policy, chunk_bytes=HUGE, postcopy=True), is_full=False)
    if policy == "critical-first":
        assert lengths[:8] == [POSTCOPY_RUN_BYTES_MIN] * 8
        assert max(lengths) > 8 * POSTCOPY_RUN_BYTES_MIN
    else:
        # Huge pages go whole there, and small ones are too few.
        assert lengths == [HUGE] * 4 + [POSTCOPY_RUN_BYTES_MIN] * 2
    assert sum(lengths) == small_memory().geometry.length_bytes


def test_runs_stay_short_where_nothing_more_is_carried() -> None:
    """A connection that is full time and again is measured, and has what it deserves."""
    stage = Stage("critical-first", chunk_bytes=HUGE, postcopy=True)
    assert max(longest_runs(stage, is_full=True)) == POSTCOPY_RUN_BYTES_MIN


@pytest.mark.parametrize("broken_off", [False, True])
def test_a_frame_whose_last_byte_was_a_sign_of_life_is_sent(broken_off: bool) -> None:
    """Whoever pings sends a byte of the open frame, and that may be the last."""
    stage = waiting(took=CHUNK)
    if broken_off:
        stage.request(2)
    frame = stage.outlets[PRE].open_frame
    assert frame is not None
    left = frame.length - frame.sent
    stage.pipes[PRE].taken += b"".join(frame.rest(left))
    stage.outlets[PRE].took(frame, left)
    stage.over()
    assert stage.outlets[PRE].target_pages_sent == CHUNK // TARGET_PAGE_BYTES
    assert stage.pipes[PRE].spans() == [Span(0, 0, CHUNK)]
    next_frame = stage.outlets[PRE].open_frame
    assert next_frame is not None
    assert next_frame is not frame


# Requests while the background waits.


def test_a_request_is_served_in_the_same_call_and_nobody_is_woken() -> None:
    """The frame under way is broken off, the page goes whole, and the wait is the same one."""
    stage = waiting()
    wait, stopped_at = stage.wait, stage.outlets[PRE].bytes_sent
    assert stage.request(2) == [Answer.QUEUED]
    assert stage.pipes[POST].spans()[-1] == Span(0, 3 * HUGE - CHUNK, CHUNK)
    assert all(frame.urgent for frame in stage.pipes[POST].frames())
    assert stage.outlets[PRE].bytes_sent == stopped_at
    assert stage.engine.wait_of(Lane.ALL) is wait
    assert stage.rouse() == []
    # When there is room others have a turn, and then the frame goes on at its byte.
    stage.pipes[PRE].room = 10
    assert stage.over()[:2] == ["turn", "background precopy 10"]


@pytest.mark.parametrize("policy", ["ordered", "critical-first", "parallel"])
def test_without_a_listener_the_same_goes(policy: str) -> None:
    """On a page's way no event is made that nobody hears; the streams take the same bytes."""
    heard, unheard = Stage(policy, tracks=True), Stage(policy, tracks=True, emit=Deaf())
    for stage in (heard, unheard):
        stage.pipes[PRE].room = CHUNK + 500
        for lane in stage.scheduler.lanes:
            stage.run(lane)
        stage.request(2, 0, 2, target_page=3)
        stage.pipes[PRE].room = PLENTY
        for lane in reversed(stage.scheduler.lanes):
            stage.run(lane)
    assert heard.events.events
    assert heard.story == unheard.story
    assert heard.pipes[POST].taken == unheard.pipes[POST].taken != b""


def test_small_pages_that_were_asked_for_go_in_a_row() -> None:
    """Others have a turn behind the last of those that are known, and no more before it."""
    stage = Stage("critical-first")
    for index in (2, 0, 3):
        stage.engine.request(PageId(0, index), 5, stage.now_ns)
    assert kinds(stage.run(most=6)) == ["urgent", "urgent", "urgent", "turn", "turn", "background"]
    assert [each["page"] for each in stage.events.of(events.PageStart)[:3]] == [2, 0, 3]


def test_others_have_a_turn_behind_each_large_frame_of_a_page_that_was_asked_for() -> None:
    """What comes meanwhile is read before the next one: to send it takes longer than a turn."""
    stage = Stage()
    for index in (2, 0):
        stage.engine.request(PageId(0, index), 5, stage.now_ns)
    frames_per_page = CHUNKS_PER_PAGE
    story = kinds(stage.run(most=4 * frames_per_page))
    assert story[: 2 * frames_per_page] == ["urgent", "turn"] * frames_per_page


def test_requests_are_served_in_their_order_each_whole() -> None:
    """Also where the half-sent page is one of them: it goes where it began, in its turn."""
    stage = waiting()
    stage.give_room(PRE, PLENTY)
    assert stage.request(2, 0, 3) == [Answer.QUEUED] * 3
    sent = [(each["page"], each["channel"]) for each in stage.events.of(events.PageSent)]
    assert sent == [(2, "postcopy"), (0, "precopy"), (3, "postcopy")]
    assert "turn" not in stage.story[stage.story.index("room precopy") :]


def test_what_does_not_go_at_once_is_for_the_task() -> None:
    """It waits for the urgent channel instead; who asks meanwhile only queues."""
    stage = waiting()
    stage.pipes[POST].room = 100
    stage.request(2)
    assert stage.engine.wait_of(Lane.ALL) == Room(POST)
    assert stage.rouse() == [Lane.ALL]
    assert stage.request(3) == [Answer.QUEUED]
    assert stage.outlets[POST].bytes_sent == 100
    assert stage.run() == ["room postcopy"]
    stage.pipes[POST].room = PLENTY
    story = stage.over()
    # A turn behind each piece, two when nobody is left, and then the background.
    assert kinds(story)[:4] == ["urgent", "turn", "urgent", "turn"]
    assert kinds(story)[-5:] == ["urgent", "turn", "turn", "background", "room"]
    assert [each["page"] for each in stage.events.of(events.PageSent)] == [2, 3]


def test_the_half_sent_page_whose_stream_is_full_needs_no_wake() -> None:
    """It is urgent now, and still waits for the same room."""
    stage = waiting()
    stage.request(2, 0)
    assert stage.scheduler.urgent()
    assert stage.rouse() == []
    stage.pipes[PRE].room = PLENTY
    assert stage.over()[0].startswith("urgent precopy")


def test_a_page_asked_for_while_it_streams_keeps_to_no_limit() -> None:
    """What waits for its bandwidth goes on at once; what waits for room needs no wake."""
    stage = Stage(rate=KIB)
    stage.run()
    assert isinstance(stage.wait, Until)
    assert stage.request(0) == [Answer.URGENT_IN_PLACE]
    assert stage.rouse() == [Lane.ALL]
    assert stage.run()[0].startswith("urgent precopy")
    stage = waiting()
    assert stage.request(0) == [Answer.URGENT_IN_PLACE]
    assert stage.rouse() == []


def test_a_request_that_sends_nothing_changes_nothing() -> None:
    """Who waits goes on waiting, and nothing is broken off."""
    stage = Stage()
    stage.pipes[PRE].room = HUGE + HUGE // 2
    stage.run()
    wait = stage.wait
    before = stage.outlets[PRE].bytes_sent
    assert stage.request(0) == [Answer.ALREADY_SENT]
    assert stage.engine.wait_of(Lane.ALL) is wait
    assert stage.scheduler.preempted_page is None
    assert not stage.scheduler.urgent()
    assert stage.outlets[PRE].bytes_sent == before
    assert stage.events.of(events.PageRequest) == [
        {"block": 0, "page": 0, "answer": "already-sent"}
    ]


def test_a_request_that_is_put_off_leaves_the_background_to_its_task() -> None:
    """The page goes on as background: its task waits for nothing that is served meanwhile."""
    stage = waiting("drop")
    stage.request(2)
    assert stage.rouse() == []
    assert stage.request(0) == [Answer.POSTPONED]
    assert stage.rouse() == [Lane.ALL]
    assert stage.run() == ["background precopy 0", "room precopy"]


def test_a_page_of_which_nothing_went_is_as_never_begun() -> None:
    """Its frame is forgotten, and its own request goes where others go."""
    stage = waiting(took=0)
    stage.request(2, 0)
    sent = [(each["page"], each["channel"]) for each in stage.events.of(events.PageSent)]
    assert sent == [(2, "postcopy"), (0, "postcopy")]
    assert stage.events.of(events.Preempt) == []
    assert stage.scheduler.counts.preemptions == 0


def test_the_task_serves_what_came_while_it_did_not_wait() -> None:
    """In a turn of others nobody serves for it; it breaks off by itself when it goes on."""
    stage = Stage()
    stage.pipes[PRE].room = 1000
    stage.run(most=2)
    assert stage.story[-1] == "turn"
    stage.request(2)
    assert stage.pipes[POST].taken == b""
    assert stage.run(most=1)[0].startswith("urgent postcopy")


def test_a_wait_that_was_replaced_is_not_over() -> None:
    """Both may happen in one turn of an event loop: the old wait ends, and another is wanted."""
    stage = waiting()
    old = stage.wait
    stage.pipes[POST].room = 100
    stage.request(2)
    assert old is not None
    stage.engine.wait_over(Lane.ALL, old)
    assert stage.engine.wait_of(Lane.ALL) == Room(POST)


def test_two_turns_follow_the_last_urgent_byte() -> None:
    """In the first requests are noticed, in the second they are read."""
    stage = Stage("critical-first")
    stage.request(2, target_page=5)
    assert kinds(stage.run(most=4)) == ["urgent", "turn", "turn", "background"]


def test_each_urgent_frame_says_how_long_it_waited() -> None:
    """The queue's time is until a page's own first frame, though others were sent meanwhile."""
    stage = Stage()
    stage.request(1)
    stage.now_ns += 2 * MS
    stage.request(2)
    stage.now_ns += 3 * MS
    while len(stage.pipes[POST].spans()) < 2 * CHUNKS_PER_PAGE:
        if stage.run(most=1)[0].startswith("urgent"):
            stage.now_ns += MS
    frames = stage.pipes[POST].frames()
    first, second = frames[:CHUNKS_PER_PAGE], frames[CHUNKS_PER_PAGE:]
    steps_us = [1000 * each for each in range(CHUNKS_PER_PAGE)]
    assert {frame.queue_us for frame in first} == {5000}
    assert [frame.send_us for frame in first] == steps_us
    assert {frame.queue_us for frame in second} == {3000 + 1000 * CHUNKS_PER_PAGE}
    assert [frame.send_us for frame in second] == steps_us


# The background leaves the link to urgent bytes.


def test_the_background_waits_while_urgent_bytes_are_on_their_way() -> None:
    """It looks, waits as long as they take, and looks again; requests do not wait with it."""
    stage = Stage("critical-first", yields=True)
    stage.delivery = Delivery(SLACK_BYTES + 125_000, 125_000_000, 0)
    stage.request(2, target_page=5)
    assert stage.run()[-2:] == ["look postcopy", f"until {stage.now_ns + MS}"]
    stage.now_ns += MS // 2
    stage.request(3, target_page=7)
    assert stage.rouse() == []
    assert len(stage.pipes[POST].frames()) == 2
    assert stage.outlets[PRE].bytes_sent == 0
    stage.now_ns += MS // 2
    assert stage.over() == ["turn", "look postcopy", f"until {stage.now_ns + MS}"]
    stage.now_ns += MS
    stage.delivery = Delivery()
    assert kinds(stage.over())[:3] == ["look", "background", "turn"]
    # Nobody looks again until urgent bytes go.
    assert stage.story[-1] == "end"
    assert stage.story.count("look postcopy") == 3


def test_without_urgent_bytes_nobody_looks_for_them() -> None:
    """A background that nothing interrupts does not look at the other connection."""
    stage = Stage(yields=True)
    stage.run()
    assert stage.story[-1] == "end"
    assert "look postcopy" not in stage.story


def test_the_background_does_not_wait_for_ever() -> None:
    """What a connection does not get rid of is not waited for any longer."""
    stage = Stage("critical-first", yields=True)
    stage.delivery = Delivery(64 * SLACK_BYTES, 1, 0)
    stage.request(2, target_page=5)
    started_ns = stage.now_ns
    stage.run()
    while isinstance(wait := stage.wait, Until):
        stage.now_ns = wait.at_ns
        stage.over()
    assert stage.story[-1] == "end"
    assert 0 <= stage.now_ns - started_ns - YIELD_NS_MAX <= 5 * MS


# Two lanes.


def test_the_urgent_lane_waits_for_requests_and_serves_them_at_once() -> None:
    """Beside a full background, which is not broken off; it ends when that has ended."""
    stage = Stage("parallel")
    stage.pipes[PRE].room = 1000
    assert stage.run(URGENT) == ["request"]
    stage.run(BACKGROUND)
    stopped_at = stage.outlets[PRE].bytes_sent
    assert stage.request(2) == [Answer.QUEUED]
    assert stage.rouse() == []
    assert len(stage.pipes[POST].frames()) == CHUNKS_PER_PAGE
    assert stage.outlets[PRE].bytes_sent == stopped_at
    assert stage.engine.wait_of(URGENT) is REQUEST
    assert stage.engine.wait_of(BACKGROUND) == Room(PRE)
    stage.pipes[PRE].room = PLENTY
    assert stage.over(BACKGROUND)[-1] == "end"
    assert stage.rouse() == [URGENT]
    assert stage.run(URGENT) == ["end"]


def test_a_full_urgent_lane_goes_on_by_its_task() -> None:
    """It waits for room instead of for requests; what is asked for meanwhile follows in order."""
    stage = Stage("parallel")
    stage.pipes[PRE].room = 1000
    stage.pipes[POST].room = 100
    stage.run(URGENT)
    stage.run(BACKGROUND)
    stage.request(2)
    assert stage.rouse() == [URGENT]
    assert stage.run(URGENT) == ["room postcopy"]
    stage.request(1, 3)
    stage.pipes[POST].room = PLENTY
    assert stage.over(URGENT)[-1] == "request"
    assert [each["page"] for each in stage.events.of(events.PageSent)] == [2, 1, 3]


# Any order of events.

steps = st.lists(
    st.one_of(
        st.tuples(st.just("room"), st.sampled_from(Channel), st.integers(1, 3 * CHUNK)),
        st.tuples(st.just("request"), st.integers(0, 3), st.integers(0, 511)),
        st.tuples(st.just("small"), st.integers(0, 31), st.just(0)),
        st.tuples(st.just("go on"), st.integers(0, 1), st.integers(1, 5)),
        st.tuples(st.just("time"), st.integers(0, 30), st.just(0)),
    ),
    max_size=60,
)


class Tasks:
    """The tasks of all lanes, as an event loop runs them: who is not woken does nothing."""

    def __init__(self, stage: Stage) -> None:
        """Begin with none of them having run."""
        self.stage = stage
        self.lanes = list(stage.scheduler.lanes)
        self.ended: set[Lane] = set()

    def go_on(self, lane: Lane, most: int) -> bool:
        """Run a lane's task for so many commands, unless it waits and must go on waiting."""
        stage = self.stage
        if lane in self.ended:
            return False
        wait = stage.waits.get(lane)
        if wait is not None and lane not in stage.rouse():
            if not stage.is_over(wait):
                return False
            stage.engine.wait_over(lane, wait)
        if stage.run(lane, most=most)[-1:] == ["end"]:
            self.ended.add(lane)
        return True

    def play(self, kind: str, first: int | Channel, second: int) -> None:
        """Have something happen."""
        stage = self.stage
        if isinstance(first, Channel):
            stage.give_room(first, second)
        elif kind == "request":
            stage.request(first, target_page=second)
        elif kind == "small":
            stage.request(first, block=1)
        elif kind == "time":
            stage.now_ns += first * MS
        else:
            self.go_on(self.lanes[first % len(self.lanes)], second)

    def end(self) -> None:
        """Have room for everything, and time go on, until all tasks have ended."""
        for pipe in self.stage.pipes.values():
            pipe.room = PLENTY
        for _ in range(3000):
            went_on = [self.go_on(lane, 10**5) for lane in self.lanes]
            if len(self.ended) == len(self.lanes):
                return
            if not any(went_on):
                self.stage.now_ns += 10 * MS
        pytest.fail("a task sleeps for ever")


@pytest.mark.parametrize("policy", sorted(PRESETS))
@given(steps=steps, rate=st.sampled_from([0, 40 * CHUNK]), yields=st.booleans())
def test_whatever_happens_all_of_it_goes_once(
    policy: str, steps: list[tuple[str, int | Channel, int]], rate: int, yields: bool
) -> None:
    """Every byte goes, none twice but what a policy counts, and no task sleeps for ever."""
    stage = Stage(policy, rate=rate, tracks=True, yields=yields, chunk_bytes=4 * CHUNK)
    stage.delivery = Delivery(2 * SLACK_BYTES, 10**9, 0)
    stage.pipes[PRE].room = stage.pipes[POST].room = 0
    tasks = Tasks(stage)
    for step in steps:
        tasks.play(*step)
    tasks.end()
    assert stage.engine.remaining_bytes == 0
    gone = PageSet(stage.memory.geometry)
    twice_bytes = 0
    for pipe in stage.pipes.values():
        for span in pipe.spans():
            twice_bytes += gone.count_in(span) * TARGET_PAGE_BYTES
            gone.add(span)
    assert len(gone) == stage.memory.geometry.target_page_count
    assert twice_bytes == stage.scheduler.counts.resent_bytes


def test_a_page_outside_the_guest_is_nobodys() -> None:
    """Its request is refused before anything is broken off for it."""
    stage = waiting()
    with pytest.raises(RemoteProtocolError, match="outside the guest"):
        stage.engine.request(PageId(0, 4), 0, stage.now_ns)
    assert stage.scheduler.preempted_page is None
