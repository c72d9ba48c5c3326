"""Files of an earlier run: whether there is something to lose, and what becomes of it.

It loads next to nothing: who starts both sides looks at these files before anything else.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from guest.whole_file import own_descriptor
from scripts.screen.output import tell


class Earlier(Enum):
    """The fate of the events that a file holds when it is opened."""

    # They are gone.
    GONE = "gone"
    # They stay, what comes is added.
    KEPT = "kept"
    # They stay until the migration has begun, and are gone then.
    REPLACED = "replaced"
    # The same, but another process that writes there sees to it, and this one only waits.
    AWAITED = "awaited"

    @property
    def appends(self) -> bool:
        """Whether it is another's to remove them, if anybody does."""
        return self in {Earlier.KEPT, Earlier.AWAITED}


def tell_left(path: str) -> None:
    """Say that a file is an earlier run's, which who looks at it now would not think."""
    tell(f"midstream: nothing was migrated, and {path} is as it was")


def holds_earlier(path: Path) -> bool:
    """Whether a file holds what would be lost; a stream and an empty file do not."""
    try:
        return own_descriptor(path) is None and path.is_file() and path.stat().st_size > 0
    except OSError:
        return False
