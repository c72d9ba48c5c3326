"""Long jobs over guest memory, cut in slices so that an event loop can breathe between them.

Filling, populating, digesting, saving and replaying all walk the whole guest.  Each is a generator
that yields after a bounded slice the number of bytes (or steps) just done and returns its result at
the end.  Nothing happens until somebody drives it:

    in_loop    on the event loop, with a checkpoint after every slice: work in memory only
    in_thread  in a worker thread: work that may block in the kernel (files, pipes)
    finish     without an event loop: tests and tools

Where no slice needs another, several threads do them at once: `in_threads`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import trio

from guest import clock
from protocol.errors import root_cause

T = TypeVar("T")

Job = Generator[int, None, T]

# A slice is a job for the memory more than for a processor: with more threads they would mostly
# wait for each other.
_THREAD_COUNT_MAX = 4


def finish(job: Job[T]) -> T:
    """Run a job to its end in one go and return its result."""
    while True:
        try:
            next(job)
        except StopIteration as stop:
            result: T = stop.value
            return result


async def in_loop(job: Job[T]) -> T:
    """Run a job on the event loop, a checkpoint after every slice, and return its result.

    Cancellation closes the job between two slices; what it has done so far stays done.
    """
    try:
        while True:
            try:
                next(job)
            except StopIteration as stop:
                result: T = stop.value
                return result
            await trio.lowlevel.checkpoint()
    finally:
        job.close()


async def in_thread(job: Job[T]) -> T:
    """Run a job in a worker thread and return its result.

    Cancellation returns at once, though the thread may hang in a call of the kernel (a pipe that
    nobody writes); the thread itself ends after the slice that it is in and cleans up.  Where time
    is virtual there is no thread: it would go on while the clock runs away from it.
    """
    if clock.is_virtual():
        return await in_loop(job)

    def drive() -> T:
        try:
            while True:
                try:
                    next(job)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                trio.from_thread.check_cancelled()
        finally:
            job.close()

    return await trio.to_thread.run_sync(drive, abandon_on_cancel=True)


async def in_threads(do: Callable[[T], object], slices: Iterable[T]) -> None:
    """Do each of many slices, in worker threads; returns when all are done.

    There are as many threads as this process may use processors, up to four.  Cancellation is that
    of `in_thread`.

    Args:
        do: Does one, in a moment; several at the same time.
        slices: All of them; begun in this order.
    """
    waiting = deque(slices)

    def work() -> Job[None]:
        while True:
            try:
                part = waiting.popleft()
            except IndexError:
                return
            do(part)
            yield 1

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(min(len(os.sched_getaffinity(0)), _THREAD_COUNT_MAX)):
                nursery.start_soon(in_thread, work())
    except BaseException as error:  # noqa: BLE001 - raised again as its root cause
        raise root_cause(error) from None
