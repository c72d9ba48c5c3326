"""The loop that carries phases out: what comes of a step, in which time, and what goes wrong."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from protocol.errors import ConnectionLost
from source.carrying import carry_out
from source.steps import LATE, Do, Drain, Now, Step, Steps, Within
from tests.clocks import trio_ns


class Told:
    """A phase that is told what came of its steps, and when."""

    def __init__(self, *wanted: Step) -> None:
        """Want these steps, one after the other."""
        self.now = Now()
        self.answers: list[object] = []
        self.times: list[float] = []
        self.failures: list[BaseException] = []
        self._wanted = wanted

    def run(self) -> Steps[str]:
        """Take the steps."""
        for step in self._wanted:
            try:
                self.answers.append((yield step))
            except ConnectionLost as error:
                self.failures.append(error)
            self.times.append(self.now.seconds)
        return "done"


async def test_a_step_has_its_time_and_no_more(autojump_clock: MockClock) -> None:
    """What is not done by then is cancelled; the phase hears of it, and of what time it is."""

    async def do(step: Step) -> object:
        await trio.sleep(5)
        return step

    told = Told(Do.HEAR, Within(Do.HEAR, 3), Within(Drain(), 6), Within(Do.HEAR, -1))
    assert await carry_out(told.run(), do, told.now, trio_ns) == "done"
    assert told.answers == [Do.HEAR, LATE, Drain(), LATE]
    assert told.times == [5, 8, 13, 13]
    assert autojump_clock.current_time() == 13


async def test_what_goes_wrong_in_a_step_is_the_phases_to_judge(
    autojump_clock: MockClock,
) -> None:
    """It may go on; what it does not take ends it, a cancellation too."""
    loss = ConnectionLost("gone")

    async def do(step: Step) -> object:
        if step is Do.HEAR:
            raise loss
        return await trio.sleep_forever()

    told = Told(Do.HEAR, Do.READ_ON)
    with trio.move_on_after(2) as scope:
        await carry_out(told.run(), do, told.now, trio_ns)
    assert scope.cancelled_caught
    assert told.failures == [loss]
    assert told.answers == []
    assert autojump_clock.current_time() == 2
