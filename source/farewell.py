"""The last words to a destination: why a session ends, and hearing why it really did."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, suppress

import trio

from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    MidstreamError,
    MigrationError,
    PeerAborted,
    is_cancellation,
    reason_of,
    root_cause,
)
from protocol.messages import Abort
from source.connect import Connections
from source.pause import PausedByHand

# How long the peer is given to take the reason why a session ends.
FAREWELL_SECONDS_MAX = 1.0


async def explain(connections: Connections, error: BaseException) -> BaseException:
    """Return why the session really ended.

    When the destination aborts, a send may fail before the return path has given out the reason
    that came with it; so a lost connection is looked at once more.
    """
    cause = root_cause(error)
    if not isinstance(cause, ConnectionLost) or isinstance(cause, PausedByHand):
        return cause
    with trio.CancelScope(shield=True), trio.move_on_after(FAREWELL_SECONDS_MAX):
        try:
            while True:
                await connections[Channel.PRECOPY].returns.receive()
        except PeerAborted as abort:
            return abort
        except MidstreamError:
            return cause
    return cause


async def say_farewell(connections: Connections, cause: BaseException) -> None:
    """Tell the destination why this ends, unless it knows or cannot be told."""
    if isinstance(cause, (ConnectionLost, PeerAborted)):
        return
    cancelled = is_cancellation(cause)
    reason = reason_of(cause) if isinstance(cause, Exception) else "cancelled by its user"
    connection = connections[Channel.PRECOPY]
    with trio.move_on_after(FAREWELL_SECONDS_MAX) as scope, suppress(MidstreamError):
        scope.shield = True
        # A page that was broken off ends first, or the reason would land in its bytes.
        await connection.out.finish_open_frame()
        await connection.out.send(Abort(reason=reason, cancelled=cancelled))
        # To close a connection whose bytes were not all read is to throw away what is still on its
        # way to the other side; so the destination closes first.
        await connection.returns.wait_closed()


async def say_farewell_anew(
    connecting: AbstractAsyncContextManager[Connections], cause: BaseException
) -> None:
    """Tell a destination that waits to be resumed that nobody will, if it can be reached at once.

    Args:
        connecting: Opens connections that resume the session.
        cause: Why the migration has failed.
    """
    with trio.move_on_after(FAREWELL_SECONDS_MAX) as scope, suppress(MidstreamError):
        scope.shield = True
        async with connecting as connections:
            await say_farewell(connections, MigrationError(reason_of(cause)))
