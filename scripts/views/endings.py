"""What came of a run, in one word and one figure, so that all views say the same."""

from __future__ import annotations

from protocol import events
from protocol.states import State
from scripts.views.history import History
from scripts.views.records import DEST, SOURCE

# States that no run ends well from, and what its end is called.
_BAD_ENDS = {
    State.FAILED.value: State.FAILED.value,
    State.CANCELLING.value: State.CANCELLED.value,
    State.CANCELLED.value: State.CANCELLED.value,
}


def status_of(history: History) -> str:
    """Return the state in which a run ended; the last one told, where events end before it does.

    Of two sides one fails or is cancelled first, and the other because of it.
    """
    states = {side: told for side in (SOURCE, DEST) if (told := history.states(side))}
    ends = {side: told[-1][1] for side, told in states.items()}
    if {State.FAILED.value, State.CANCELLED.value} & {*ends.values()}:
        bad = [(at, name) for told in states.values() for at, name in told if name in _BAD_ENDS]
        return _BAD_ENDS[min(bad)[1]]
    if State.COMPLETED.value in ends.values():
        return State.COMPLETED.value
    return ends.get(SOURCE, ends.get(DEST, "?"))


def lost_bytes(history: History) -> int:
    """Return how much memory the destination says is lost."""
    lost = (note for note in history.notes if note.event == events.MEMORY_LOST)
    return sum(note.fields.get("bytes", 0) for note in lost)
