"""Sees a migration through its breaks on the destination: pause, wait, resume, or give up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from dest.admission import Resumes
from dest.config import DestConfig
from dest.migration import DRAIN_SECONDS_MAX, Migration
from guest.streams.keepalive import keep_alive
from protocol import events
from protocol.capabilities import KEEPALIVE, RECOVER
from protocol.errors import (
    ConnectionLost,
    as_loss,
    root_cause,
)
from protocol.events import Emit
from protocol.liveness import PauseLimit
from protocol.states import Lifecycle, State

# How long a destination that has the last word stays for a source that did not hear it.
LAST_WORD_SECONDS_MAX = 3.0

# Where a break does not end the session, if both sides can recover.
_RESUMABLE = frozenset(
    {State.DEVICE, State.POSTCOPY_ACTIVE, State.POSTCOPY_RECOVER, State.COMPLETED}
)


class Recovery:
    """Runs one migration over as many epochs as it takes."""

    def __init__(
        self,
        config: DestConfig,
        migration: Migration,
        resumes: Resumes,
        capabilities: tuple[str, ...],
        lifecycle: Lifecycle,
        emit: Emit,
    ) -> None:
        """Prepare; `run` migrates."""
        self._config = config
        self._migration = migration
        self._resumes = resumes
        self._capabilities = capabilities
        self._lifecycle = lifecycle
        self._emit = emit
        self._limit = PauseLimit(config.wait_seconds)

    async def run(self) -> None:
        """Migrate; return when the source's verdict is known.

        Raises:
            ConnectionLost: A connection is lost, and no other came in its place.
            PeerAborted, RemoteProtocolError, GuestFailed: The migration failed.
        """
        migration = self._migration
        loss = await self._epoch(migration.begin)
        while loss is not None:
            with trio.move_on_after(self._seconds_to_wait()) as patience:
                channels = await self._resumes.take()
            if patience.cancelled_caught:
                if migration.closing is not None:
                    return
                seconds = self._config.wait_seconds
                raise ConnectionLost(f"{loss}, and the source did not come back in {seconds:g} s")
            self._limit.go_on(trio.current_time())
            loss = await self._epoch(partial(migration.resume, channels))

    def _seconds_to_wait(self) -> float:
        """Begin a pause; return how long it may last."""
        # Where nothing has come since the break before, the pauses add up.
        migration = self._migration
        hosted = migration.hosted
        self._limit.lacks(len(hosted.missing) if hosted.handed_over else float("inf"))
        now = trio.current_time()
        self._limit.pause(now)
        known = migration.closing is not None
        return min(self._limit.seconds_left(now), LAST_WORD_SECONDS_MAX if known else float("inf"))

    async def _epoch(self, opening: Callable[[], Awaitable[None]]) -> ConnectionLost | None:
        """Migrate over the present connections; return why they are gone, None at the end."""
        migration = self._migration
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._give_way)
                await opening()
                for channel in migration.channels.values() if self._has(KEEPALIVE) else ():
                    seconds_max = self._config.silence_seconds_max
                    nursery.start_soon(keep_alive, channel, "source", seconds_max)
                await migration.receive()
                await migration.close()
                nursery.cancel_scope.cancel()
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            if self._resumable:
                cause = as_loss(cause)
            if not isinstance(cause, ConnectionLost):
                raise cause from None
            self._emit(events.ChannelLost(channel=cause.channel, reason=str(cause)))
            if not self._resumable:
                raise cause from None
            migration.interrupt()
            return cause
        return None

    @property
    def _resumable(self) -> bool:
        waits = self._has(RECOVER) and self._config.wait_seconds > 0
        return waits and self._lifecycle.state in _RESUMABLE

    async def _give_way(self) -> None:
        """End this epoch when the source has come with new connections: it knows of a break."""
        await self._resumes.wait()
        # What came before the break may lie in the kernel yet, and its end behind it.
        await trio.sleep(DRAIN_SECONDS_MAX)
        raise ConnectionLost("the source lost a connection")

    def _has(self, capability: str) -> bool:
        return capability in self._capabilities
