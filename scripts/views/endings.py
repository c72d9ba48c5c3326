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


def reason_of(history: History) -> str:
    """Return why a run ended badly, empty if unknown: in the words of the side that did so first.

    Where both ended alike the source's words count: the other side only repeats them.
    """
    told = [note for note in history.notes if note.event == events.STATE]
    bad = [note for note in told if note.fields["state"] in _BAD_ENDS and note.fields.get("reason")]
    first = min(bad, key=lambda note: note.time_ns, default=None)
    of_source = next((note for note in bad if note.side == SOURCE), None)
    if first is None or of_source is None:
        return str(first.fields["reason"]) if first is not None else ""
    same = _BAD_ENDS[first.fields["state"]] == _BAD_ENDS[of_source.fields["state"]]
    return str((of_source if same else first).fields["reason"])


def lost_bytes(history: History) -> int:
    """Return how much memory the destination says is lost."""
    lost = (note for note in history.notes if note.event == events.MEMORY_LOST)
    return sum(note.fields.get("bytes", 0) for note in lost)
