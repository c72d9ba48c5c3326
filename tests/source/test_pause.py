"""A pause by hand: when it is one, and what who ordered it hears."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from protocol.errors import MigrationError
from protocol.events import ignore
from protocol.states import Event, Lifecycle, State
from source.pause import Pause, PausedByHand
from tests.bounds import bounded

TO_POSTCOPY = (Event.CONNECTED, Event.PREPARED, Event.GUEST_STOPPED, Event.POSTCOPY_STARTED)


def in_postcopy() -> Lifecycle:
    """Return what is postcopy-active."""
    lifecycle = Lifecycle(ignore)
    for event in TO_POSTCOPY:
        lifecycle.fire(event)
    return lifecycle


async def test_a_pause_in_time() -> None:
    """The epoch ends, and who ordered that hears of it when the state says so; so do others."""
    lifecycle = in_postcopy()
    pause = Pause(lifecycle, lambda: True)
    heard: list[State] = []

    async def order() -> None:
        await pause.order()
        heard.append(lifecycle.state)

    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(order)
            nursery.start_soon(order)
            with pytest.raises(PausedByHand):
                await pause.heed()
            assert heard == []
            lifecycle.interrupt()
            pause.over()
        assert heard == [State.POSTCOPY_PAUSED] * 2
        # The next epoch knows nothing of it.
        with trio.move_on_after(0.01) as patience:
            await pause.heed()
        assert patience.cancelled_caught


async def test_a_pause_that_comes_too_late() -> None:
    """What has completed meanwhile is not broken any more."""
    lifecycle = in_postcopy()
    pause = Pause(lifecycle, lambda: True)

    async def order() -> None:
        with pytest.raises(MigrationError, match="too late: the state is completed"):
            await pause.order()

    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(order)
            await wait_all_tasks_blocked()
            lifecycle.fire(Event.ALL_PLACED)
            nursery.start_soon(pause.heed)
            await wait_all_tasks_blocked()
            pause.over()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("count", range(len(TO_POSTCOPY)))
async def test_a_pause_before_postcopy(count: int) -> None:
    """Elsewhere the order is refused, and forgotten."""
    lifecycle = Lifecycle(ignore)
    for event in TO_POSTCOPY[:count]:
        lifecycle.fire(event)
    pause = Pause(lifecycle, lambda: True)
    with pytest.raises(MigrationError, match=f"this one is {lifecycle.state.value}"):
        await pause.order()


async def test_a_pause_that_could_not_end() -> None:
    """What could not be resumed is not paused."""
    with pytest.raises(MigrationError, match="--reconnect-for is 0"):
        await Pause(in_postcopy(), lambda: False).order()
