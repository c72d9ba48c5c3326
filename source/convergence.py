"""When precopy is over: after which pass, and into what.

The estimate is QEMU's (`migration/migration.c`, migration_iteration_run): what is still dirty, at
the bandwidth that the last pass saw, is the time for which the guest would stand still.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocol.limits import PASS_COUNT_MAX


class NextStep(Enum):
    """What follows a precopy pass."""

    ANOTHER_PASS = "another pass"
    FINISH = "stop the guest and send the rest"
    POSTCOPY = "switch over, the rest follows"
    GIVE_UP = "precopy does not converge"


@dataclass(frozen=True)
class SwitchRule:
    """The user's choice of when to leave precopy.

    Attributes:
        postcopy_after: Passes before postcopy; None for never.
        downtime_ms_max: Precopy alone may finish when the guest would stand still no longer.
    """

    postcopy_after: int | None
    downtime_ms_max: float

    def decide(self, passes_done: int, dirty_bytes: int, bytes_per_second: float) -> NextStep:
        """Return what to do after a pass.

        Before the pass that `postcopy_after` names, precopy alone may finish early; from that pass
        on it is postcopy, which needs no estimate.

        Args:
            passes_done: Complete passes so far.
            dirty_bytes: What would have to be sent now.
            bytes_per_second: The bandwidth of the last pass; 0 before the first.
        """
        if self.postcopy_after is not None and passes_done >= self.postcopy_after:
            return NextStep.POSTCOPY
        if (
            passes_done
            and expected_downtime_ms(dirty_bytes, bytes_per_second) <= self.downtime_ms_max
        ):
            return NextStep.FINISH
        if passes_done >= PASS_COUNT_MAX:
            return NextStep.GIVE_UP
        return NextStep.ANOTHER_PASS


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
