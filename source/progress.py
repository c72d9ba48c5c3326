"""How far a running migration is, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.channels import Channel
from protocol.geometry import Geometry
from protocol.states import State
from source.meter import channel_bytes, sent_bytes
from source.migration import Migration


@dataclass(frozen=True)
class Progress:
    """How far a running migration is.

    Attributes:
        remaining_bytes: Not yet sent, of this pass or of postcopy.
        queued_requests: Page requests that wait for their turn.
    """

    state: str
    pass_count: int
    ram_bytes: int
    remaining_bytes: int
    sent_bytes: int
    precopy_channel_bytes: int
    postcopy_channel_bytes: int
    elapsed_ms: float
    requests: int
    queued_requests: int
    preemptions: int
    boosted: int


def progress_of(geometry: Geometry, migration: Migration, state: State) -> Progress:
    """Return how far a migration that has connections is.

    Args:
        geometry: The guest's blocks.
        migration: The migration.
        state: Where its lifecycle is.
    """
    counts = migration.scheduler.counts
    return Progress(
        state=state.value,
        pass_count=migration.meter.pass_count,
        ram_bytes=geometry.length_bytes,
        remaining_bytes=migration.scheduler.remaining_bytes,
        sent_bytes=sent_bytes(migration.epochs),
        precopy_channel_bytes=channel_bytes(migration.epochs, Channel.PRECOPY),
        postcopy_channel_bytes=channel_bytes(migration.epochs, Channel.POSTCOPY),
        elapsed_ms=migration.meter.total_ms,
        requests=counts.received,
        queued_requests=migration.scheduler.queued_requests,
        preemptions=counts.preemptions,
        boosted=counts.boosted,
    )
