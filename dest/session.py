"""A whole destination, from listening to its exit, whichever peer comes.

Who calls `DestSession.run` owns its task: cancelling it ends the migration, tells the source, and
leaves no process, socket or mapping behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio

from dest.config import SIMULATED, USERFAULT, HostConfig
from dest.hosted import Room
from dest.keeping import Keeper
from dest.listening import open_listener
from dest.migration import Migration
from dest.peer import Peer, Plan
from dest.script import find_steps
from guest import services
from guest.handle import GuestProcess, open_guest, start_process
from guest.memory import GuestMemory
from guest.slices import in_threads
from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    GuestFailed,
    MemoryLost,
    MidstreamError,
    PeerAborted,
    reason_of,
    root_cause,
)
from protocol.events import Emit
from protocol.messages import Abort
from protocol.policy import Policy
from protocol.report import DestPart, Result
from protocol.states import Event, Lifecycle
from protocol.units import format_bytes
from protocol.whereabouts import DEST, NOWHERE, SOURCE, Whereabouts

# How long the peer is given to take the reason why a session ends.
FAREWELL_SECONDS_MAX = 1.0

_WHOLE_ONLY = (
    "critical-first places 4 KiB at a time, and hugetlb memory is mapped by whole pages; "
    "take --backing thp or base"
)


@asynccontextmanager
async def make_room(
    config: HostConfig, plan: Plan, process: GuestProcess | None = None
) -> AsyncIterator[Room]:
    """Make room for a guest, whichever peer it comes from; nothing is left behind the block.

    Args:
        config: What the user said.
        plan: What comes.
        process: One that was started before; None for a new one.

    Raises:
        GuestFailed: There is none, or the user's placement cannot be had.
    """
    placement = config.placement
    hugetlb = may_use_hugetlb(placement, plan.policy)
    with GuestMemory.create(plan.geometry, config.backing, hugetlb=hugetlb) as memory:
        keeper = Keeper(memory, config.save)
        await in_threads(memory.populate_slice, memory.slices())
        service, reason = service_for(placement, plan.policy, memory.kinds)
        check_granted(placement, reason)
        async with open_guest(memory, plan.spec, service, process) as guest:
            reason = reason or guest.service.reason
            check_granted(placement, reason)
            yield Room(memory, guest, keeper, reason)


class DestSession:
    """Runs one destination: one migration."""

    def __init__(
        self,
        config: HostConfig,
        peer: Peer,
        emit: Emit,
        on_listening: Callable[[str], None],
        log: Callable[[str], None],
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            config: What the user said.
            peer: Whom the guest comes from.
            emit: Takes events.
            on_listening: Called with HOST:PORT when connections may come.
            log: Takes a line about each connection that is refused.
        """
        self._config = config
        self._peer = peer
        self._emit = emit
        self._on_listening = on_listening
        self._log = log
        self._lifecycle = Lifecycle(emit)
        self._migration: Migration | None = None
        # Somebody who has proved that he may has said that a guest comes.
        self._is_met = False

    @property
    def whereabouts(self) -> Whereabouts:
        """Where the guest is when the migration ends before its time, as far as this side knows."""
        if not self._is_met:
            return Whereabouts(NOWHERE)
        phases = self._migration.phases if self._migration is not None else None
        if phases is None or not phases.handed_over:
            return Whereabouts(SOURCE)
        missing = phases.missing
        memory = f"{format_bytes(missing.length_bytes)} of its memory is missing"
        return Whereabouts(DEST, memory if missing else "all of its memory is here")

    def part_so_far(self) -> DestPart | None:
        """Return what there is for a report when `run` has failed; None if it had no guest."""
        return self._migration.hosted.part() if self._migration is not None else None

    async def run(self) -> Result:
        """Listen, take one migration, and see it through.

        Raises:
            MidstreamError: One error that says best what went wrong; `exit_status` goes with it.
            trio.Cancelled: The caller's scope was cancelled; the source has been told.
        """
        config, peer = self._config, self._peer
        try:
            async with open_listener(
                config.host, config.port, self._log, peer.admission, peer.network
            ) as listener:
                self._on_listening(listener.address)
                async with start_process() as process:
                    await peer.arrive()
                    return await self._serve(process)
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            self._lifecycle.end(cause)
            raise cause from None

    async def _serve(self, process: GuestProcess) -> Result:
        config, peer = self._config, self._peer
        self._lifecycle.fire(Event.CONNECTED)
        self._is_met = True
        is_told = False
        try:
            plan = await peer.receive_plan()
            steps = find_steps(config.steps, plan.geometry, plan.spec.name)
            async with make_room(config, plan, process) as room:
                migration = self._migration = Migration(
                    peer, plan, room, self._lifecycle, self._emit, steps,
                    wait_seconds=config.wait_seconds,
                )  # fmt: skip
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(migration.watch, config.touches)
                        nursery.start_soon(room.keeper.run)
                        nursery.start_soon(peer.watch)
                        await migration.run()
                        # It may have ended without the source's last word, and before this.
                        await room.keeper.save()
                        nursery.cancel_scope.cancel()
                except BaseException as error:  # noqa: BLE001 - raised again as its outcome
                    is_told, cause = True, root_cause(error)
                    # Before the guest is saved, which takes its time.
                    await self._say_farewell(cause)
                    raise await migration.lose(cause) from None
                return self._result(migration)
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            if not is_told:
                await self._say_farewell(cause)
            raise cause from None

    def _result(self, migration: Migration) -> Result:
        closing = migration.phases.closing
        assert closing is not None, "a migration that ends well has been closed"
        status, first_mismatch = self._lifecycle.state.value, migration.hosted.first_mismatch
        result = self._peer.result(status, closing, first_mismatch)
        if migration.written is not None:
            result.report["midstream"]["image"] = migration.written.to_plain()
        return result

    async def _say_farewell(self, cause: BaseException) -> None:
        """Abort: say to the source why this ends, unless it knows or cannot be told."""
        if isinstance(cause, (ConnectionLost, MemoryLost, PeerAborted)):
            return
        cancelled = isinstance(cause, trio.Cancelled)
        reason = "cancelled by its user" if cancelled else reason_of(cause)
        channel = self._peer.channels[Channel.PRECOPY]
        with trio.move_on_after(FAREWELL_SECONDS_MAX) as scope, suppress(MidstreamError):
            scope.shield = True
            await self._peer.path.send(Abort(reason=reason, cancelled=cancelled))
            # To close a connection whose bytes were not all read is to throw away what is still on
            # its way to the other side; so the source closes first.
            await channel.wait_closed()


def may_use_hugetlb(placement: str, policy: Policy) -> bool:
    """Return whether hugetlb memory leaves the user the placement that was asked for.

    Args:
        placement: One of PLACEMENT_CHOICES.
        policy: Says whether parts of a page are placed.
    """
    return placement == SIMULATED or not policy.critical


def service_for(placement: str, policy: Policy, kinds: tuple[str, ...]) -> tuple[str, str]:
    """Return the service to ask of the guest process, and if it is none that was wished for, why.

    Args:
        placement: One of PLACEMENT_CHOICES.
        policy: Says whether parts of a page are placed.
        kinds: The kinds of the memory that was had.
    """
    if placement == SIMULATED:
        return services.NONE, ""
    if policy.critical and "hugetlb" in kinds:
        return services.NONE, _WHOLE_ONLY
    return services.USERFAULT, ""


def check_granted(placement: str, reason: str) -> None:
    """Refuse to go on without what was asked for by its name.

    Raises:
        GuestFailed: It cannot be had, for that reason.
    """
    if placement == USERFAULT and reason:
        raise GuestFailed(f"--placement userfault: {reason}")
