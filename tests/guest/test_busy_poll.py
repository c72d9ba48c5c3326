"""How long an event loop stays awake, by a clock that stands still until it is told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from guest.busy_poll import BUSY_NS, BusyPoll


class Clock:
    """A clock that counts how often it is looked at."""

    def __init__(self) -> None:
        """Start at an hour that is not 0."""
        self.now_ns = 10**9
        self.looks = 0

    def __call__(self) -> int:
        """Return the time."""
        self.looks += 1
        return self.now_ns


@pytest.fixture
def processors(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """So many processors are this process's."""
    count: int = getattr(request, "param", 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(count)))
    return count


@asynccontextmanager
async def running(
    clock: Clock, *, yields: bool = False, vcpu_count: int = 0
) -> AsyncIterator[BusyPoll]:
    """Have a loop run that nothing is expected in yet."""
    poll = BusyPoll(yields=yields, vcpu_count=vcpu_count, now_ns=clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll.run)
        yield poll
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("processors")
async def test_the_loop_stays_awake_for_a_moment_and_others_run() -> None:
    """From each word that more is expected on, the loop goes round until the moment is over."""
    clock = Clock()
    async with running(clock) as poll:
        await wait_all_tasks_blocked()
        for _ in range(3):
            poll.prolong()
            clock.now_ns += BUSY_NS - 1
            before = clock.looks
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            # Two tasks take turns, whichever is first.
            assert 19 <= clock.looks - before <= 21
            clock.now_ns += 1
            await wait_all_tasks_blocked()


@pytest.mark.usefixtures("processors")
async def test_the_moment_is_prolonged_by_each_word() -> None:
    """What comes before the moment is over makes it as long as if it had just begun."""
    clock = Clock()
    async with running(clock) as poll:
        for _ in range(3):
            poll.prolong()
            clock.now_ns += BUSY_NS - 1
            await trio.lowlevel.checkpoint()
        before = clock.looks
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert clock.looks - before >= 19


@pytest.mark.parametrize("processors", [1], indirect=True)
@pytest.mark.usefixtures("processors")
async def test_the_only_processor_is_left_to_others() -> None:
    """Where there is no other processor the loop sleeps when it has nothing to do."""
    clock = Clock()
    async with running(clock) as poll:
        poll.prolong()
        await wait_all_tasks_blocked()
        assert clock.looks == 1


@pytest.mark.parametrize("processors", [2, 4], indirect=True)
async def test_processors_that_vcpus_need_are_left_to_them(processors: int) -> None:
    """The loop stays awake beside as many vCPUs as there are processors, and not beside more."""
    for vcpu_count in (processors, processors + 1):
        clock = Clock()
        async with running(clock, vcpu_count=vcpu_count) as poll:
            poll.prolong()
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            assert (clock.looks > 10) == (vcpu_count == processors)


@pytest.mark.parametrize("yields", [True, False])
@pytest.mark.usefixtures("processors")
async def test_who_shares_a_processor_with_vcpus_yields_it(
    monkeypatch: pytest.MonkeyPatch, yields: bool
) -> None:
    """Between two looks the processor is offered to others, or it is not."""
    yielded: list[int] = []
    monkeypatch.setattr("os.sched_yield", lambda: yielded.append(1))
    async with running(Clock(), yields=yields) as poll:
        poll.prolong()
        for _ in range(20):
            await trio.lowlevel.checkpoint()
    assert (len(yielded) > 10) == yields


@pytest.mark.usefixtures("processors")
async def test_rounds_for_nothing_are_told_from_rounds_with_work() -> None:
    """All rounds that find nothing count; of one in which something is done, a little does."""

    class Ticking(Clock):
        """A clock that goes on by 100 ns each time that it is looked at."""

        def __call__(self) -> int:  # type: ignore[explicit-override] # typing.override: from 3.12
            self.now_ns += 100
            return super().__call__()

    clock = Ticking()
    async with running(clock) as poll:
        poll.prolong()
        for number in range(20):
            await trio.lowlevel.checkpoint()
            clock.now_ns += 50_000 if number == 10 else 0
        looks = clock.looks
    # Each look but those of `prolong` and of the first round ends a round.
    assert (looks - 4) * 100 <= poll.polled_ns <= looks * 100 + 200
