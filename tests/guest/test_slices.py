"""Long jobs are driven to their end, answered in between, and cleaned up when cancelled."""

import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from guest.slices import Job, finish, in_loop, in_thread, in_threads
from protocol.errors import GuestFailed


class Countdown:
    """A job of some slices that notes what became of it."""

    def __init__(self) -> None:
        self.slice_count = 0
        self.is_closed = False

    def run(self, slice_count: int) -> Job[str]:
        """Yield so many times and return "done"."""
        try:
            for _ in range(slice_count):
                self.slice_count += 1
                yield 1
            return "done"
        finally:
            self.is_closed = True


def test_finish_returns_the_result() -> None:
    """Without an event loop a job runs to its end in one go."""
    countdown = Countdown()
    assert finish(countdown.run(3)) == "done"
    assert countdown.slice_count == 3


@pytest.mark.parametrize("drive", [in_loop, in_thread])
async def test_drivers_return_the_result(drive: Callable[[Job[str]], Awaitable[str]]) -> None:
    """On the loop and in a thread, a job's result is what the driver returns."""
    with trio.fail_after(5):
        assert await drive(Countdown().run(3)) == "done"


@pytest.mark.parametrize("drive", [in_loop, in_thread])
async def test_drivers_pass_errors_on(drive: Callable[[Job[str]], Awaitable[str]]) -> None:
    """What a job raises is what the driver raises."""

    def fail() -> Job[str]:
        yield 1
        raise ValueError("half-way")

    with trio.fail_after(5), pytest.raises(ValueError, match="half-way"):
        await drive(fail())


async def test_in_loop_lets_others_run_between_slices() -> None:
    """A long job on the loop does not keep other tasks waiting for its end."""
    countdown = Countdown()
    seen: list[int] = []

    async def look() -> None:
        while countdown.slice_count < 100:
            seen.append(countdown.slice_count)
            await trio.lowlevel.checkpoint()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await in_loop(countdown.run(100))
    assert len(seen) > 50


@pytest.mark.parametrize("drive", [in_loop, in_thread])
async def test_cancelling_closes_the_job(
    drive: Callable[[Job[str]], Awaitable[str]],
    until: Callable[[Callable[[], bool]], Awaitable[None]],
) -> None:
    """A cancelled job stops after its slice and runs its clean-up."""
    countdown = Countdown()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drive, countdown.run(1 << 62))
        await until(lambda: countdown.slice_count > 3)
        nursery.cancel_scope.cancel()
    await until(lambda: countdown.is_closed)


async def test_in_thread_leaves_a_blocked_job_behind(tmp_path: Path) -> None:
    """Cancellation does not wait for a pipe that nobody writes."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def read() -> Job[None]:
        yield 0
        fifo.read_bytes()

    with trio.fail_after(5):
        with trio.move_on_after(0.05) as scope:
            await in_thread(read())
        assert scope.cancelled_caught
    # Let the abandoned thread go.
    os.close(os.open(fifo, os.O_WRONLY))


async def test_threads_do_every_slice_once() -> None:
    """Whoever is free takes the next; there are as many as processors, and two work together."""
    together = threading.Barrier(min(len(os.sched_getaffinity(0)), 2))
    done: list[int] = []

    def do(part: int) -> None:
        if part < together.parties:
            together.wait(5)
        done.append(part)

    with trio.fail_after(10):
        await in_threads(do, range(100))
    assert sorted(done) == list(range(100))


async def test_what_a_slice_raises_ends_all_threads() -> None:
    """The error is the only one that is heard, and the rest is left undone."""
    done: list[int] = []

    def do(part: int) -> None:
        if part == 10:
            raise GuestFailed("no memory")
        done.append(part)
        time.sleep(0.001)

    with trio.fail_after(10), pytest.raises(GuestFailed, match="no memory"):
        await in_threads(do, range(10_000))
    assert len(done) < 10_000
