"""What both sides can do beyond the base protocol; Hello offers, Welcome says what is in force."""

from __future__ import annotations

from collections.abc import Iterable

# A break after the switch-over was announced pauses the session, and it can be resumed.
RECOVER = "recover"
# Both sides say that they are alive, and take a silent peer for dead.
KEEPALIVE = "keepalive"
# A Checksum goes before each frame that carries pages, and what comes changed goes again.
CHECKSUM = "checksum"
# The source tells of each page request how it was answered and what became of it.
ANSWERS = "answers"

OURS = (RECOVER, KEEPALIVE, CHECKSUM, ANSWERS)
# What costs time and is offered only where a user wants it.
_WANTED = frozenset({CHECKSUM})


def offer(*wanted: str) -> tuple[str, ...]:
    """Return what a Hello offers: all that this side has, and of what costs time what is wanted."""
    return tuple(name for name in OURS if name in wanted or name not in _WANTED)


def in_force(offered: Iterable[str]) -> tuple[str, ...]:
    """Return what of a peer's capabilities this side has too, in an order of its own."""
    theirs = frozenset(offered)
    return tuple(name for name in OURS if name in theirs)
