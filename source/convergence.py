"""When precopy is over, and into what: after which pass, after how long, by whose word.

The estimate is QEMU's (`migration/migration.c`, migration_iteration_run): what is still dirty, at
the bandwidth that the last pass saw, is the time for which the guest would stand still.  All times
are seconds of whatever clock the user brings.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf

from protocol.limits import PASS_COUNT_MAX
from protocol.units import format_bytes, format_rate

# A pass that leaves more than this share of what it sent dirty has not shrunk: the next would have
# as much to send, for as long, in which as much becomes dirty.
STALL_SHARE = 0.9


class NextStep(Enum):
    """What follows a precopy pass."""

    ANOTHER_PASS = "another pass"
    FINISH = "stop the guest and send the rest"
    POSTCOPY = "switch over, the rest follows"
    GIVE_UP = "precopy does not converge"


class Means(Enum):
    """What ended precopy; the values are the report's."""

    NONE = ""
    CONVERGED = "converged"
    PASSES = "postcopy-after"
    TIME = "postcopy-after-time"
    USER = "switch-over"
    GAVE_UP = "give-up-after"
    TOO_MANY_PASSES = "pass-limit"


@dataclass(frozen=True)
class SwitchRule:
    """The user's choice of when to leave precopy.

    Attributes:
        postcopy_after: Passes before postcopy; None for never.
        downtime_ms_max: Precopy alone may finish when the guest would stand still no longer.
        postcopy_after_seconds: Time of precopy before postcopy, whatever pass it is in; None for
            no such limit.
        give_up_after_seconds: Time after which a migration that is still in precopy is cancelled;
            None for never.
    """

    postcopy_after: int | None
    downtime_ms_max: float
    postcopy_after_seconds: float | None = None
    give_up_after_seconds: float | None = None

    @property
    def leads_to_postcopy(self) -> bool:
        """Whether postcopy may follow without anybody's word."""
        return self.postcopy_after is not None or self.postcopy_after_seconds is not None


@dataclass(frozen=True)
class Stall:
    """A pass after which as much is dirty as it sent.

    Attributes:
        pass_number: Which, from 1.
        sent_bytes: What it sent.
        dirty_bytes: What the guest wrote to meanwhile.
        seconds: How long it took.
    """

    pass_number: int
    sent_bytes: int
    dirty_bytes: int
    seconds: float

    @property
    def transfer_rate(self) -> float:
        """Bytes a second that the pass sent."""
        return self.sent_bytes / self.seconds

    @property
    def dirty_rate(self) -> float:
        """Bytes a second that became dirty."""
        return self.dirty_bytes / self.seconds

    def __str__(self) -> str:  # type: ignore[explicit-override] # typing.override: from 3.12
        """Say in a line why precopy does not converge."""
        return (
            f"precopy does not converge: the guest dirties memory at {format_rate(self.dirty_rate)}"
            f", it is sent at {format_rate(self.transfer_rate)} (pass {self.pass_number}: "
            f"{format_bytes(self.sent_bytes)} sent, {format_bytes(self.dirty_bytes)} dirty again)"
        )


class Convergence:
    """Decides when one migration's precopy is over: `start`, then `after_pass` after each pass.

    Within a pass, ask `is_due`: what ends precopy need not wait for the pass's end.

    Attributes:
        means: What ended precopy, once something has.
        started: When precopy began; infinity before.
        downtime_ms_max: As the rule's, until the user says otherwise.
    """

    def __init__(self, rule: SwitchRule) -> None:
        """Wait for the first pass."""
        self.means = Means.NONE
        self.downtime_ms_max = rule.downtime_ms_max
        self._rule = rule
        self.started = inf
        self._ordered = False
        self._has_stalled = False

    def start(self, now: float) -> None:
        """Begin the time of precopy."""
        self.started = now

    def order(self) -> None:
        """Switch over to postcopy as soon as may be, because the user says so."""
        self._ordered = True

    @property
    def gives_up_at(self) -> float:
        """When precopy is given up if nothing has ended it by then; infinity for never."""
        return self._after(self._rule.give_up_after_seconds)

    def is_due(self, now: float) -> bool:
        """Tell whether a pass that is under way has to end before its end."""
        return self._ordered or now >= min(
            self.gives_up_at, self._after(self._rule.postcopy_after_seconds)
        )

    def after_pass(
        self, now: float, passes_done: int, dirty_bytes: int, bytes_per_second: float
    ) -> NextStep:
        """Return what to do after a pass, or before the first, or within one that `is_due`.

        The user's word comes first.  From the pass or the time on that the rule names it is
        postcopy, which needs no estimate; before, precopy alone may finish early.

        Args:
            now: The time.
            passes_done: Complete passes so far.
            dirty_bytes: What would have to be sent now.
            bytes_per_second: The bandwidth of the last pass; 0 before the first.
        """
        rule = self._rule
        estimate_ms = expected_downtime_ms(dirty_bytes, bytes_per_second)
        # The first that holds.
        ends = (
            (self._ordered, NextStep.POSTCOPY, Means.USER),
            (
                rule.postcopy_after is not None and passes_done >= rule.postcopy_after,
                NextStep.POSTCOPY,
                Means.PASSES,
            ),
            (now >= self._after(rule.postcopy_after_seconds), NextStep.POSTCOPY, Means.TIME),
            (
                passes_done > 0 and estimate_ms <= self.downtime_ms_max,
                NextStep.FINISH,
                Means.CONVERGED,
            ),
            (now >= self.gives_up_at, NextStep.GIVE_UP, Means.GAVE_UP),
            (passes_done >= PASS_COUNT_MAX, NextStep.GIVE_UP, Means.TOO_MANY_PASSES),
        )
        for holds, step, means in ends:
            if holds:
                self.means = means
                return step
        return NextStep.ANOTHER_PASS

    def give_up(self) -> None:
        """Note that precopy is given up, in the middle of a pass perhaps."""
        if self.means is Means.NONE:
            self.means = Means.GAVE_UP

    def stall_of(self, stall: Stall) -> Stall | None:
        """Return a pass that has not shrunk, for the user to hear of; once a migration.

        Args:
            stall: The pass that was made; another has to follow.
        """
        shrunk = stall.dirty_bytes <= STALL_SHARE * stall.sent_bytes
        if shrunk or self._has_stalled:
            return None
        self._has_stalled = True
        return stall

    def _after(self, seconds: float | None) -> float:
        return inf if seconds is None else self.started + seconds


def expected_downtime_ms(dirty_bytes: int, bytes_per_second: float) -> float:
    """Return how long the dirty bytes take at that bandwidth, infinity without any."""
    if not dirty_bytes:
        return 0.0
    return dirty_bytes / bytes_per_second * 1000 if bytes_per_second > 0 else float("inf")


def pass_bandwidth(sent_bytes: int, pass_ns: int, limit: int) -> float:
    """Return the bandwidth of a precopy pass in bytes a second.

    A short pass may go out of what the limit's bucket has saved, which no longer one could: so it
    is never more than the limit.

    Args:
        sent_bytes: What the pass sent.
        pass_ns: How long that took, from the end of the pass before.
        limit: Bytes a second, 0 for none.
    """
    measured = sent_bytes / (max(pass_ns, 1) / 1e9)
    return min(measured, limit) if limit else measured
