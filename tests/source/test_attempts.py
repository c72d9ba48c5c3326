"""Attempts to resume: when, where and for how long, and what their user reads of them."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import events
from protocol.errors import ConnectionLost, MigrationError
from protocol.messages import Standing
from protocol.pageset import PageSet
from source.attempts import ATTEMPT_SECONDS_MIN, RETRY_SECONDS_MAX, Attempts, Order, Retries
from source.endings import Break
from source.resumption import Lacking
from source.steps import Attempt, Do, Now, Step, Within
from tests.guests import small_geometry
from tests.sides import source_config
from tests.stories import Recorder

LOSS = ConnectionLost("the cable is out", "precopy")
INF = float("inf")


class Play:
    """Attempts that are played: what comes of each step goes in, the next comes out.

    Attributes:
        story: (seconds, step) of all that were taken.
        failures: What comes of attempts, one after the other; the last of all others.
        at: What happens before an attempt, by its number.
    """

    def __init__(self, seconds_max: float, *failures: str) -> None:
        """Break at once."""
        self.events = Recorder()
        self.lines: list[str] = []
        config = source_config(small_geometry(), 7, reconnect_seconds=seconds_max)
        self.attempts = Attempts(config, self.events, self.lines.append)
        self.now = Now(0)
        self.story: list[tuple[float, Step]] = []
        self.failures = list(failures)
        self.orders: dict[int, tuple[str, int]] = {}
        self.given: list[Order] = []
        self.takes_seconds = 0.0

    def run(self) -> None:
        """Make attempts to the end."""
        steps = self.attempts.run(LOSS, self.now)
        answer: object = None
        try:
            while True:
                step = steps.send(answer)
                self.story.append((self.now.seconds, step))
                answer = self._do(step)
        except StopIteration:
            return

    def _do(self, step: Step) -> object:
        if isinstance(step, Within):
            assert step.step is Do.LOOK_OUT
            self.now.ns += round(step.seconds * 1e9)
            return None
        assert isinstance(step, Attempt)
        if step.number in self.orders:
            self.given.append(self.attempts.redirect(*self.orders[step.number]))
        self.now.ns += round(self.takes_seconds * 1e9)
        return self.failures.pop(0) if len(self.failures) > 1 else self.failures[0]

    @property
    def made(self) -> list[Attempt]:
        """The attempts."""
        return [step for _, step in self.story if isinstance(step, Attempt)]


def lacking(pages: int) -> tuple[Standing, Lacking]:
    """Return what a destination says that lacks so many pages."""
    standing = Standing(running=True, target_pages=pages, dropped_bytes=0)
    return standing, Lacking(cast("PageSet", range(pages)), {})


def test_time_is_up() -> None:
    """Attempts come later and later until the time is over, and none is longer than that."""
    play = Play(7.0, "nobody listens")
    play.attempts.broke(Break(LOSS), 0)
    with pytest.raises(ConnectionLost) as caught:
        play.run()
    assert str(caught.value) == ("the cable is out; it could not be resumed in 7 s: nobody listens")
    assert caught.value.channel == "precopy"
    assert play.now.seconds == 7
    assert not play.attempts.trying
    assert [each.number for each in play.made] == list(range(1, 10))
    assert play.made[0] == Attempt("127.0.0.1", 7, 1, 7.0)
    assert play.made[-1].seconds == ATTEMPT_SECONDS_MIN
    told = play.events.of(events.ResumeAttempt)
    assert {(each["outcome"], each["reason"]) for each in told} == {("failed", "nobody listens")}
    assert play.lines[0] == "attempt 1 to resume at 127.0.0.1:7: nobody listens"


def test_an_attempt_that_succeeds_is_the_last() -> None:
    """Then the session is resumed, and nothing more is tried."""
    play = Play(60.0, "no", "no", "")
    play.attempts.broke(Break(LOSS), 0)
    play.run()
    assert len(play.made) == 3
    assert play.lines[-1] == "attempt 3 to resume at 127.0.0.1:7: resumed"


def test_a_session_may_break_for_ever() -> None:
    """The time is given anew when memory has left, or has arrived; else pauses add up."""
    attempts, now = Play(60.0).attempts, 0.0
    for missing in range(3000, 0, -1):
        attempts.broke(Break(LOSS), now)
        now += 50
        assert attempts.seconds_left(now) == pytest.approx(10)
        attempts.went_on(*lacking(missing), now)
    for _ in range(3000):
        attempts.broke(Break(LOSS, has_sent=True), now)
        now += 50
        assert attempts.seconds_left(now) == pytest.approx(10)
        attempts.went_on(*lacking(1), now)
    attempts.broke(Break(LOSS), now)
    assert attempts.seconds_left(now + 5) == pytest.approx(5)


def test_attempts_begin_at_once_again_when_memory_has_arrived() -> None:
    """What is gone for a moment costs no more than the moment, however often it goes."""
    play = Play(60.0, "no", "no", "no", "")
    play.attempts.broke(Break(LOSS), 0)
    play.run()
    for missing, delay in ((9, 0.0), (9, 0.05), (8, 0.0)):
        play.attempts.went_on(*lacking(missing), play.now.seconds)
        play.attempts.broke(Break(LOSS), play.now.seconds)
        before = len(play.story)
        play.run()
        assert play.story[before][1] == Within(Do.LOOK_OUT, delay)


def test_who_waits_for_an_attempt_hears_that_the_user_ended_it() -> None:
    """An attempt that does not come to its end is no failure of the address."""
    play = Play(60.0, "")
    play.attempts.broke(Break(LOSS), 0)
    steps = play.attempts.run(LOSS, play.now)
    steps.send(None)
    order = play.attempts.redirect("10.0.0.9", 8)
    assert isinstance(steps.send(None), Attempt)
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt())
    assert order.failure == "the source has given up"


def test_a_last_word_is_not_waited_for_as_long() -> None:
    """A source that only wants to hear that all is well gives up sooner, this once."""
    attempts = Play(60.0).attempts
    attempts.broke(Break(LOSS, 3.0), 0)
    assert attempts.seconds_left(1) == 2
    attempts.broke(Break(LOSS), 1)
    assert attempts.seconds_left(1) > 3


def test_who_has_paused_by_hand_is_waited_for() -> None:
    """Nothing is tried until time is up, and then once, for as long as it takes."""
    play = Play(20.0, "nobody listens")
    play.attempts.broke(Break(LOSS, by_hand=True), 0)
    with pytest.raises(ConnectionLost):
        play.run()
    assert play.story == [
        (0, Within(Do.LOOK_OUT, 20.0)), (20, Attempt("127.0.0.1", 7, 1, INF)),
    ]  # fmt: skip


def test_another_address_comes_next_and_has_its_time() -> None:
    """The attempt that is under way gives way; who said so reads what came of it there."""
    play = Play(60.0, "it is silent", "refused: no", "")
    play.attempts.broke(Break(LOSS), 0)
    play.orders = {1: ("10.0.0.9", 8)}
    play.run()
    assert play.story[2:4] == [(0, Within(Do.LOOK_OUT, 0.0)), (0, Attempt("10.0.0.9", 8, 2, INF))]
    assert play.lines == [
        "attempt 1 to resume at 127.0.0.1:7: another address is tried",
        "attempt 2 to resume at 10.0.0.9:8: refused: no",
        "attempt 3 to resume at 10.0.0.9:8: resumed",
    ]
    (order,) = play.given
    assert order.failure == "refused: no"
    with pytest.raises(MigrationError, match="refused: no; it does not go on trying"):
        play.attempts.answer(order, 1)


def test_each_word_of_the_user_has_its_answer() -> None:
    """One that another follows, one that nothing has come of yet, and one that was heeded."""
    attempts = Play(60.0).attempts
    attempts.broke(Break(LOSS), 0)
    attempts.trying = True
    first, second = attempts.redirect("10.0.0.9", 8), attempts.redirect("10.0.0.7", 9)
    with pytest.raises(MigrationError, match="told of another address meanwhile; it goes on"):
        attempts.answer(first, 5)
    with pytest.raises(MigrationError) as caught:
        attempts.answer(second, 5)
    assert str(caught.value) == (
        "nothing came of it in 45 s; it goes on trying 10.0.0.7:9 for 55 s"
    )
    second.settle("")
    assert attempts.answer(second, 6) == "resumed at 10.0.0.7:9"


def test_who_is_heard_too_late_reads_that_it_is_over() -> None:
    """When attempts end, nobody waits for one any more."""
    play = Play(1.0, "no")
    play.attempts.broke(Break(LOSS), 0)
    play.takes_seconds = 0.7
    play.orders = {2: ("10.0.0.9", 8)}
    with pytest.raises(ConnectionLost):
        play.run()
    assert play.given[0].failure == "no"
    order = play.attempts.redirect("10.0.0.7", 9)
    with pytest.raises(MigrationError, match="does not go on trying, time is up"):
        play.attempts.answer(order, 60)


def test_attempts_come_later_and_later() -> None:
    """The first attempt is at once, the pauses between the others double up to a bound."""
    retries = Retries()
    delays = [retries.next_delay(100.0) for _ in range(9)]
    assert delays == [0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert delays[-1] == RETRY_SECONDS_MAX


@given(st.lists(st.floats(0, 3), max_size=30))
def test_no_attempt_begins_after_the_end(takes: list[float]) -> None:
    """However long attempts take, none begins after the end, and there is always one."""
    retries = Retries()
    now, attempts = 0.0, 0
    for seconds in takes:
        delay = retries.next_delay(5.0 - now)
        if delay is None:
            assert now >= 5
            return
        assert now + delay <= 5
        now += delay + seconds
        attempts += 1
    assert attempts == len(takes)
