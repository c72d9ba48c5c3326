"""A whole destination, from listening to its exit.

Who calls `DestSession.run` owns its task: cancelling it ends the migration, tells the source, and
leaves no process, socket or mapping behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import trio

from dest.admission import Resumes, Session, SessionAdmission
from dest.channel import InChannel
from dest.config import DestConfig, HostConfig
from dest.keeping import Keeper, outcome_of_loss
from dest.listening import open_listener
from dest.migration import Migration
from dest.placement import check_granted, may_use_hugetlb, service_for
from dest.recovery import Recovery
from dest.script import find_steps
from dest.setup import Plan, receive_setup
from guest.handle import GuestProcess, open_guest, start_process
from guest.interface import Guest
from guest.memory import GuestMemory
from guest.slices import in_threads
from guest.streams.network import Network, TcpNetwork
from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    MemoryLost,
    MidstreamError,
    PeerAborted,
    WrongMemory,
    reason_of,
    root_cause,
)
from protocol.events import Emit
from protocol.messages import Abort
from protocol.report import DestPart, Result, assemble
from protocol.states import Event, Lifecycle

# How long the peer is given to take the reason why a session ends.
FAREWELL_SECONDS_MAX = 1.0


class Room(NamedTuple):
    """What a guest needs here, made by `make_room`.

    Attributes:
        memory: Where its memory goes; populated.
        guest: Its vCPUs, in their process.
        keeper: Saves its memory.
        placement_reason: See `protocol.report.DestPart`.
    """

    memory: GuestMemory
    guest: Guest
    keeper: Keeper
    placement_reason: str


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
        config: DestConfig,
        emit: Emit,
        on_listening: Callable[[str], None],
        log: Callable[[str], None],
        network: Network | None = None,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            config: What the user said.
            emit: Takes events.
            on_listening: Called with HOST:PORT when connections may come.
            log: Takes a line about each connection that is refused.
            network: Where it listens; None for the machine's own.
        """
        self._config = config
        self._emit = emit
        self._on_listening = on_listening
        self._log = log
        self._network = network or TcpNetwork(config.silence_seconds_max)
        self._lifecycle = Lifecycle(emit)
        self._migration: Migration | None = None

    def part_so_far(self) -> DestPart | None:
        """Return what there is for a report when `run` has failed; None if it had no guest."""
        return self._migration.hosted.part() if self._migration is not None else None

    async def run(self) -> Result:
        """Listen, take one migration, and see it through.

        Raises:
            MidstreamError: One error that says best what went wrong; `exit_status` goes with it.
            trio.Cancelled: The caller's scope was cancelled; the source has been told.
        """
        try:
            config, admission = self._config, SessionAdmission(self._config.credentials)
            async with open_listener(
                config.host, config.port, self._log, admission, self._network
            ) as listener:
                self._on_listening(listener.address)
                async with start_process() as process:
                    session = await admission.accept_session()
                    return await self._serve(admission, session, process)
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            self._lifecycle.end(cause)
            raise cause from None

    async def _serve(
        self, admission: SessionAdmission, session: Session, process: GuestProcess
    ) -> Result:
        config = self._config
        self._lifecycle.fire(Event.CONNECTED)
        # Who is yet to be told why this ends.
        main: InChannel | None = session.channels[Channel.PRECOPY]
        try:
            plan = await receive_setup(session)
            steps = find_steps(config.steps, plan.geometry, plan.spec.name)
            channels = {name: session.channels[name] for name in plan.channels}
            resumes = Resumes(session.session_id, plan.channels, session.capabilities)
            admission.take_resumes(resumes)
            async with make_room(config, plan, process) as room:
                guest, keeper = room.guest, room.keeper
                migration = Migration(
                    channels, plan, room.memory, guest, self._lifecycle, self._emit, steps
                )
                migration.hosted.placement_reason = room.placement_reason
                self._migration = migration
                migration.listen_to(config.touches)
                migration.keep_with(keeper.save)
                recovery = Recovery(
                    config, migration, resumes, session.capabilities, self._lifecycle, self._emit
                )
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(migration.watch)
                        nursery.start_soon(keeper.run)
                        await recovery.run()
                        # It may have ended without the source's last word, and before this.
                        await keeper.save()
                        nursery.cancel_scope.cancel()
                except BaseException as error:  # noqa: BLE001 - raised again as its outcome
                    main, cause = None, root_cause(error)
                    # Before the guest is saved, which takes its time.
                    await _say_farewell(migration.channels[Channel.PRECOPY], cause)
                    raise await outcome_of_loss(
                        cause, migration.hosted, keeper, guest, self._emit
                    ) from None
                return self._result(migration)
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            if main is not None:
                await _say_farewell(main, cause)
            raise cause from None

    def _result(self, migration: Migration) -> Result:
        closing = migration.closing
        assert closing is not None, "a recovery that ends well has the verdict"
        problem = None
        mismatches = closing.part.mismatches + closing.source.mismatches
        if mismatches:
            problem = WrongMemory(
                f"the guest found wrong memory in {mismatches} reads: "
                f"{migration.hosted.first_mismatch or 'on the source'}"
            )
        elif not closing.verdict.equal:
            problem = WrongMemory(f"the memory here is wrong: {closing.verdict.detail}")
        report = assemble(self._lifecycle.state.value, closing.source, closing.part)
        if migration.written is not None:
            report["midstream"]["image"] = migration.written.to_plain()
        return Result(report, problem)


async def _say_farewell(channel: InChannel, cause: BaseException) -> None:
    """Tell the source why this ends, unless it knows or cannot be told."""
    if isinstance(cause, (ConnectionLost, MemoryLost, PeerAborted)):
        return
    cancelled = isinstance(cause, trio.Cancelled)
    reason = "cancelled by its user" if cancelled else reason_of(cause)
    with trio.move_on_after(FAREWELL_SECONDS_MAX) as scope, suppress(MidstreamError):
        scope.shield = True
        await channel.send(Abort(reason=reason, cancelled=cancelled))
        # To close a connection whose bytes were not all read is to throw away what is still on its
        # way to the other side; so the source closes first.
        await channel.wait_closed()
