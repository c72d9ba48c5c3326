"""A whole source, from nothing to its exit: memory, guest, connections, migration, closing, report.

Who calls `run_source` owns its task: cancelling it ends the migration, tells the destination, and
leaves no process, socket or mapping behind.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import trio

from guest import clock, services
from guest.dirty_log import DirtyLog
from guest.handle import open_guest, start_process
from guest.image import load_image
from guest.interface import Guest, GuestSnapshot, Mismatch
from guest.memory import GuestMemory
from guest.pattern import Pattern
from guest.slices import in_thread, in_threads
from guest.streams.keepalive import keep_alive
from guest.streams.network import Network, TcpNetwork
from protocol import events
from protocol.capabilities import KEEPALIVE
from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    GuestFailed,
    as_loss,
    root_cause,
)
from protocol.events import Emit, tell_run
from protocol.geometry import TARGET_PAGE_BYTES, Span
from protocol.messages import Standing
from protocol.report import Result, SourcePart
from protocol.states import POSTCOPY, Event, Lifecycle, State
from protocol.units import format_bytes
from source.config import SourceConfig
from source.connect import Connection, Connections
from source.handshakes import explain, say_farewell, say_farewell_anew
from source.migration import Migration
from source.monitor import Monitor
from source.pause import Pause, PausedByHand
from source.progress import Bar, Progress, progress_of
from source.reconnect import Reconnector, hear_standing
from source.recovery import Lacking
from source.reporting import source_part
from source.steering import Steering
from source.verification import Verification

# The guest is the destination's by then.
_HANDED_OVER = POSTCOPY | {State.COMPLETED}

# How long a source that has given its verdict tries to hear that it arrived: a destination that has
# it is on its way out.
LAST_WORD_SECONDS_MAX = 3.0


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
        self._emit = emit
        self._log = log
        self._lifecycle = Lifecycle(emit)
        self._migration: Migration | None = None
        self._verification = Verification(config, self._lifecycle, emit)
        self._reconnector = Reconnector(
            config, emit, tell_more, network or TcpNetwork(config.silence_seconds_max)
        )
        self._bar = Bar()
        self._pause = Pause(self._lifecycle, self._can_resume)
        self._steering = Steering(config, self._lifecycle, emit)
        self._monitor = Monitor(
            self._lifecycle, self._reconnector, self._pause, self._steering, emit, on_pause,
            tell_more,
        )  # fmt: skip
        self._steering.warn = self._monitor.warn

    def progress(self) -> Progress | None:
        """Return how far the migration is, None before it has connections."""
        migration = self._migration
        if migration is None:
            return None
        return progress_of(self._config.geometry, migration, self._lifecycle.state, self._bar)

    def part_so_far(self) -> SourcePart | None:
        """Return what there is for a report when `run` has failed; None if it had no connection."""
        migration = self._migration
        if migration is None:
            return None
        return source_part(
            self._config, migration.backing, migration.dirty_log, migration, migration.epochs
        )

    @property
    def whereabouts(self) -> str:
        """Where the guest is when the migration ends before its time; empty if it never began."""
        migration = self._migration
        if migration is None:
            return ""
        if migration.guest_side == "source":
            return "the guest stays at the source"
        unsent = f"{format_bytes(migration.remaining_bytes)} of its memory not sent"
        if migration.guest_side == "dest":
            return f"the guest is at the destination, {unsent}"
        return f"whether the destination runs the guest is not known, {unsent}"

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
        try:
            async with self._monitor.listen():
                return await self._run()
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            if self._migration is not None:
                self._migration.meter.finish(clock.now_ns())
            self._lifecycle.end(cause)
            raise cause from None

    async def _run(self) -> Result:
        async with start_process() as process:
            with GuestMemory.create(self._config.geometry, self._config.backing) as memory:
                await self._fill(memory)
                wants_kernel = self._config.dirty_log != "software"
                service = services.DIRTY_LOG if wants_kernel else services.NONE
                async with open_guest(memory, self._config.spec, service, process) as guest:
                    return await self._migrate(memory, guest)

    def _can_resume(self) -> bool:
        return self._migration is not None and self._migration.recoverable

    def _choose_dirty_log(self, guest: Guest) -> DirtyLog:
        """Return the log that the user wants, or the one that there is, and then say why.

        Raises:
            GuestFailed: It cannot be had.
        """
        dirty_log, reason = guest.choose_dirty_log()
        if reason and self._config.dirty_log == "kernel":
            raise GuestFailed(f"the kernel's dirty log cannot be had: {reason}")
        if reason:
            self._log(f"writes are logged by the vCPUs, not by the kernel: {reason}")
        return dirty_log

    async def _fill(self, memory: GuestMemory) -> None:
        image, pattern = self._config.image, Pattern(self._config.spec.seed)

        def fill(span: Span) -> None:
            memory.populate_slice(span)
            if image is None:
                pattern.fill_slice(memory, span)

        await in_threads(fill, memory.slices())
        if image is not None:
            await in_thread(load_image(image, memory))

    async def _migrate(self, memory: GuestMemory, guest: Guest) -> Result:
        """Migrate over one set of connections after another, until both sides agree."""
        async with self._reconnector.connect() as connections:
            guest.set_present(slice(None))
            dirty_log = self._choose_dirty_log(guest)
            migration = Migration(
                self._config, memory, guest, self._lifecycle, self._emit, dirty_log,
                self._steering,
            )  # fmt: skip
            if not self._config.hold:
                await guest.run()
            self._lifecycle.fire(Event.CONNECTED)
            self._attach(migration, connections)
            ending = await self._epoch(migration, guest, migration.transfer)
        while isinstance(ending, ConnectionLost):
            ending = await self._resume(migration, guest, ending)
        return ending

    async def _resume(
        self, migration: Migration, guest: Guest, loss: ConnectionLost
    ) -> Result | ConnectionLost:
        """Wait until the destination can be reached, and go on; return how that ended."""
        reconnector = self._reconnector
        async with AsyncExitStack() as stack:
            self._monitor.paused(loss)
            recover = partial(self._recover, migration)
            connections, (standing, lacking) = await reconnector.reconnect(loss, stack, recover)
            reconnector.went_on(len(lacking.missing) if standing.running else float("inf"))
            self._monitor.resumed()
            self._attach(migration, connections)
            missing_bytes = lacking.missing.length_bytes
            self._emit(events.Recovered(missing_bytes=missing_bytes, running=standing.running))
            return await self._epoch(migration, guest, partial(migration.resume, standing, lacking))

    async def _recover(
        self, migration: Migration, connections: Connections
    ) -> tuple[Standing, Lacking]:
        """Return what whoever welcomed new connections says that he has.

        Raises:
            MidstreamError: He is not the destination that was left, or is gone; the migration is
                paused as before.
        """
        self._lifecycle.go_on(Event.RECONNECTED)
        try:
            standing, lacking = await hear_standing(connections, self._config.geometry)
            migration.resumption.check(standing, lacking)
        except BaseException as error:
            cause = as_loss(root_cause(error))
            if isinstance(cause, ConnectionLost):
                self._emit(events.ChannelLost(channel=cause.channel, reason=str(cause)))
            if isinstance(cause, trio.Cancelled) and not self._reconnector.redirected:
                # The user ends it, and the destination need not wait.
                await say_farewell(connections, cause)
            else:
                self._lifecycle.interrupt()
            raise
        return standing, lacking

    def _attach(self, migration: Migration, connections: Connections) -> None:
        # The digests in the account are in proportion to the guest: 16 bytes for 2 MiB.
        returns = connections[Channel.PRECOPY].returns
        returns.payload_bytes_max += self._config.geometry.length_bytes // TARGET_PAGE_BYTES
        migration.attach(connections)
        self._migration = migration

    async def _epoch(
        self,
        migration: Migration,
        guest: Guest,
        transfer: Callable[[], Awaitable[GuestSnapshot]],
    ) -> Result | ConnectionLost:
        """Migrate over the open connections.

        Returns:
            The result, or the loss of a connection that can be replaced by another.
        """
        try:
            async with trio.open_nursery() as nursery:
                for inbox in migration.inboxes.values():
                    nursery.start_soon(inbox.run)
                nursery.start_soon(self._watch, guest)
                nursery.start_soon(self._pause.heed)
                nursery.start_soon(migration.busy_poll.run)
                nursery.start_soon(migration.tell_answers)
                for connection in migration.epochs[-1].values():
                    nursery.start_soon(self._keep_alive, migration, connection)
                snapshot = await transfer()
                result = await self._verification.verify(migration, snapshot)
                nursery.cancel_scope.cancel()
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            connections = migration.epochs[-1]
            cause = await explain(connections, error)
            resumable = migration.handed_over and migration.recoverable
            if resumable:
                cause = as_loss(cause)
            if isinstance(cause, ConnectionLost):
                self._lose(cause)
                if resumable:
                    self._reconnector.broke(
                        LAST_WORD_SECONDS_MAX if self._verification.verdict_sent else None,
                        has_sent=migration.has_sent, by_hand=isinstance(cause, PausedByHand),
                    )  # fmt: skip
                    return cause
            with trio.CancelScope(shield=True):
                await migration.take_back()
            if isinstance(cause, ConnectionLost) and migration.announced:
                await say_farewell_anew(self._reconnector.connect_again(), cause)
            await say_farewell(connections, cause)
            raise cause from None
        finally:
            self._pause.over()
        return result

    def _lose(self, loss: ConnectionLost) -> None:
        """Tell of a lost connection, and stand still if that is not the end."""
        self._emit(events.ChannelLost(channel=loss.channel, reason=str(loss)))
        migration = self._migration
        if migration is not None and migration.handed_over and migration.recoverable:
            self._lifecycle.interrupt()

    async def _keep_alive(self, migration: Migration, connection: Connection) -> None:
        # A destination that allocates a large guest's memory has its own time for that.
        await migration.prepared.wait()
        if KEEPALIVE in connection.capabilities:
            await keep_alive(connection, "destination", self._config.silence_seconds_max)

    async def _watch(self, guest: Guest) -> None:
        """Hear what the guest reports while it runs here.

        Raises:
            GuestFailed: It died before it was handed over.
        """
        while True:
            try:
                event = await guest.receive()
            except GuestFailed:
                # From then on its process has nothing to do: memory and counts are this one's too.
                if self._lifecycle.state in _HANDED_OVER:
                    return
                raise
            if isinstance(event, Mismatch):
                self._verification.note_mismatch(event)
