"""The exchange that ends a session: account, verdict, bye.

The destination accounts for the memory that it has and for what its guest found; the source works
out what must be there, gives its verdict and hears that it has come.  Where that breaks off it is
done over, and the comparison is not.
"""

from __future__ import annotations

import trio

from guest.interface import GuestSnapshot, Mismatch
from guest.memory import GuestMemory
from protocol import events
from protocol.capabilities import KEEPALIVE
from protocol.channels import Channel
from protocol.errors import MigrationError, RemoteProtocolError, WrongMemory
from protocol.events import Emit
from protocol.limits import (
    CLOSING_SECONDS_MAX,
    REASON_CHARS_MAX,
    REPORT_BYTES_MAX,
    SAVING_SECONDS_MAX,
)
from protocol.messages import Account, Bye, Verdict
from protocol.records import pack_record
from protocol.report import Result, SourcePart, assemble
from protocol.states import Lifecycle
from source.closing import Comparison, compare
from source.config import SourceConfig
from source.migration import Migration
from source.reporting import source_part


class Verification:
    """Whether the guest's memory was right: here, on the way, and there at the end.

    Attributes:
        verdict_sent: The first byte of a verdict may have left.
    """

    def __init__(self, config: SourceConfig, lifecycle: Lifecycle, emit: Emit) -> None:
        """Prepare; nothing is compared yet.

        Args:
            config: What the user said.
            lifecycle: Where the migration is.
            emit: Takes events.
        """
        self.verdict_sent = False
        self._config = config
        self._lifecycle = lifecycle
        self._emit = emit
        self._first_mismatch = ""
        # The account that the memory was compared with, and how that came out.
        self._comparison: tuple[bytes, Comparison] | None = None

    def note_mismatch(self, found: Mismatch) -> None:
        """Note that the guest has read wrong memory while it ran here."""
        self._first_mismatch = self._first_mismatch or (
            f"vCPU {found.vcpu} read {found.seen:#x} in target page {found.flat_page} "
            f"on the source, {found.expected:#x} must be there"
        )
        self._emit(events.Mismatch(vcpu=found.vcpu, target_page=found.flat_page, step=found.step))

    async def verify(self, migration: Migration, snapshot: GuestSnapshot) -> Result:
        """Exchange account, verdict and bye over a migration's present connections.

        Args:
            migration: Complete: all pages are placed there.
            snapshot: The guest as it was when it stopped here.

        Raises:
            ConnectionLost: The connection broke, or something does not come in time.
            MigrationError: The guest's writes could not be done over in time.
            RemoteProtocolError: The account is none, or another than before a break.
        """
        inbox = migration.inboxes[Channel.PRECOPY]
        connection = migration.epochs[-1][Channel.PRECOPY]
        account = await inbox.expect(Account, CLOSING_SECONDS_MAX)
        comparison = await self._comparison_of(account.payload, migration.memory, snapshot)
        part = source_part(
            self._config, migration.backing, migration.dirty_log, migration, migration.epochs,
            snapshot, comparison,
        )  # fmt: skip
        payload = pack_record(part)
        assert len(payload) <= REPORT_BYTES_MAX
        verdict = Verdict(
            payload_bytes=len(payload),
            equal=comparison.equal,
            detail=comparison.detail[:REASON_CHARS_MAX],
        )
        self.verdict_sent = True
        await connection.out.send(verdict, payload)
        # The destination may have a large guest to save first; keepalive tells if it is gone.
        kept_alive = KEEPALIVE in connection.capabilities
        await inbox.expect(Bye, SAVING_SECONDS_MAX if kept_alive else CLOSING_SECONDS_MAX)
        self._emit(
            events.Verdict(
                equal=comparison.equal,
                mismatches=part.mismatches + comparison.account.part.mismatches,
                downtime_ms=part.downtime_ms, total_ms=part.total_time_ms,
            )
        )  # fmt: skip
        report = assemble(self._lifecycle.state.value, part, comparison.account.part)
        if comparison.written is not None:
            report["midstream"]["image"] = comparison.written.to_plain()
        return Result(report, self._problem(part, comparison))

    async def _comparison_of(
        self, payload: bytes, memory: GuestMemory, snapshot: GuestSnapshot
    ) -> Comparison:
        """Compare with an account; once, for it brings this memory to that account's state."""
        if self._comparison is None:
            # The destination says how far the guest got: that could be steps for a century.
            with trio.move_on_after(CLOSING_SECONDS_MAX) as patience:
                comparison = await compare(payload, memory, self._config.spec, snapshot)
                self._comparison = payload, comparison
            if patience.cancelled_caught:
                raise MigrationError(
                    f"the guest's writes could not be done over in {CLOSING_SECONDS_MAX:g} s"
                )
        assert self._comparison is not None
        compared, comparison = self._comparison
        if payload != compared:
            raise RemoteProtocolError("the destination gave two accounts that differ")
        return comparison

    def _problem(self, part: SourcePart, comparison: Comparison) -> WrongMemory | None:
        first = self._first_mismatch or comparison.account.first_mismatch
        mismatches = part.mismatches + comparison.account.part.mismatches
        if mismatches:
            return WrongMemory(f"the guest found wrong memory in {mismatches} reads: {first}")
        if not comparison.equal:
            return WrongMemory(f"the destination's memory is wrong: {comparison.detail}")
        return None
