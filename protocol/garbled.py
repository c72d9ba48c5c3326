"""When what a peer says makes no sense, and another connection may mend that.

A bit that changes on its way can make a frame mean anything.  Where the guest lives half here and
half there that costs no more than a break does, however often it comes: only the time that a
migration may stay paused ends it.
"""

from __future__ import annotations

from protocol.errors import ConnectionLost, RemoteProtocolError


def as_loss(error: BaseException) -> BaseException:
    """Return the loss of the connection that brought what makes no sense; other errors as is."""
    if not isinstance(error, RemoteProtocolError):
        return error
    return ConnectionLost(f"what came over the connections makes no sense: {error}")
