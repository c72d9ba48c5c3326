"""A whole destination, from listening to its exit.

Who calls `DestSession.run` owns its task: cancelling it ends the migration, tells the source, and
leaves no process, socket or mapping behind.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from dest.channel import InChannel
from dest.config import DestConfig
from dest.listen import Session, open_listener
from dest.migration import Migration
from dest.script import check_steps
from dest.setup import receive_setup
from dest.stopping import check_granted, may_use_hugetlb, service_for
from guest.handle import open_guest
from guest.image import save_image
from guest.memory import GuestMemory
from guest.slices import in_thread
from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    MemoryLost,
    MidstreamError,
    PeerAborted,
    WrongMemory,
    root_cause,
)
from protocol.events import Emit
from protocol.messages import Abort
from protocol.report import DestPart, assemble
from protocol.states import POSTCOPY, Event, Lifecycle

# How long the peer is given to take the reason why a session ends.
FAREWELL_SECONDS_MAX = 1.0


@dataclass(frozen=True)
class Result:
    """How a migration ended that did end.

    Attributes:
        report: See `protocol.report`.
        problem: The guest or the digest found wrong memory.
    """

    report: dict[str, Any]
    problem: WrongMemory | None


class DestSession:
    """Runs one destination: one migration."""

    def __init__(
        self,
        config: DestConfig,
        emit: Emit,
        on_listening: Callable[[str], None],
        log: Callable[[str], None],
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            config: What the user said.
            emit: Takes events.
            on_listening: Called with HOST:PORT when connections may come.
            log: Takes a line about each connection that is refused.
        """
        self._config = config
        self._emit = emit
        self._on_listening = on_listening
        self._log = log
        self._lifecycle = Lifecycle(emit)
        self._migration: Migration | None = None

    def part_so_far(self) -> DestPart | None:
        """Return what there is for a report when `run` has failed; None if it had no guest."""
        return self._migration.part_so_far() if self._migration is not None else None

    async def run(self) -> Result:
        """Listen, take one migration, and see it through.

        Raises:
            MidstreamError: One error that says best what went wrong; `exit_status` goes with it.
            trio.Cancelled: The caller's scope was cancelled; the source has been told.
        """
        try:
            async with open_listener(
                self._config.host, self._config.port, self._log, self._config.credentials
            ) as listener:
                self._on_listening(listener.address)
                session = await listener.accept_session()
                return await self._serve(session)
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            raise self._outcome(root_cause(error)) from None

    def _outcome(self, cause: BaseException) -> BaseException:
        """Bring the state to its end, and return the error as it is for the user."""
        lost = self._lifecycle.state in POSTCOPY and isinstance(
            cause, (ConnectionLost, PeerAborted)
        )
        if isinstance(cause, trio.Cancelled):
            self._lifecycle.cancel()
        else:
            self._lifecycle.fail()
        return MemoryLost(f"{cause}; memory of the guest is lost") if lost else cause

    async def _serve(self, session: Session) -> Result:
        self._lifecycle.fire(Event.CONNECTED)
        main = session.channels[Channel.PRECOPY]
        try:
            plan = await receive_setup(session)
            check_steps(self._config.steps, plan.geometry, plan.spec.name)
            placement = self._config.placement
            with GuestMemory.create(
                plan.geometry, self._config.backing, hugetlb=may_use_hugetlb(placement, plan.policy)
            ) as memory:
                await in_thread(memory.populate())
                service, reason = service_for(placement, plan.policy, memory.kinds)
                check_granted(placement, reason)
                async with open_guest(memory, plan.spec, service) as guest:
                    reason = reason or guest.service.reason
                    check_granted(placement, reason)
                    migration = Migration(
                        session, plan, memory, guest, self._lifecycle, self._emit,
                        self._config.steps,
                    )  # fmt: skip
                    migration.placement_reason = reason
                    self._migration = migration
                    migration.listen_to(self._config.touches)
                    return await self._migrate(migration, memory)
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            await _say_farewell(main, cause)
            raise cause from None

    async def _migrate(self, migration: Migration, memory: GuestMemory) -> Result:
        await migration.receive()
        part, verdict, source = await migration.close()
        if self._config.save is not None:
            await in_thread(save_image(memory, self._config.save))
        problem = None
        if part.mismatches + source.mismatches:
            problem = WrongMemory(
                f"the guest found wrong memory in {part.mismatches + source.mismatches} reads: "
                f"{migration.first_mismatch or 'on the source'}"
            )
        elif not verdict.equal:
            problem = WrongMemory(f"the memory here is wrong: {verdict.detail}")
        return Result(assemble(self._lifecycle.state.value, source, part), problem)


async def _say_farewell(channel: InChannel, cause: BaseException) -> None:
    """Tell the source why this ends, unless it knows or cannot be told."""
    if isinstance(cause, (ConnectionLost, PeerAborted)):
        return
    cancelled = isinstance(cause, trio.Cancelled)
    reason = "cancelled by its user" if cancelled else str(cause)
    with trio.move_on_after(FAREWELL_SECONDS_MAX) as scope, suppress(MidstreamError):
        scope.shield = True
        await channel.send(Abort(reason=reason, cancelled=cancelled))
        # To close a connection whose bytes were not all read is to throw away what is still on its
        # way to the other side; so the source closes first.
        await channel.wait_closed()
