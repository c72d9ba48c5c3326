"""Sees a migration through its breaks on the destination: pause, wait, resume, or give up."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from dest.config import DestConfig
from dest.keepalive import keep_alive
from dest.lost import describe_lost, missing_to_plain
from dest.migration import DRAIN_SECONDS_MAX, Migration
from dest.resumes import Resumes
from guest.handle import GuestHandle
from guest.image import save_image
from guest.memory import GuestMemory
from guest.slices import in_thread
from protocol.capabilities import KEEPALIVE, RECOVER
from protocol.errors import (
    ConnectionLost,
    MemoryLost,
    PeerAborted,
    RemoteProtocolError,
    root_cause,
)
from protocol.events import CHANNEL_LOST, MEMORY_LOST, Emit
from protocol.garbled import as_loss
from protocol.limits import CLOSING_SECONDS_MAX
from protocol.pageset import PageSet
from protocol.pausing import PauseLimit
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
        self._least_missing = float("inf")

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
        missing = len(self._migration.missing) if self._migration.handed_over else float("inf")
        if missing < self._least_missing:
            self._least_missing = missing
            self._limit.renew()
        now = trio.current_time()
        self._limit.pause(now)
        known = self._migration.closing is not None
        return min(self._limit.seconds_left(now), LAST_WORD_SECONDS_MAX if known else float("inf"))

    async def _epoch(self, opening: Callable[[], Awaitable[None]]) -> ConnectionLost | None:
        """Migrate over the present connections; return why they are gone, None at the end."""
        migration = self._migration
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._give_way)
                await opening()
                for channel in migration.channels.values() if self._has(KEEPALIVE) else ():
                    nursery.start_soon(keep_alive, channel, self._config.silence_seconds_max)
                await migration.receive()
                await migration.close()
                nursery.cancel_scope.cancel()
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            if self._resumable:
                cause = as_loss(cause)
            if not isinstance(cause, ConnectionLost):
                raise cause from None
            self._emit(CHANNEL_LOST, channel=cause.channel, reason=str(cause))
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


class Losing(Protocol):
    """What `outcome_of_loss` has to know of a migration."""

    @property
    def paused(self) -> bool:
        """Whether the source is waited for."""

    @property
    def handed_over(self) -> bool:
        """Whether the guest is this side's."""

    @property
    def missing(self) -> PageSet:
        """What of the guest's memory has not come."""

    def forget_frames(self) -> None:
        """Count what is half-received as missing."""

    def stop_watching(self) -> None:
        """Hear no more of the guest."""


async def outcome_of_loss(
    cause: BaseException,
    migration: Losing,
    memory: GuestMemory,
    guest: GuestHandle,
    save: Path | None,
    emit: Emit,
) -> BaseException:
    """Return how a failed migration is to be told; keep what is here of a guest that ran here.

    Args:
        cause: Why it failed.
        migration: What failed.
        memory: The guest's.
        guest: Ended if its memory is saved.
        save: Where to write the memory; a map of what it lacks goes beside it.
        emit: Takes events.
    """
    paused = migration.paused and isinstance(cause, trio.Cancelled)
    over = isinstance(cause, (ConnectionLost, PeerAborted, RemoteProtocolError))
    if not (migration.handed_over and (paused or over)):
        return cause
    migration.forget_frames()
    missing = migration.missing
    reason = "its user waits no longer for the source" if paused else str(cause)
    told = ""
    if save is not None:
        # Whoever cancels wants no more waiting, and would want the guest.
        with trio.move_on_after(CLOSING_SECONDS_MAX) as scope:
            scope.shield = True
            told = await _save(migration, memory, guest, save)
    if not len(missing):
        return cause if paused else type(cause)(f"{reason}; all memory of the guest is here{told}")
    emit(MEMORY_LOST, target_pages=len(missing), bytes=missing.length_bytes)
    return MemoryLost(f"{reason}; {describe_lost(missing)}{told}")


async def _save(migration: Losing, memory: GuestMemory, guest: GuestHandle, save: Path) -> str:
    """Write what is here; return in words what became of that."""
    try:
        migration.stop_watching()
        # It has no future, and a vCPU that waits for what is lost could not be paused.
        await guest.kill()
        await in_thread(save_image(memory, save))
        beside = Path(f"{save}.missing.json")
        text = json.dumps(missing_to_plain(migration.missing)) + "\n"
        await trio.to_thread.run_sync(partial(beside.write_text, text, encoding="utf-8"))
    except OSError as error:
        return f"; what is here is saved, but not what is missing: {error.strerror}"
    return f"; what is here is in {save}, what is missing in {beside.name}"
