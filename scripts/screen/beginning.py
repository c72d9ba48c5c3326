"""Beginning of a file of events: what an earlier run has left there stays until this one has begun.

Events are written as things happen, for whoever follows them, so their file cannot appear in the
end as other results do.  But a run that is refused, by an address at which nobody listens, a wrong
secret, a machine with too little memory, has nothing to tell that would be worth an earlier run's
events.  So where there are any, lines wait until the migration has begun: the destination has
memory and vCPUs.  A file that is new, or empty, has every line at once.  The pages and traces of
a run that was refused give way to those of an earlier one likewise (`scripts/views/spool.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from protocol import events
from protocol.errors import MidstreamError

# Until a migration has begun, little is told but how much memory is filled, four times a second.
# Whatever tells more has begun.
_HELD_MAX = 100_000

# The states in which nothing of a guest has gone yet, or nothing will.
_NOT_BEGUN = frozenset({"none", "setup", "cancelling", "cancelled", "failed"})


class Out(Protocol):
    """Something that lines go to."""

    @property
    def dropped(self) -> int:
        """How many lines it did not get."""

    @property
    def failure(self) -> OSError | None:
        """Why it gets none any more, if that is so."""

    def write(self, lines: list[bytes]) -> None:
        """Write whole lines, or drop them."""

    def close(self, *, hurry: bool) -> None:
        """Close it; if there is a hurry, with less time for a reader to take what waits."""


class Held:
    """Lines that wait until a migration has begun, in front of what they go to then."""

    def __init__(self, open_out: Callable[[], Out]) -> None:
        """Hold all lines.

        Args:
            open_out: Opens what they go to; raises MidstreamError where that cannot be.
        """
        self._open_out = open_out
        self._out: Out | None = None
        self._lines: list[bytes] = []
        self._dropped = 0
        self._failure: OSError | None = None

    @property
    def is_held(self) -> bool:
        """Whether nothing was written yet."""
        return self._out is None and self._failure is None

    @property
    def dropped(self) -> int:
        """How many lines what they go to did not get."""
        return self._dropped + (self._out.dropped if self._out is not None else 0)

    @property
    def failure(self) -> OSError | None:
        """Why it gets none any more, if that is so."""
        return self._failure if self._out is None else self._out.failure

    def begin(self) -> None:
        """Write what was held; from now on nothing is."""
        if not self.is_held:
            return
        lines, self._lines = self._lines, []
        try:
            self._out = self._open_out()
        except MidstreamError as error:
            cause = error.__cause__
            self._failure = cause if isinstance(cause, OSError) else OSError(str(error))
            self._dropped = len(lines)
        else:
            self._out.write(lines)

    def write(self, lines: list[bytes]) -> None:
        """Hold lines, or write them if the migration has begun."""
        if self._out is not None:
            self._out.write(lines)
        elif self._failure is not None:
            self._dropped += len(lines)
        else:
            self._lines += lines
            if len(self._lines) > _HELD_MAX:
                self.begin()

    def close(self, *, hurry: bool) -> None:
        """Close what was opened; what is still held goes nowhere, and what is there stays."""
        if self._out is not None:
            self._out.close(hurry=hurry)


def begins(side: str, event: events.Event) -> bool:
    """Whether an event says that the migration has begun.

    Of two processes that share a file it has begun for the destination first: that tells its run
    before it says that it is ready, which is what has it begin for the source.
    """
    match event:
        case events.State(state=state):
            return state not in _NOT_BEGUN
        case events.Run():
            # A source's comes before all else.
            return side == events.DEST
        case events.PeerConnection():
            return True
    return False


def has_begun(told: Iterable[Mapping[str, Any]]) -> bool:
    """Whether events of a run, as they stand in a file, say that the migration has begun."""
    return any(
        event["event"] == events.PeerConnection.event
        or (event["event"] == events.State.event and event["state"] not in _NOT_BEGUN)
        for event in told
    )
