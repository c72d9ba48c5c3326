"""Follows a run while it goes on: reads its spool a few times a second and has it shown."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from scripts.views.spool import Spool

if TYPE_CHECKING:
    from scripts.views.live import LiveState

# Four times a second is smooth enough to follow.
PERIOD_SECONDS = 0.25
# Whatever processor time it takes to read and to draw, so much longer nothing is done: the
# processor is the migration's.  How long others had it meanwhile does not count: on a busy machine
# that would leave nothing to see.
_REST_FACTOR = 50.0
# But a picture that is older than this is no longer the present.
REST_SECONDS_MAX = 1.0
# The most that is read at once; when more comes, what is shown lags behind.
_READ_BYTES_MAX = 4 << 20


class Watcher(Protocol):
    """Shows the present of a run, between entering and leaving it."""

    def __enter__(self) -> object:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """Leave everything as it was."""

    @property
    def dropped(self) -> int:
        """How many of those to whom it is shown were cut off because they did not keep up."""

    def show(self, state: LiveState, now_ns: int) -> None:
        """Show the present; called a few times a second, and once at the end."""

    async def run(self) -> None:
        """Do what showing takes, until cancelled."""

    async def farewell(self) -> None:
        """Bring to its end what was shown last; takes a bounded time."""

    def stay(self, spool: Spool) -> None:
        """Show the whole run when all else is over, if that is wanted, and return in the end."""


@asynccontextmanager
async def watching(spool: Spool | None, watchers: Sequence[Watcher]) -> AsyncIterator[None]:
    """Show a run for the block, and then its end."""
    if spool is None or not watchers:
        yield
        return
    # Imported late: only who watches waits for what it takes.
    from scripts.views.live import LiveState  # noqa: PLC0415

    state = LiveState()
    with ExitStack() as stack:
        for watcher in watchers:
            stack.enter_context(watcher)
        async with trio.open_nursery() as nursery:
            for watcher in watchers:
                nursery.start_soon(watcher.run)
            nursery.start_soon(_follow, spool, state, watchers)
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    _step(spool, state, watchers)
                    for watcher in watchers:
                        await watcher.farewell()
                nursery.cancel_scope.cancel()


async def _follow(spool: Spool, state: LiveState, watchers: Sequence[Watcher]) -> None:
    while True:
        before = time.thread_time()
        _step(spool, state, watchers)
        await trio.sleep(rest_seconds(time.thread_time() - before))


def rest_seconds(cpu_seconds: float) -> float:
    """Return how long to do nothing after a picture that took so much processor time."""
    return min(max(PERIOD_SECONDS, cpu_seconds * _REST_FACTOR), REST_SECONDS_MAX)


def _step(spool: Spool, state: LiveState, watchers: Sequence[Watcher]) -> None:
    from scripts.views.saved import parse_spooled  # noqa: PLC0415 - as above

    for event in parse_spooled(spool.read_new(_READ_BYTES_MAX)):
        state.take(event)
    for watcher in watchers:
        watcher.show(state, time.monotonic_ns())
