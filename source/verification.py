"""The exchange that ends a session: account, verdict, bye.  Pure.

The destination accounts for the memory that it has and for what its guest found; the source works
out what must be there, gives its verdict and hears that it has come.  Where that breaks off it is
done over, and the comparison is not.
"""

from __future__ import annotations

from protocol import events
from protocol.errors import (
    MigrationError,
    PolicySwitchedOff,
    RemoteProtocolError,
    WrongMemory,
)
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
from source.steps import LATE, Compare, Comparison, Report, Say, Steps, Within, expect


class Verification:
    """Whether the guest's memory was right: here, on the way, and there at the end.

    Attributes:
        verdict_sent: The first byte of a verdict may have left.
    """

    def __init__(self, lifecycle: Lifecycle, emit: Emit) -> None:
        """Prepare; nothing is compared yet.

        Args:
            lifecycle: Where the migration is.
            emit: Takes events.
        """
        self.verdict_sent = False
        self._lifecycle = lifecycle
        self._emit = emit
        self._first_mismatch = ""
        # The account that the memory was compared with, and how that came out.
        self._comparison: tuple[bytes, Comparison] | None = None

    def note_mismatch(
        self, vcpu: int, target_page: int, step: int, *, seen: int, expected: int
    ) -> None:
        """Note that the guest has read wrong memory while it ran here.

        Args:
            vcpu: Who did.
            target_page: Which, of all the guest's.
            step: The vCPU's access.
            seen: What it read.
            expected: What must be there.
        """
        self._first_mismatch = self._first_mismatch or (
            f"vCPU {vcpu} read {seen:#x} in target page {target_page} "
            f"on the source, {expected:#x} must be there"
        )
        self._emit(events.Mismatch(vcpu=vcpu, target_page=target_page, step=step))

    def verify(self, *, kept_alive: bool) -> Steps[Result]:
        """Exchange account, verdict and bye; all pages are placed there.

        Args:
            kept_alive: Signs of life tell if the destination is gone.

        Raises:
            ConnectionLost: The connection broke, or something does not come in time.
            MigrationError: The guest's writes could not be done over in time.
            RemoteProtocolError: The account is none, or another than before a break.
        """
        account = yield from expect(Account, CLOSING_SECONDS_MAX)
        comparison = yield from self._compare(account.payload)
        part: SourcePart = yield Report(comparison)
        payload = pack_record(part)
        assert len(payload) <= REPORT_BYTES_MAX
        verdict = Verdict(
            payload_bytes=len(payload),
            equal=comparison.equal,
            detail=comparison.detail[:REASON_CHARS_MAX],
        )
        self.verdict_sent = True
        yield Say(verdict, payload)
        # The destination may have a large guest to save first.
        yield from expect(Bye, SAVING_SECONDS_MAX if kept_alive else CLOSING_SECONDS_MAX)
        self._emit(
            events.Verdict(
                equal=comparison.equal,
                mismatches=part.mismatches + comparison.account.part.mismatches,
                downtime_ms=part.downtime_ms, total_ms=part.total_time_ms,
                postcopy_ms=part.postcopy_ms, mbps=part.mbps,
                source_running=part.processor_running, source_waiting=part.processor_waiting,
                dest_running=comparison.account.part.processor_running,
                dest_waiting=comparison.account.part.processor_waiting,
            )
        )  # fmt: skip
        report = assemble(self._lifecycle.state.value, part, comparison.account.part)
        if comparison.image is not None:
            report["midstream"]["image"] = comparison.image
        return Result(report, self._problem(part, comparison))

    def _compare(self, account: bytes) -> Steps[Comparison]:
        """Compare with an account; once, for it brings this memory to that account's state."""
        if self._comparison is None:
            # The destination says how far the guest got: that could be steps for a century.
            compared = yield Within(Compare(account), CLOSING_SECONDS_MAX)
            if compared is LATE:
                raise MigrationError(
                    f"the guest's writes could not be done over in {CLOSING_SECONDS_MAX:g} s"
                )
            self._comparison = account, compared
        before, comparison = self._comparison
        if account != before:
            raise RemoteProtocolError("the destination gave two accounts that differ")
        return comparison

    def _problem(self, part: SourcePart, comparison: Comparison) -> MigrationError | None:
        first = self._first_mismatch or comparison.account.first_mismatch
        mismatches = part.mismatches + comparison.account.part.mismatches
        if mismatches:
            return WrongMemory(f"the guest found wrong memory in {mismatches} reads: {first}")
        if not comparison.equal:
            return WrongMemory(f"the destination's memory is wrong: {comparison.detail}")
        if part.policy_failure:
            return PolicySwitchedOff(
                f"{part.policy_failure}; it was switched off, and the guest has moved without it"
            )
        return None
