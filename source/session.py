"""A whole source, from nothing to its exit: memory, guest, connections, migration, closing, report.

Who calls `run_source` owns its task: cancelling it ends the migration, tells the destination, and
leaves no process, socket or mapping behind.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from guest import services
from guest.dirty_log import DirtyLog, choose_dirty_log
from guest.handle import GuestHandle, Mismatch, open_guest
from guest.image import load_image
from guest.memory import GuestMemory
from guest.pattern import Pattern
from guest.slices import in_thread
from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    GuestFailed,
    MidstreamError,
    MigrationError,
    PeerAborted,
    WrongMemory,
    root_cause,
)
from protocol.events import MISMATCH, VERDICT, Emit, tell_run
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.limits import CLOSING_SECONDS_MAX, REASON_CHARS_MAX, REPORT_BYTES_MAX
from protocol.messages import Abort, Account, Bye, Verdict
from protocol.records import pack_record
from protocol.report import SourcePart, assemble
from protocol.states import POSTCOPY, Event, Lifecycle, State
from source.closing import Comparison, compare
from source.config import SourceConfig
from source.connect import Connections, connect
from source.meter import channel_bytes, sent_bytes
from source.migration import Migration
from source.reporting import source_part

# The guest is the destination's by then.
_HANDED_OVER = POSTCOPY | {State.COMPLETED}

# How long the peer is given to take the reason why a session ends.
FAREWELL_SECONDS_MAX = 1.0


@dataclass(frozen=True)
class Progress:
    """How far a running migration is.

    Attributes:
        remaining_bytes: Not yet sent, of this pass or of postcopy.
        queued_requests: Page requests that wait for their turn.
    """

    state: str
    pass_count: int
    ram_bytes: int
    remaining_bytes: int
    sent_bytes: int
    precopy_channel_bytes: int
    postcopy_channel_bytes: int
    elapsed_ms: float
    requests: int
    queued_requests: int
    preemptions: int
    boosted: int


@dataclass(frozen=True)
class Result:
    """How a migration ended that did end.

    Attributes:
        report: See `protocol.report`.
        problem: The guest or the digest found wrong memory.
    """

    report: dict[str, Any]
    problem: WrongMemory | None


class SourceSession:
    """Runs one source; `progress` may be read by another task at any time."""

    def __init__(
        self, config: SourceConfig, emit: Emit, log: Callable[[str], None] = lambda _: None
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            config: What the user said.
            emit: Takes events.
            log: Takes a line about what this machine cannot do as it was wanted.
        """
        self._config = config
        self._emit = emit
        self._log = log
        self._lifecycle = Lifecycle(emit)
        self._migration: Migration | None = None
        self._connections: Connections = {}
        self._first_mismatch = ""

    def progress(self) -> Progress | None:
        """Return how far the migration is, None before it has connections."""
        migration = self._migration
        if migration is None:
            return None
        counts = migration.scheduler.counts
        return Progress(
            state=self._lifecycle.state.value,
            pass_count=migration.meter.pass_count,
            ram_bytes=self._config.geometry.length_bytes,
            remaining_bytes=migration.scheduler.remaining_bytes,
            sent_bytes=sent_bytes(self._connections),
            precopy_channel_bytes=channel_bytes(self._connections, Channel.PRECOPY),
            postcopy_channel_bytes=channel_bytes(self._connections, Channel.POSTCOPY),
            elapsed_ms=migration.meter.total_ms,
            requests=counts.received,
            queued_requests=migration.scheduler.queued_requests,
            preemptions=counts.preemptions,
            boosted=counts.boosted,
        )

    def part_so_far(self) -> SourcePart | None:
        """Return what there is for a report when `run` has failed; None if it had no connection."""
        migration = self._migration
        if migration is None:
            return None
        return source_part(
            self._config, migration.backing, migration.dirty_log, migration, self._connections
        )

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
            with GuestMemory.create(self._config.geometry, self._config.backing) as memory:
                await self._fill(memory)
                wants_kernel = self._config.dirty_log != "software"
                service = services.DIRTY_LOG if wants_kernel else services.NONE
                async with (
                    open_guest(memory, self._config.spec, service) as guest,
                    connect(
                        self._config.host,
                        self._config.port,
                        self._config.policy,
                        self._config.credentials,
                    ) as connections,
                ):
                    self._connections = connections
                    guest.board.set_present(slice(None))
                    dirty_log = self._choose_dirty_log(guest)
                    if not self._config.hold:
                        await guest.run()
                    return await self._converse(memory, guest, dirty_log)
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            if isinstance(cause, trio.Cancelled):
                self._lifecycle.cancel()
            else:
                self._lifecycle.fail()
            raise cause from None

    def _choose_dirty_log(self, guest: GuestHandle) -> DirtyLog:
        """Return the log that the user wants, or the one that there is, and then say why.

        Raises:
            GuestFailed: It cannot be had.
        """
        dirty_log, reason = choose_dirty_log(guest, self._config.geometry)
        if reason and self._config.dirty_log == "kernel":
            raise GuestFailed(f"the kernel's dirty log cannot be had: {reason}")
        if reason:
            self._log(f"writes are logged by the vCPUs, not by the kernel: {reason}")
        return dirty_log

    async def _fill(self, memory: GuestMemory) -> None:
        await in_thread(memory.populate())
        if self._config.image is None:
            await in_thread(Pattern(self._config.spec.seed).fill(memory))
        else:
            await in_thread(load_image(self._config.image, memory))

    async def _converse(
        self, memory: GuestMemory, guest: GuestHandle, dirty_log: DirtyLog
    ) -> Result:
        """Migrate over the open connections; tell the destination if that fails."""
        self._lifecycle.fire(Event.CONNECTED)
        # The digests in the account are in proportion to the guest: 16 bytes for 2 MiB.
        returns = self._connections[Channel.PRECOPY].returns
        returns.payload_bytes_max += memory.geometry.length_bytes // TARGET_PAGE_BYTES
        migration = Migration(
            self._config, memory, guest, self._connections, self._lifecycle, self._emit, dirty_log
        )
        self._migration = migration
        try:
            async with trio.open_nursery() as nursery:
                for inbox in migration.inboxes.values():
                    nursery.start_soon(inbox.run)
                nursery.start_soon(self._watch, guest)
                result = await self._migrate_and_compare(migration, memory)
                nursery.cancel_scope.cancel()
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = await self._explain(error)
            await self._say_farewell(cause)
            raise cause from None
        return result

    async def _migrate_and_compare(self, migration: Migration, memory: GuestMemory) -> Result:
        snapshot = await migration.transfer()
        inbox = migration.inboxes[Channel.PRECOPY]
        connection = self._connections[Channel.PRECOPY]
        account = await inbox.expect(Account, CLOSING_SECONDS_MAX)
        # The destination says how far the guest got: that could be steps for a century.
        with trio.move_on_after(CLOSING_SECONDS_MAX) as patience:
            comparison = await compare(account.payload, memory, self._config.spec, snapshot)
        if patience.cancelled_caught:
            raise MigrationError(
                f"the guest's writes could not be done over in {CLOSING_SECONDS_MAX:g} s"
            )
        part = source_part(
            self._config, migration.backing, migration.dirty_log, migration, self._connections,
            snapshot, comparison,
        )  # fmt: skip
        payload = pack_record(part)
        assert len(payload) <= REPORT_BYTES_MAX
        verdict = Verdict(
            payload_bytes=len(payload),
            equal=comparison.equal,
            detail=comparison.detail[:REASON_CHARS_MAX],
        )
        await connection.out.send(verdict, payload)
        await inbox.expect(Bye, CLOSING_SECONDS_MAX)
        self._emit(
            VERDICT,
            equal=comparison.equal, mismatches=part.mismatches + comparison.account.part.mismatches,
            downtime_ms=part.downtime_ms, total_ms=part.total_time_ms,
        )  # fmt: skip
        report = assemble(self._lifecycle.state.value, part, comparison.account.part)
        return Result(report, self._problem(part, comparison))

    async def _watch(self, guest: GuestHandle) -> None:
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
                self._first_mismatch = self._first_mismatch or (
                    f"vCPU {event.vcpu} read {event.seen:#x} in target page {event.flat_page} "
                    f"on the source, {event.expected:#x} must be there"
                )
                self._emit(MISMATCH, vcpu=event.vcpu, target_page=event.flat_page, step=event.step)

    def _problem(self, part: SourcePart, comparison: Comparison) -> WrongMemory | None:
        first = self._first_mismatch or comparison.account.first_mismatch
        mismatches = part.mismatches + comparison.account.part.mismatches
        if mismatches:
            return WrongMemory(f"the guest found wrong memory in {mismatches} reads: {first}")
        if not comparison.equal:
            return WrongMemory(f"the destination's memory is wrong: {comparison.detail}")
        return None

    async def _explain(self, error: BaseException) -> BaseException:
        """Return why the session really ended.

        When the destination aborts, a send may fail before the return path has given out the reason
        that came with it; so a lost connection is looked at once more.
        """
        cause = root_cause(error)
        if not isinstance(cause, ConnectionLost):
            return cause
        with trio.CancelScope(shield=True), trio.move_on_after(FAREWELL_SECONDS_MAX):
            try:
                while True:
                    await self._connections[Channel.PRECOPY].returns.receive()
            except PeerAborted as abort:
                return abort
            except MidstreamError:
                return cause
        return cause

    async def _say_farewell(self, cause: BaseException) -> None:
        """Tell the destination why this ends, unless it knows or cannot be told."""
        if isinstance(cause, (ConnectionLost, PeerAborted)):
            return
        cancelled = isinstance(cause, trio.Cancelled)
        reason = "cancelled by its user" if cancelled else str(cause)
        out = self._connections[Channel.PRECOPY].out
        with trio.move_on_after(FAREWELL_SECONDS_MAX) as scope, suppress(MidstreamError):
            scope.shield = True
            # A page that was broken off ends first, or the reason would land in its bytes.
            await out.finish_open_frame()
            await out.send(Abort(reason=reason, cancelled=cancelled))
            # To close a connection whose bytes were not all read is to throw away what is still on
            # its way to the other side; so the destination closes first.
            await self._connections[Channel.PRECOPY].returns.wait_closed()
