"""How far a running migration is, for whoever shows it.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.channels import Channel
from protocol.geometry import Geometry
from protocol.states import State
from source.epochs import channel_bytes, sent_bytes
from source.phases import Phases

# What a precopy pass takes of the way that is left: nobody knows how many will follow, and in a
# migration that converges each is far shorter than the one before.
PASS_SHARE = 0.75

_BEFORE = frozenset({State.NONE, State.SETUP})


@dataclass(frozen=True)
class Progress:
    """How far a running migration is.

    Attributes:
        done: How much of the way is behind it, from 0 to 1; see `Bar`.
        remaining_bytes: Not yet sent, of this pass or of postcopy; all memory before the first.
        queued_requests: Page requests that wait for their turn.
        downtime_ms: How long the guest has stood still; 0 before the switch-over.
    """

    state: str
    pass_count: int
    ram_bytes: int
    done: float
    remaining_bytes: int
    sent_bytes: int
    precopy_channel_bytes: int
    postcopy_channel_bytes: int
    elapsed_ms: float
    requests: int
    queued_requests: int
    preemptions: int
    boosted: int
    downtime_ms: float = 0.0


class Bar:
    """How much of the way is done: nothing in setup, never less than before, all at the end.

    What remains begins anew with each pass, so it cannot be shown as it is.  Each pass is given a
    fixed share of the way that was left when it began, and what follows the last one all of that.
    """

    def __init__(self) -> None:
        """Start at the beginning."""
        self._done = 0.0

    def update(
        self, state: State, pass_count: int, remaining_bytes: int, phase_bytes: int
    ) -> float:
        """Return how much is done, from 0 to 1.

        Args:
            state: Where the migration's lifecycle is.
            pass_count: Complete precopy passes.
            remaining_bytes: What this pass, or what follows the last one, has still to send.
            phase_bytes: What it had to send when it began.
        """
        if state is State.COMPLETED:
            self._done = 1.0
        elif state not in _BEFORE:
            left = (1 - PASS_SHARE) ** pass_count
            share = PASS_SHARE if state is State.ACTIVE else 1.0
            sent = 1 - min(remaining_bytes / phase_bytes, 1.0) if phase_bytes else 1.0
            self._done = max(self._done, 1 - left + left * share * sent)
        return self._done


def progress_of(
    geometry: Geometry, phases: Phases, state: State, bar: Bar, now_ns: int
) -> Progress:
    """Return how far a migration that has connections is.

    Args:
        geometry: The guest's blocks.
        phases: The migration.
        state: Where its lifecycle is.
        bar: Remembers how far it was.
        now_ns: The time.
    """
    counts = phases.scheduler.counts
    remaining_bytes = phases.remaining_bytes
    return Progress(
        state=state.value,
        pass_count=phases.meter.pass_count,
        ram_bytes=geometry.length_bytes,
        done=bar.update(state, phases.meter.pass_count, remaining_bytes, phases.phase_bytes),
        remaining_bytes=remaining_bytes,
        sent_bytes=sent_bytes(phases.epochs),
        precopy_channel_bytes=channel_bytes(phases.epochs, Channel.PRECOPY),
        postcopy_channel_bytes=channel_bytes(phases.epochs, Channel.POSTCOPY),
        elapsed_ms=phases.meter.total_ms(now_ns),
        requests=counts.received,
        queued_requests=phases.scheduler.queued_requests,
        preemptions=counts.preemptions,
        boosted=counts.boosted,
        downtime_ms=phases.meter.downtime_ms(now_ns),
    )
