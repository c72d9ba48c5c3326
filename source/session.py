"""A whole source, from nothing to its exit: memory, guest, connections, migration, closing, report.

Who calls `SourceSession.run` owns its task: cancelling it ends the migration, tells the
destination, and leaves no process, socket or mapping behind.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import trio

from guest import clock, services
from guest.choice import Choice, choose_kind
from guest.dirty_log import DirtyLog
from guest.handle import open_guest, start_process
from guest.image import load_image
from guest.interface import Guest, Mismatch
from guest.memory import GuestMemory
from guest.pattern import Pattern
from guest.slices import in_thread, in_threads
from guest.streams.network import Network, TcpNetwork
from protocol import events
from protocol.errors import ConnectionLost, GuestFailed, root_cause
from protocol.events import Emit, tell_run
from protocol.geometry import Span
from protocol.messages import Standing
from protocol.report import Result, SourcePart
from protocol.states import Event, Lifecycle
from protocol.whereabouts import Whereabouts
from source.config import SourceConfig
from source.connect import Connections
from source.endings import Break, Endings
from source.migration import Migration
from source.monitor import Monitor
from source.progress import Bar, Progress, progress_of
from source.reconnect import Reconnector
from source.resumption import Lacking
from source.steering import Steering
from source.steps import Steps
from source.verification import Verification


class SourceSession:
    """Runs one source; `progress` may be read by another task at any time."""

    def __init__(
        self,
        config: SourceConfig,
        emit: Emit,
        log: Callable[[str], None] = lambda _: None,
        on_pause: Callable[[str], None] = lambda _: None,
        tell_more: Callable[[str], None] = lambda _: None,
        network: Network | None = None,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            config: What the user said.
            emit: Takes events.
            log: Takes a line about what this machine cannot do as it was wanted.
            on_pause: Takes a line about each pause, and about its end.
            tell_more: Takes a line about how this session can be told something, and about each
                attempt to resume it.
            network: What connects; None for the machine's own.
        """
        self._config = config
        # Why the guest is of no better kind, where that is left to this machine.
        self._guest_reason = ""
        self._emit = emit
        self._log = log
        self._lifecycle = Lifecycle(emit)
        self._migration: Migration | None = None
        # The lengths of the slices of memory that are filled, while they are.
        self._filled: list[int] | None = None
        self._verification = Verification(self._lifecycle, emit)
        self._endings = Endings(config, self._verification, self._lifecycle, emit)
        self._reconnector = Reconnector(
            config,
            emit,
            tell_more,
            network or TcpNetwork(config.silence_seconds_max, dscp=config.dscp),
        )
        self._bar = Bar()
        self._steering = Steering(config, self._lifecycle, emit)
        self._monitor = Monitor(
            self._lifecycle, self._reconnector, self._endings, self._steering, emit, on_pause,
            tell_more,
        )  # fmt: skip
        self._steering.warn = self._monitor.warn

    def progress(self) -> Progress | None:
        """Return how far the migration is, None before it has connections."""
        phases = self._endings.phases
        if phases is None:
            return None
        state, now_ns = self._lifecycle.state, clock.now_ns()
        return progress_of(self._config.geometry, phases, state, self._bar, now_ns)

    def filled(self) -> tuple[int, int] | None:
        """Return how many bytes of the guest's memory are filled, of how many; None before, after.

        Of an image this is the memory's allocation; reading the file comes behind it.
        """
        filled = self._filled
        return None if filled is None else (sum(filled), self._config.geometry.length_bytes)

    def part_so_far(self) -> SourcePart | None:
        """Return what there is for a report when `run` has failed; None if it had no connection."""
        return self._migration.part() if self._migration is not None else None

    @property
    def whereabouts(self) -> Whereabouts:
        """Where the guest is when the migration ends before its time."""
        return self._endings.whereabouts

    async def run(self) -> Result:
        """Migrate the guest.

        Raises:
            MidstreamError: One error that says best what went wrong; `exit_status` goes with it.
            trio.Cancelled: The caller's scope was cancelled; the destination has been told.
        """
        tell_run(
            self._emit, self._config.geometry,
            policy=self._config.policy.name, chunk_bytes=self._config.chunk_bytes,
            vcpus=self._config.spec.vcpu_count, program=self._config.spec.name,
        )  # fmt: skip
        if self._config.bandwidth or self._config.postcopy_bandwidth:
            self._steering.tell_limits()
        try:
            async with self._monitor.listen():
                return await self._run()
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            if self._endings.phases is not None:
                self._endings.phases.meter.finish(clock.now_ns())
            self._lifecycle.end(cause)
            raise cause from None

    async def _run(self) -> Result:
        async with start_process() as process:
            await self._settle_guest()
            with GuestMemory.create(self._config.geometry, self._config.backing) as memory:
                await self._fill(memory)
                spec = self._config.spec
                service = services.log_service(self._config.dirty_log, spec.kind)
                async with open_guest(memory, spec, service, process) as guest:
                    return await self._migrate(memory, guest)

    async def _settle_guest(self) -> None:
        """Settle of what kind the guest is, by trying where that is left to this machine."""
        choice = Choice(self._config.guest)
        if choice.kind == "auto":
            choice = await trio.to_thread.run_sync(choose_kind, self._config.dirty_log)
        spec = replace(self._config.spec, kind=choice.kind)
        self._config = replace(self._config, spec=spec)
        self._guest_reason = choice.reason

    def _choose_dirty_log(self, guest: Guest) -> DirtyLog:
        """Return the log that the user wants, or the one that there is, and then say why.

        Raises:
            GuestFailed: It cannot be had.
        """
        dirty_log, reason = guest.choose_dirty_log()
        if reason and self._config.dirty_log in ("kernel", "kvm"):
            raise GuestFailed(f"the kernel's dirty log cannot be had: {reason}")
        if reason:
            self._log(f"writes are logged by the vCPUs, not by the kernel: {reason}")
        return dirty_log

    async def _fill(self, memory: GuestMemory) -> None:
        image, pattern = self._config.image, Pattern(self._config.spec.seed)
        self._filled = filled = []

        def fill(span: Span) -> None:
            memory.populate_slice(span)
            if image is None:
                pattern.fill_slice(memory, span)
            # Several threads do this at the same time; to append takes no lock.
            filled.append(span.length)

        await in_threads(fill, memory.slices())
        if image is not None:
            await in_thread(load_image(image, memory))
        self._filled = None

    async def _migrate(self, memory: GuestMemory, guest: Guest) -> Result:
        """Migrate over one set of connections after another, until both sides agree."""
        async with self._reconnector.connect() as connections:
            guest.set_present(slice(None))
            dirty_log = self._choose_dirty_log(guest)
            migration = Migration(
                self._config, memory, guest, self._lifecycle, self._emit, dirty_log,
                self._steering, connect_again=self._reconnector.connect_again,
                guest_reason=self._guest_reason,
            )  # fmt: skip
            if not self._config.hold:
                await guest.run()
            self._lifecycle.fire(Event.CONNECTED)
            migration.attach(connections)
            self._migration, self._endings.phases = migration, migration.phases
            ending = await self._epoch(migration, guest, migration.phases.transfer())
        while isinstance(ending, Break):
            ending = await self._resume(migration, guest, ending.loss)
        return ending

    async def _resume(
        self, migration: Migration, guest: Guest, loss: ConnectionLost
    ) -> Result | Break:
        """Wait until the destination can be reached, and go on; return how that ended."""
        reconnector = self._reconnector

        async def recover(connections: Connections) -> tuple[Standing, Lacking]:
            steps = self._endings.recover(lambda: reconnector.attempts.redirected)
            return await migration.recover(connections, steps)

        async with AsyncExitStack() as stack:
            self._monitor.paused(loss)
            lost_ns = clock.now_ns()
            connections, (standing, lacking) = await reconnector.reconnect(loss, stack, recover)
            migration.paused_ns += clock.now_ns() - lost_ns
            reconnector.went_on(standing, lacking)
            self._monitor.resumed()
            migration.attach(connections)
            missing_bytes = lacking.missing.length_bytes
            self._emit(events.Recovered(missing_bytes=missing_bytes, running=standing.running))
            return await self._epoch(migration, guest, migration.phases.resume(standing, lacking))

    async def _epoch(
        self, migration: Migration, guest: Guest, phase: Steps[None]
    ) -> Result | Break:
        """Carry a phase out over the open connections, and verify; return how that ended."""
        verify = self._verification.verify(kept_alive=migration.phases.epoch.kept_alive)
        try:
            async with trio.open_nursery() as nursery:
                for connection in migration.epochs[-1].values():
                    nursery.start_soon(migration.listen, connection)
                    nursery.start_soon(migration.keep_alive, connection)
                nursery.start_soon(self._watch, guest)
                nursery.start_soon(self._monitor.heed_pause)
                nursery.start_soon(migration.busy_poll.run)
                nursery.start_soon(migration.tell_answers)
                await migration.carry_out(phase)
                migration.processor.finish()
                result = await migration.carry_out(verify)
                nursery.cancel_scope.cancel()
        except BaseException as error:  # noqa: BLE001 - raised again where it is the end
            with trio.CancelScope(shield=True):
                ended = await migration.carry_out(self._endings.end_epoch(error))
            self._reconnector.broke(ended)
            return ended
        finally:
            self._monitor.epoch_over()
        return result

    async def _watch(self, guest: Guest) -> None:
        """Hear what the guest reports while it runs here.

        Raises:
            GuestFailed: It died before it was handed over.
        """
        while True:
            try:
                event = await guest.receive()
            except GuestFailed as error:
                self._endings.guest_failed(error)
                return
            if isinstance(event, Mismatch):
                self._verification.note_mismatch(
                    event.vcpu, event.flat_page, event.step,
                    seen=event.seen, expected=event.expected,
                )  # fmt: skip
