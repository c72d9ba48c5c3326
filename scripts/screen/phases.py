"""A migration's phases in words for a person, and how long what is left may take.  Pure."""

from __future__ import annotations

from protocol.states import State
from protocol.units import format_bytes
from scripts.screen.words import percent, time_us

_WORDS = {
    State.NONE: "starting",
    State.SETUP: "connecting",
    State.ACTIVE: "precopy",
    State.DEVICE: "switching over",
    State.POSTCOPY_ACTIVE: "postcopy: memory follows",
    State.POSTCOPY_PAUSED: "connection lost, waiting",
    State.POSTCOPY_RECOVER: "resuming",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLING: "cancelling",
    State.CANCELLED: "cancelled",
}
_NAMES = {state.value: words for state, words in _WORDS.items()}
assert set(_WORDS) == set(State)

# What would take longer than this nobody knows to a minute.
_LEFT_SECONDS_MAX = 100 * 3600


def phase_words(state: str, passes: int, filled: tuple[int, int] | None = None) -> str:
    """Return what goes on.

    Args:
        state: The state's name; one that is not known is told as it is.
        passes: Precopy passes that are complete.
        filled: How many bytes of the guest's memory are filled, of how many, while they are being
            filled; None else.
    """
    if filled is not None and state == State.NONE.value:
        return f"filling memory {_of(*filled)}"
    words = _NAMES.get(state, state)
    return f"{words}: pass {passes + 1}" if state == State.ACTIVE.value else words


def _of(done_bytes: int, total_bytes: int) -> str:
    """Return `3/8 GiB`: both in the unit of the larger."""
    number, _, unit = format_bytes(total_bytes).partition(" ")
    # In the unit of the whole, or a few MiB of some GiB would look like more.
    done = done_bytes * float(number) / total_bytes if total_bytes else 0.0
    return f"{done:.3g}/{number} {unit}"


def percent_done(done: float) -> str:
    """Return how much of the way is done; 100 % is said only of all."""
    return f"{int(done * 100)} %" if done < 1 else percent(1.0)


def time_left(state: str, remaining_bytes: int | None, bytes_per_second: float) -> str:
    """Return how long what is left takes at this rate, empty where that says nothing.

    In precopy it is this pass alone: nobody knows how many follow.
    """
    if not remaining_bytes or bytes_per_second <= 0:
        return ""
    seconds = remaining_bytes / bytes_per_second
    if seconds > _LEFT_SECONDS_MAX:
        return ""
    left = time_us(max(round(seconds), 1) * 1e6)
    if state == State.ACTIVE.value:
        return f"pass ends in {left}"
    return f"{left} left" if state == State.POSTCOPY_ACTIVE.value else ""
