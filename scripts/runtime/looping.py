"""Runs an event loop that the first signal ends in order, in a command that is no loop itself."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Generic, TypeVar

import trio

from protocol.errors import MidstreamError, MigrationCancelled, root_cause
from scripts.runtime.interrupts import SIGNALS, check_raised

T = TypeVar("T")


def run_until_signalled(do: Callable[[], Awaitable[T]]) -> T:
    """Run something to its end, or to the first signal that ends a command, which cancels it.

    Before and after, a signal is answered as it is around this, and so is one that came too late to
    cancel anything.  In between nothing raises an exception where the event loop does not expect
    one.  What is being cancelled cleans up, and no later signal disturbs it.

    Raises:
        MigrationCancelled: A signal came.
        MidstreamError: The one error that says best what went wrong.
    """
    check_raised()
    loop = _Loop(do)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            signal.signal(number, loop.hear)
        result = trio.run(loop.run)
    finally:
        for number, handler in before.items():
            # Who was to answer a signal that came first may have told it what to do from then on.
            if signal.getsignal(number) == loop.hear:
                signal.signal(number, handler)
    if loop.heard is not None:
        signal.raise_signal(loop.heard)
    return result


class _Loop(Generic[T]):
    """One event loop: its task, and the signal that it has heard.

    Attributes:
        heard: The first signal that came.
    """

    def __init__(self, do: Callable[[], Awaitable[T]]) -> None:
        self.heard: signal.Signals | None = None
        self._do = do
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal, wherever the main thread is; the kernel may give it to any other.

        A signal that is blocked, so that it waits, would wait in that one thread only.
        """
        if self.heard is None:
            self.heard = signal.Signals(number)
            if self._token is not None:
                self._token.run_sync_soon(self._scope.cancel)

    async def run(self) -> T:
        """Run what is to be run; one signal cancels it."""
        self._token = trio.lowlevel.current_trio_token()
        if self.heard is not None:
            self._scope.cancel()
        try:
            with self._scope:
                return await self._do()
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            # What fails while it is cancelled fails because of that.
            if not (self.heard and isinstance(cause, MidstreamError)):
                raise cause from None
        finally:
            self._token = None
        assert self.heard is not None
        raise MigrationCancelled(f"cancelled by {self.heard.name}")
