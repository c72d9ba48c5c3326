"""Judges how the two sides that a process has started have ended: one end, and one line."""

from __future__ import annotations

from collections.abc import Sequence

from protocol.errors import MemoryLost, MidstreamError, MigrationCancelled
from protocol.whereabouts import DEST, NOWHERE, UNKNOWN, Whereabouts, told_in
from scripts.options import SOURCE
from scripts.processes.child import Child

# The exit statuses of a source whose guest has moved.
ENDED_WELL = frozenset({0, 3, 5})


class SideFailed(MidstreamError):
    """A side failed.

    Attributes:
        exit_status: What this process exits with.
    """

    def __init__(self, reason: str, exit_status: int) -> None:
        """Carry the side's reason."""
        super().__init__(reason)
        self.exit_status = exit_status


def judge(sides: Sequence[Child], cancelled_by: str, *, met: bool) -> None:
    """Turn the exit statuses of both sides into the one of who has started them.

    Args:
        sides: The destination and, if it was started, the source; they have ended.
        cancelled_by: The name of the signal by which the user cancelled; empty if none came.
        met: The destination has heard of a source.

    Raises:
        SideFailed: One is not 0.
        MigrationCancelled: The user cancelled; says where the guest is.
    """
    if [side.status for side in sides] == [0, 0]:
        return
    if cancelled_by:
        raise MigrationCancelled(_cancellation(sides, f"cancelled by {cancelled_by}", met=met))
    culprit = _culprit(sides)
    raise SideFailed(culprit.last_words, max(culprit.status or 1, 1))


def _cancellation(sides: Sequence[Child], told: str, *, met: bool) -> str:
    """Return how the migration was cancelled, and where the guest is.

    The source says so, unless it had ended well before, or was killed; of memory that is lost the
    destination says more.
    """
    lost = [side for side in sides if side.status == MemoryLost.exit_status]
    for side in (*lost, *reversed(sides)):
        if place := told_in(side.reason):
            return f"{told}; {place}"
    if any(side.side == SOURCE and side.status in ENDED_WELL for side in sides):
        return Whereabouts(DEST).added_to(told)
    return Whereabouts(UNKNOWN if met else NOWHERE).added_to(told)


def _culprit(sides: Sequence[Child]) -> Child:
    """Return the side whose word counts: both may have failed, of one cause."""
    for status in (4, 3, 5):
        for side in sides:
            if side.status == status:
                return side
    # Who was killed could not tell anybody; the other only knows of a lost connection.
    killed = [side for side in sides if (side.status or 0) < 0 and not side.put_down]
    failed = [side for side in reversed(sides) if side.status and not side.put_down]
    return [*killed, *failed, *sides][0]
