"""A whole source, from nothing to its exit: memory, guest, connections, migration, closing, report.

Who calls `run_source` owns its task: cancelling it ends the migration, tells the destination, and
leaves no process, socket or mapping behind.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from guest.handle import GuestHandle, Mismatch, open_guest
from guest.image import load_image
from guest.memory import GuestMemory
from guest.pattern import Pattern
from guest.slices import in_thread
from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    MidstreamError,
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
from protocol.states import Event, Lifecycle
from source.closing import Comparison, compare
from source.config import SourceConfig
from source.connect import Connections, connect
from source.meter import channel_bytes, sent_bytes
from source.migration import Migration
from source.reporting import source_part

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

    def __init__(self, config: SourceConfig, emit: Emit) -> None:
        """Prepare; `run` does the work."""
        self._config = config
        self._emit = emit
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
                async with (
                    open_guest(memory, self._config.spec) as guest,
                    connect(
                        self._config.host, self._config.port, self._config.policy
                    ) as connections,
                ):
                    self._connections = connections
                    guest.board.set_present(slice(None))
                    if not self._config.hold:
                        await guest.run()
                    return await self._converse(memory, guest)
        except BaseException as error:  # noqa: BLE001 - raised again as its root cause
            cause = root_cause(error)
            if isinstance(cause, trio.Cancelled):
                self._lifecycle.cancel()
            else:
                self._lifecycle.fail()
            raise cause from None

    async def _fill(self, memory: GuestMemory) -> None:
        await in_thread(memory.populate())
        if self._config.image is None:
            await in_thread(Pattern(self._config.spec.seed).fill(memory))
        else:
            await in_thread(load_image(self._config.image, memory))

    async def _converse(self, memory: GuestMemory, guest: GuestHandle) -> Result:
        """Migrate over the open connections; tell the destination if that fails."""
        self._lifecycle.fire(Event.CONNECTED)
        # The digests in the account are in proportion to the guest: 16 bytes for 2 MiB.
        returns = self._connections[Channel.PRECOPY].returns
        returns.payload_bytes_max += memory.geometry.length_bytes // TARGET_PAGE_BYTES
        migration = Migration(
            self._config, memory, guest, self._connections, self._lifecycle, self._emit
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
        comparison = await compare(account.payload, memory, self._config.spec, snapshot)
        part = source_part(
            self._config, memory.backing, migration, self._connections, snapshot, comparison
        )
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
        """Hear what the guest reports while it runs here."""
        while True:
            event = await guest.receive()
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
