"""Runs an event loop that the first signal ends in order, in a command that is no loop itself."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from protocol.errors import MidstreamError, MigrationCancelled, root_cause
from scripts.processes.interrupts import SIGNALS, hold_signals, release_signals

T = TypeVar("T")


def run_until_signalled(do: Callable[[], Awaitable[T]]) -> T:
    """Run something to its end, or to the first signal that ends a command, which cancels it.

    Before and after, a signal is answered as it is around this; in between nothing may raise an
    exception where the event loop does not expect one, so signals wait until it hears them.

    Raises:
        MigrationCancelled: A signal came.
        MidstreamError: The one error that says best what went wrong.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return trio.run(_heeding, do)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


async def _heeding(do: Callable[[], Awaitable[T]]) -> T:
    received = ""
    result: list[T] = []

    async def listen(scope: trio.CancelScope) -> None:
        nonlocal received
        async for number in signals:
            received = received or signal.Signals(number).name
            scope.cancel()

    with trio.open_signal_receiver(*SIGNALS) as signals:
        release_signals()
        try:
            async with trio.open_nursery() as nursery:
                scope = trio.CancelScope()
                nursery.start_soon(listen, scope)
                with scope:
                    result.append(await do())
                nursery.cancel_scope.cancel()
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            # What fails while it is cancelled fails because of that.
            if not (received and isinstance(cause, MidstreamError)):
                raise cause from None
        finally:
            hold_signals()
    if not result:
        raise MigrationCancelled(f"cancelled by {received}")
    return result[0]
