"""Carries out a phase: does each step, and tells what came of it and what time it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import trio

from source.steps import LATE, Now, Step, Steps, Within

T = TypeVar("T")


async def carry_out(
    steps: Steps[T], do: Callable[[Step], Awaitable[object]], now: Now, now_ns: Callable[[], int]
) -> T:
    """Carry a phase out; return what it comes to.

    Args:
        steps: The phase.
        do: Does a step, however long it takes, and returns what came of it.
        now: Takes the time, before the phase goes on.
        now_ns: Tells it.
    """
    go_on = partial(steps.send, None)
    while True:
        now.ns = now_ns()
        try:
            step = go_on()
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            go_on = partial(steps.send, await _in_time(step, do))
        except BaseException as error:  # noqa: BLE001 - the phase raises it again, or goes on
            go_on = partial(steps.throw, error)


async def _in_time(step: Step, do: Callable[[Step], Awaitable[object]]) -> object:
    if not isinstance(step, Within):
        return await do(step)
    with trio.move_on_after(max(step.seconds, 0)):
        return await do(step.step)
    return LATE
