"""When what a peer says makes no sense, and another connection may mend that.

A bit that changes on its way can make a frame mean anything.  Where the guest lives half here and
half there that must cost no more than a break does; but what a peer gets wrong by itself it will
get wrong again.
"""

from __future__ import annotations

from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.limits import GARBLED_COUNT_MAX


class Garbled:
    """Counts how often that happens in one migration."""

    def __init__(self) -> None:
        """Start with never."""
        self._count = 0

    def as_loss(self, error: BaseException) -> BaseException:
        """Return the loss of the connection that brought something, or another error as it is."""
        if not isinstance(error, RemoteProtocolError) or self._count == GARBLED_COUNT_MAX:
            return error
        self._count += 1
        return ConnectionLost(f"what came over the connections makes no sense: {error}")
