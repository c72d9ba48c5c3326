"""One clock: the machine's, or trio's where time is virtual."""

import time

import trio
from trio.testing import MockClock

from guest import clock
from guest.slices import Job, in_thread


def test_the_machine_s_clock_is_the_usual_one() -> None:
    """Guest process and sides compare times, so it is the one that all of a machine share."""
    before = time.monotonic_ns()
    now_ns = clock.now_ns()
    assert before <= now_ns <= time.monotonic_ns()
    assert not clock.is_virtual()


def test_virtual_time_moves_when_everybody_waits() -> None:
    """An hour is nothing, no thread works beside it, and afterwards all is as it was."""

    async def wait_an_hour() -> tuple[int, int]:
        began_ns = clock.now_ns()
        await in_thread(iter_once())
        worked_ns = clock.now_ns() - began_ns
        await trio.sleep(3600)
        return worked_ns, clock.now_ns() - began_ns

    def iter_once() -> Job[None]:
        yield 1

    with clock.virtual():
        assert clock.is_virtual()
        assert trio.run(wait_an_hour, clock=MockClock(autojump_threshold=0)) == (0, 3600 * 10**9)
    assert not clock.is_virtual()
