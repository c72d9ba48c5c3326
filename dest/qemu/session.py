"""A whole destination for QEMU, from listening to its exit.

Who calls `QemuSession.run` owns its task: cancelling it ends the migration, tells QEMU, and leaves
no process, socket or mapping behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import trio

from dest.config import QemuDestConfig
from dest.hosted import HostedGuest
from dest.keeping import outcome_of_loss
from dest.listening import open_listener
from dest.qemu.admission import QemuAdmission
from dest.qemu.handshakes import Line, hear_opening
from dest.qemu.migration import QEMU_POLICY, QemuMigration
from dest.qemu.report import QemuPart, assemble_qemu
from dest.script import find_steps
from dest.session import FAREWELL_SECONDS_MAX, make_room
from dest.setup import Plan
from guest.streams.network import TcpNetwork
from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    MemoryLost,
    MidstreamError,
    root_cause,
)
from protocol.events import Emit
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.qemu.returns import encode_shut
from protocol.report import DestPart, Result
from protocol.states import Event, Lifecycle


class QemuSession:
    """Runs one destination: one migration out of QEMU."""

    def __init__(
        self,
        config: QemuDestConfig,
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
        self._migration: QemuMigration | None = None
        self._began_s = self._ready_s = 0.0

    def part_so_far(self) -> DestPart | None:
        """Return what there is for a report when `run` has failed; None if it had no guest."""
        return self._migration.hosted.part() if self._migration is not None else None

    async def run(self) -> Result:
        """Listen, take one migration, and see it through.

        Raises:
            MidstreamError: One error that says best what went wrong; `exit_status` goes with it.
            trio.Cancelled: The caller's scope was cancelled; QEMU has been told.
        """
        config = self._config
        try:
            admission = QemuAdmission(config.only_from)
            # How long what is sent may go unacknowledged is left to the kernel.
            network = TcpNetwork(silence_seconds_max=0, window_bytes=config.window_bytes)
            async with open_listener(
                config.host, config.port, self._log, admission, network
            ) as listener:
                self._on_listening(listener.address)
                main, opening = await admission.accept_main(hear_opening)
                return await self._serve(admission, main, opening)
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            self._lifecycle.end(cause)
            raise cause from None

    async def _serve(
        self,
        admission: QemuAdmission,
        main: Line,
        opening: tuple[str, Geometry] | MidstreamError,
    ) -> Result:
        config = self._config
        self._lifecycle.fire(Event.CONNECTED)
        self._began_s = time.monotonic()
        if isinstance(opening, MidstreamError):
            await _say_farewell(main, opening)
            raise opening
        machine, geometry = opening
        try:
            spec = config.spec_of(geometry)
            steps = find_steps(config.steps, geometry, spec.name)
            plan = Plan(geometry, QEMU_POLICY, TARGET_PAGE_BYTES, spec)
            async with make_room(config, plan) as room:
                keeper = room.keeper
                hosted = HostedGuest(
                    room.memory, room.guest, plan, self._lifecycle, self._emit, steps
                )
                hosted.placement_reason = room.placement_reason
                migration = QemuMigration(
                    admission, main, hosted, geometry, self._lifecycle, self._emit
                )
                self._migration = migration
                self._ready_s = time.monotonic()
                migration.keep_with(keeper.save)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(keeper.run)
                        await migration.receive(config.touches, config.wait_seconds)
                        nursery.cancel_scope.cancel()
                except BaseException as error:  # noqa: BLE001 - raised again as its outcome
                    main, cause = migration.main, root_cause(error)
                    outcome = await outcome_of_loss(
                        cause, migration.hosted, keeper, room.guest, self._emit
                    )
                    if isinstance(outcome, MemoryLost):
                        # QEMU may be there, and have said what it should not.
                        await _say_farewell(main, cause)
                    raise outcome from None
                part = migration.hosted.part()
            qemu = self._qemu_part(machine, migration)
            status = self._lifecycle.state.value
            return Result(assemble_qemu(status, qemu, part, geometry), None)
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            await _say_farewell(main, cause)
            raise cause from None

    def _qemu_part(self, machine: str, migration: QemuMigration) -> QemuPart:
        arrivals = migration.arrivals
        return QemuPart(
            machine=machine,
            preempt=migration.has_preempt,
            total_ms=(migration.whole_s - self._began_s) * 1000,
            setup_ms=(self._ready_s - self._began_s) * 1000,
            target_pages=arrivals.target_pages,
            zero_target_pages=arrivals.zero_target_pages,
            requested_on_precopy=arrivals.requested[Channel.PRECOPY],
            requested_on_postcopy=arrivals.requested[Channel.POSTCOPY],
            precopy_channel_bytes=migration.received_bytes[Channel.PRECOPY],
            postcopy_channel_bytes=migration.received_bytes[Channel.POSTCOPY],
            return_path_bytes=migration.returned_bytes,
            package_bytes=migration.package_bytes,
            recoveries=migration.recoveries,
        )


async def _say_farewell(main: Line, cause: BaseException) -> None:
    """Tell QEMU that this side has given up, unless it is gone."""
    if isinstance(cause, (ConnectionLost, MemoryLost)):
        return
    with trio.move_on_after(FAREWELL_SECONDS_MAX) as scope, suppress(MidstreamError):
        scope.shield = True
        await main.send(encode_shut(failed=True))
        # To close a connection whose bytes were not all read is to throw away what is still on its
        # way to the other side; QEMU is given a moment to close first.
        main.channel.end_sending()
        await main.channel.wait_closed()
