"""What an executor says over a connection, and what it takes in small frames from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dest.words import Word
from protocol import events
from protocol.errors import ConnectionLost, root_cause
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.messages import PageRequest
from tests.bounds import bounded
from tests.dest_executors import PER_PAGE, POST, PRE, Rig, make_rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    """An engine that places whole pages."""
    with make_rig() as made:
        yield made


@pytest.fixture
def critical() -> Iterator[Rig]:
    """An engine that places target pages."""
    with make_rig("critical-first") as made:
        yield made


class Line:
    """A connection that takes so much at once, and the rest when it is told to."""

    def __init__(self) -> None:
        """Take nothing at once."""
        self.room = 0
        self.error: ConnectionLost | None = None
        self.at_once: list[Word] = []
        self.in_turn: list[Word] = []
        self.may_go = trio.Event()

    @property
    def can_send_now(self) -> bool:
        """Whether nobody waits in `send`."""
        return self.may_go.is_set()

    def send_now(self, *words: Word) -> bool:
        """Take words if there is room."""
        if self.error is not None:
            raise self.error
        if not self.room:
            return False
        self.room -= 1
        self.at_once += words
        return True

    async def send(self, word: Word) -> None:
        """Take a word once it may go."""
        await self.may_go.wait()
        self.in_turn.append(word)


def request(page: int) -> PageRequest:
    """Return the request for the first target page of a page of the first block."""
    return PageRequest(block=0, page=page, target_page=0)


async def test_what_cannot_go_at_once_goes_in_its_turn(rig: Rig) -> None:
    """Requests keep their order whatever the connection takes, and each is told once."""
    rig.start_postcopy()
    line = Line()
    heard: list[tuple[str, int]] = []
    rig.engine.watch(lambda what, which: heard.append((what, which.index)))
    rig.executor.fault(0, 0, 5)
    # There is no connection to ask over yet.
    rig.executor.say()
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.executor.converse, line)
            await wait_all_tasks_blocked()
            rig.executor.fault(1, PER_PAGE, 5)
            rig.executor.say()
            assert line.in_turn == line.at_once == []
            line.may_go.set()
            await wait_all_tasks_blocked()
            assert line.in_turn == [request(0), request(1)]
            line.room = 1
            rig.executor.fault(2, 2 * PER_PAGE, 5)
            rig.executor.say()
            assert line.at_once == [request(2)]
            rig.executor.fault(3, 3 * PER_PAGE, 5)
            rig.executor.say()
            await wait_all_tasks_blocked()
            assert line.in_turn[2:] == [request(3)]
            nursery.cancel_scope.cancel()
    assert heard == [("requested", index) for index in range(4)]
    assert [each["page"] for each in rig.events.of(events.PageRequest)] == [0, 1, 2, 3]


async def test_what_is_to_be_said_together_goes_as_one(rig: Rig) -> None:
    """Requests of several vCPUs are one piece for a connection, and all or none of them go."""
    rig.start_postcopy()
    line = Line()
    line.may_go.set()
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.executor.converse, line)
            await wait_all_tasks_blocked()
            for vcpu in (2, 0, 1):
                rig.executor.fault(vcpu, vcpu * PER_PAGE, 5)
            rig.executor.say()
            # None of them went, and all go in their turn.
            await wait_all_tasks_blocked()
            assert (line.at_once, line.in_turn) == ([], [request(2), request(0), request(1)])
            line.room = 1
            rig.executor.fault(3, 3 * PER_PAGE, 5)
            rig.executor.fault(0, 4 * PER_PAGE, 5)
            rig.executor.say()
            assert len(line.at_once) == 2
            nursery.cancel_scope.cancel()
    assert len(rig.events.of(events.PageRequest)) == 5


def test_small_frames_that_came_together_are_placed_together(critical: Rig) -> None:
    """Nothing is placed before `settle`; then all is, in the order in which it came."""
    critical.start_postcopy()
    for vcpu, target_page in enumerate((9, 700, 3)):
        critical.fault(vcpu, target_page)
    for target_page in (9, 3, 700):
        critical.begin(POST, 0, target_page * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES)
        critical.executor.progress(POST, TARGET_PAGE_BYTES)
        critical.executor.end_small(POST)
    assert critical.hear_wakes() == critical.guest.woken == []
    critical.executor.settle()
    assert critical.guest.woken == [0, 2, 1]
    critical.executor.settle()
    assert critical.guest.woken == [0, 2, 1]


@pytest.mark.parametrize("then", ["end", "interrupt"])
def test_what_small_frames_brought_is_placed_whatever_comes_next(critical: Rig, then: str) -> None:
    """A larger frame, or a break, does not leave behind what waits to be placed."""
    critical.start_postcopy()
    critical.fault(1, 9)
    critical.begin(POST, 0, 9 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES)
    critical.executor.progress(POST, TARGET_PAGE_BYTES)
    critical.executor.end_small(POST)
    if then == "end":
        critical.bring_part(PRE, 64, 16)
    else:
        critical.executor.interrupt()
    assert critical.guest.woken == [1]


async def test_a_connection_that_breaks_when_a_page_is_asked_for_ends_its_task(rig: Rig) -> None:
    """Whoever asks at once is not bothered with it; the next connection has the request."""
    rig.start_postcopy()
    line = Line()
    line.may_go.set()
    line.error = ConnectionLost("it broke")

    async def ask() -> None:
        with bounded():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.executor.converse, line)
                await wait_all_tasks_blocked()
                rig.executor.fault(0, 0, 5)
                rig.executor.say()

    with pytest.raises(ExceptionGroup) as caught:
        await ask()
    assert root_cause(caught.value) is line.error
    rig.executor.interrupt()
    rig.engine.resumed()
    again = Line()
    again.may_go.set()
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.executor.converse, again)
            await wait_all_tasks_blocked()
            assert again.in_turn == [request(0)]
            nursery.cancel_scope.cancel()
