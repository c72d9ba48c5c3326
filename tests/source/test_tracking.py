"""What becomes of requests, told in virtual time: the scheduler decides, and each step takes some.

The playbooks send a guest of huge pages in chunks of a quarter of a page, each of which takes ten
ticks to be handed to its socket.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock
from protocol.limits import BEHIND_COUNT_MAX, VCPU_COUNT_MAX
from protocol.messages import RequestAnswer
from protocol.pageset import PageSet
from protocol.policy import PRESETS, preset
from source.jobs import Answer, Chunk, Lane
from source.scheduler import Scheduler
from source.tracking import RequestTracker

HUGE = 2 << 20
CHUNK = HUGE // 4
CHUNK_TICKS = 10


class Playbook:
    """A scheduler, its tracker, and a clock that goes on when something is sent."""

    def __init__(self, policy: str = "ordered", pages: int = 12) -> None:
        """Have all of a guest to send."""
        geometry = Geometry((RamBlock("ram", pages * HUGE, HUGE),))
        self.policy = preset(policy)
        self.scheduler = Scheduler(geometry, self.policy, CHUNK)
        self.tracker = RequestTracker(geometry, critical=self.policy.critical)
        self.now = 1000
        self.told: list[RequestAnswer] = []
        self._out: dict[Lane, Chunk] = {}
        missing = PageSet(geometry)
        missing.fill()
        self.scheduler.add(missing, postcopy=True)

    def request(self, index: int, target_page: int = 0) -> Answer:
        """Have a request read."""
        page = PageId(0, index)
        answer = self.scheduler.request(page, target_page, self.now)
        breaks_off = self.scheduler.wants_preemption
        self.tracker.asked(page, target_page, answer, self.now, breaks_off=breaks_off)
        return answer

    def begin(self, lane: Lane = Lane.ALL) -> Chunk | None:
        """Have the next chunk begun."""
        chunk = self.scheduler.next_chunk(lane)
        if chunk is not None:
            self.tracker.begun(chunk, lane, self.now)
            self._out[lane] = chunk
        return chunk

    def end(self, lane: Lane = Lane.ALL, ticks: int = CHUNK_TICKS) -> None:
        """Have what was begun be whole with its socket, after a while."""
        self.now += ticks
        self.scheduler.chunk_sent(lane)
        self.tracker.sent(
            self._out.pop(lane), lane, self.now,
            goes_on=self.scheduler.is_sending(lane), lacks=self.scheduler.lacks,
        )  # fmt: skip
        self.told += self.tracker.take(self.now)

    def break_off(self, ticks: int = 3) -> None:
        """Have what was begun broken off in its middle."""
        self.now += ticks
        del self._out[Lane.ALL]
        self.tracker.interrupted(Lane.ALL, self.now)
        self.scheduler.chunk_interrupted(begun=True)

    def send(self, chunks: int, lane: Lane = Lane.ALL) -> None:
        """Have so many chunks sent."""
        for _ in range(chunks):
            assert self.begin(lane) is not None
            self.end(lane)

    def drain(self) -> None:
        """Have everything sent, lane by lane, what is begun first."""
        for lane in self.scheduler.lanes:
            if lane in self._out:
                self.end(lane)
            while self.begin(lane) is not None:
                self.end(lane)

    def answer_for(self, index: int) -> RequestAnswer:
        """Return what was told of a page."""
        (answer,) = (each for each in self.told if each.page == index)
        return answer

    def figures(self, index: int) -> tuple[str, int, int, int]:
        """Return a page's answer, and how long it was queued, put off and sent."""
        told = self.answer_for(index)
        return told.answer, told.queued_ns, told.postponed_ns, told.sending_ns


def test_a_queued_page_waits_for_those_before_it() -> None:
    """Its time in the queue, the pages of that time, and the time in which it is sent."""
    book = Playbook()
    book.begin()
    for index in (5, 9, 7):
        assert book.request(index) is Answer.QUEUED
    book.break_off()
    book.drain()
    assert [book.figures(index) for index in (5, 9, 7)] == [
        ("queued", 3, 0, 40),
        ("queued", 43, 0, 40),
        ("queued", 83, 0, 40),
    ]
    assert [book.answer_for(index).behind for index in (5, 9, 7)] == [
        (),
        ((0, 5),),
        ((0, 5), (0, 9)),
    ]
    assert book.answer_for(7).came_ns == 1000
    assert book.answer_for(7).behind_count == 2


def test_the_half_sent_page_is_boosted_in_its_turn() -> None:
    """It waits behind what was asked for before it, and what is left of it is sent."""
    book = Playbook()
    book.send(1)
    book.begin()
    book.request(9)
    book.break_off()
    # Page 0 lies there with a chunk sent and another begun.
    assert book.request(0) is Answer.QUEUED
    book.request(5)
    book.drain()
    assert book.figures(0) == ("boosted", 40, 0, 30)
    assert book.answer_for(0).behind == ((0, 9),)
    assert book.answer_for(5).behind == ((0, 9), (0, 0))


def test_a_page_that_is_being_sent_becomes_urgent_in_place() -> None:
    """It waits for nothing: from the request on its bytes are being sent."""
    book = Playbook()
    book.send(1)
    book.begin()
    book.now += 4
    assert book.request(0) is Answer.URGENT_IN_PLACE
    book.end(ticks=6)
    book.drain()
    assert book.figures(0) == ("urgent-in-place", 0, 0, 26)
    assert book.answer_for(0).behind == ()


def test_of_a_page_that_was_sent_only_that_is_told() -> None:
    """It is told at once, and the source has no time in it."""
    book = Playbook()
    book.send(4)
    assert book.request(0) is Answer.ALREADY_SENT
    (told,) = book.tracker.take(book.now + 5)
    assert (told.answer, told.came_ns, told.told_ns) == ("already-sent", 1040, 1045)
    assert (told.queued_ns, told.postponed_ns, told.sending_ns, told.behind) == (0, 0, 0, ())


def test_drop_puts_the_half_sent_page_off() -> None:
    """It goes on when no request is queued; what it waits for till then is no queue."""
    book = Playbook("drop")
    book.send(1)
    book.begin()
    book.request(9)
    book.break_off()
    assert book.request(0) is Answer.POSTPONED
    book.request(5)
    book.drain()
    assert book.figures(0) == ("postponed", 0, 80, 30)
    assert book.answer_for(0).behind == ((0, 9), (0, 5))


def test_what_is_put_off_while_it_is_sent_is_being_sent() -> None:
    """Only where another request breaks it off does it wait."""
    book = Playbook("drop")
    book.begin()
    assert book.request(0) is Answer.POSTPONED
    book.end()
    book.begin()
    book.request(7)
    book.break_off(ticks=5)
    book.drain()
    assert book.figures(0) == ("postponed", 0, 40, 15 + 30)
    book = Playbook("drop")
    book.begin()
    book.request(0)
    book.drain()
    assert book.figures(0) == ("postponed", 0, 0, 40)


def test_beside_the_requests_the_background_sends_what_is_left_to_it() -> None:
    """With two lanes a page that the background is in the middle of is being sent all the time."""
    book = Playbook("parallel")
    book.begin(Lane.BACKGROUND)
    assert book.request(0) is Answer.POSTPONED
    book.request(6)
    book.send(4, Lane.URGENT)
    book.end(Lane.BACKGROUND, ticks=0)
    book.send(3, Lane.BACKGROUND)
    assert book.figures(6) == ("queued", 0, 0, 40)
    assert book.answer_for(6).behind == ()
    assert book.figures(0) == ("postponed", 0, 0, 40 + 30)


@pytest.mark.parametrize("policy", ["vanilla", "own-channel"])
def test_without_preemption_the_background_page_goes_before(policy: str) -> None:
    """A page that must end first is one that the request waits behind."""
    book = Playbook(policy)
    book.send(1)
    book.begin()
    book.request(7)
    book.drain()
    assert book.figures(7) == ("queued", 30, 0, 40)
    assert book.answer_for(7).behind == ((0, 0),)


def test_where_target_pages_are_asked_for_each_is_told_of() -> None:
    """Two of one page are two requests; the rest of the page is nobody's."""
    book = Playbook("critical-first")
    book.begin()
    for target_page in (9, 300):
        assert book.request(5, target_page) is Answer.QUEUED
    book.break_off()
    book.send(2)
    assert [(told.page, told.target_page) for told in book.told] == [(5, 9), (5, 300)]
    assert [(told.queued_ns, told.sending_ns) for told in book.told] == [(3, 10), (13, 10)]
    book.drain()
    assert len(book.told) == 2


def test_a_page_that_is_asked_for_twice_is_told_of_once() -> None:
    """The second request is answered with the first."""
    book = Playbook()
    book.begin()
    book.request(5)
    assert book.request(5) is Answer.DUPLICATE
    book.break_off()
    book.drain()
    assert book.figures(5) == ("queued", 3, 0, 40)


def test_resend_counts_the_page_that_goes_again() -> None:
    """What lay half-sent goes anew, whole; the frame that must still end is not its way."""
    book = Playbook("resend")
    book.send(1)
    book.begin()
    book.request(9)
    book.break_off()
    book.request(0)
    book.drain()
    assert book.figures(0) == ("queued", 40, 0, 40)


def test_few_of_many_pages_are_named() -> None:
    """All that went before are counted, also those that are long forgotten."""
    book = Playbook(pages=120)
    book.begin()
    for index in range(1, 101):
        book.request(index)
    book.break_off()
    book.drain()
    for index in (50, 100):
        told = book.answer_for(index)
        assert told.behind_count == index - 1
        assert len(told.behind) == BEHIND_COUNT_MAX
    assert book.answer_for(50).behind[0] == (0, 1)


def test_a_break_tells_what_was_open_and_what_it_may_have_lost() -> None:
    """Once, and as interrupted; what is asked for afterwards is told of as ever."""
    book = Playbook()
    book.begin()
    book.request(5)
    book.request(6)
    book.break_off()
    book.send(4)
    book.begin()
    book.now += 4
    book.tracker.broke(book.now)
    lost = {told.page: told for told in book.tracker.take(book.now)}
    assert all(told.interrupted for told in lost.values())
    assert sorted(lost) == [5, 6]
    assert (lost[6].queued_ns, lost[6].sending_ns) == (43, 4)
    book.tracker.broke(book.now)
    assert book.tracker.take(book.now) == []


def test_no_more_is_told_again_than_vcpus_can_wait_for() -> None:
    """Each vCPU waits for one page, so what was told long ago has arrived."""
    book = Playbook(pages=120)
    for index in range(100):
        book.send(4)
        assert book.request(index) is Answer.ALREADY_SENT
        book.tracker.take(book.now)
    book.tracker.broke(book.now)
    assert book.tracker.untold_count == VCPU_COUNT_MAX


def test_what_could_not_be_told_is_told_later() -> None:
    """It keeps its place, and is told with the time at which that was done."""
    book = Playbook()
    book.send(8)
    for index in (0, 1):
        book.request(index)
        untold = book.tracker.take(book.now)
        book.tracker.put_back(untold)
    told = book.tracker.take(book.now + 7)
    assert [(each.page, each.told_ns) for each in told] == [(0, 1087), (1, 1087)]


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from([name for name, each in PRESETS.items() if not each.concurrent]),
    storm=st.lists(
        st.one_of(st.integers(0, 11), st.just("send"), st.just("send"), st.integers(1, 9)),
        max_size=60,
    ),
    target_page=st.integers(0, HUGE // TARGET_PAGE_BYTES - 1),
)
def test_every_request_is_told_of_from_when_it_came_until_its_page_is_sent(
    policy: str, storm: list[int | str], target_page: int
) -> None:
    """Under whatever requests come when: once each, with all of its time at the source in it."""
    book = Playbook(policy)
    came: dict[int, int] = {}
    for step in storm:
        if step == "send":
            if book._out and book.scheduler.wants_preemption:
                book.break_off()
            elif book._out:
                book.end()
            else:
                book.begin()
            continue
        assert isinstance(step, int)
        came.setdefault(step, book.now)
        if book.request(step, target_page) is Answer.ALREADY_SENT:
            book.told += book.tracker.take(book.now)
        book.now += 1
    if book._out and book.scheduler.wants_preemption:
        book.break_off()
    book.drain()
    book.told += book.tracker.take(book.now)
    first = {told.page: told for told in reversed(book.told)}
    assert set(first) == set(came)
    for page, told in first.items():
        assert told.came_ns == came[page]
        assert min(told.queued_ns, told.postponed_ns, told.sending_ns) >= 0
        if told.answer != "already-sent":
            spent = told.queued_ns + told.postponed_ns + told.sending_ns
            assert told.came_ns + spent == told.told_ns
