"""What the source says at each turn of a migration, and the answer that lets it go on.

When each is said is for `migration` to know.  They go over the precopy channel, in their order with
its frames; only the end is said on every channel.  The last words to a destination are of them: why
a session ends, and hearing why it really did.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress

import msgpack
import trio

from guest import clock
from guest.interface import GuestSnapshot
from guest.states import encode_states
from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    MidstreamError,
    MigrationError,
    PeerAborted,
    RemoteProtocolError,
    is_cancellation,
    reason_of,
    root_cause,
)
from protocol.geometry import Geometry
from protocol.limits import CLOSING_SECONDS_MAX, DISCARD_BYTES_MAX, SETUP_SECONDS_MAX
from protocol.messages import (
    Abort,
    Discard,
    End,
    Finished,
    Ready,
    Setup,
    SwitchOver,
    SwitchOverAck,
    SwitchOverAhead,
)
from protocol.pageset import PageSet
from source.channel import OutChannel
from source.config import SourceConfig
from source.connect import Connections
from source.downtime import Downtime
from source.pause import PausedByHand
from source.returns import Inbox

# How long the peer is given to take the reason why a session ends.
FAREWELL_SECONDS_MAX = 1.0


async def set_up(config: SourceConfig, main: OutChannel, inbox: Inbox) -> None:
    """Say what guest comes, and how; wait until the destination is ready for its first page.

    Args:
        config: What the user said.
        main: The precopy channel.
        inbox: What comes back over it.

    Raises:
        ConnectionLost, RemoteProtocolError: The destination is gone, or says something else.
    """
    blocks = tuple(
        (block.name, block.length_bytes, block.page_bytes) for block in config.geometry.blocks
    )
    spec = msgpack.packb(config.spec.to_plain())
    setup = Setup(
        payload_bytes=len(spec),
        blocks=blocks,
        policy=config.policy.name,
        chunk_bytes=config.chunk_bytes,
        switches=config.policy.switches,
    )
    await main.send(setup, spec)
    await inbox.expect(Ready, SETUP_SECONDS_MAX)


async def announce_switch_over(main: OutChannel, inbox: Inbox, downtime: Downtime) -> None:
    """Say that the guest is about to change hands: from then on a destination that loses us waits.

    Args:
        main: The precopy channel.
        inbox: What comes back over it.
        downtime: Takes the exchange of clocks that this is.

    Raises:
        ConnectionLost, RemoteProtocolError: The destination is gone, or says something else.
    """
    asked_ns = clock.now_ns()
    await main.send(SwitchOverAhead())
    ack = await inbox.expect(SwitchOverAck, CLOSING_SECONDS_MAX)
    downtime.compare_clocks(asked_ns, ack.message.clock_ns, ack.at_ns)


async def discard(missing: PageSet, main: OutChannel) -> None:
    """Say which target pages the destination lacks, whatever it has of them.

    Raises:
        ConnectionLost: The connection broke.
    """
    for block, first, count, bits in missing.bitmaps(DISCARD_BYTES_MAX * 8):
        message = Discard(payload_bytes=len(bits), block=block, first=first, count=count)
        await main.send(message, bits)


async def switch_over(snapshot: GuestSnapshot, main: OutChannel, *, postcopy: bool) -> None:
    """Give the guest to the destination.

    Args:
        snapshot: The guest, which stands still.
        main: The precopy channel.
        postcopy: Some of its memory comes after it.

    Raises:
        ConnectionLost: The connection broke; whether the guest is there is not known.
    """
    state = encode_states(snapshot.states)
    await main.send(SwitchOver(payload_bytes=len(state), postcopy=postcopy), state)


async def finish(geometry: Geometry, outs: Sequence[OutChannel], inbox: Inbox) -> int:
    """End every channel, and hear that all that went is placed; return when that was heard, in ns.

    Both sides believe it only when they counted the same over the connections of this epoch.

    Args:
        geometry: The guest's blocks.
        outs: All channels.
        inbox: What comes back over the precopy channel.

    Raises:
        ConnectionLost: The connection broke.
        RemoteProtocolError: The destination says something else, or counted otherwise.
    """
    for out in outs:
        await out.send(End(target_pages=out.target_pages_sent, data_bytes=out.data_bytes_sent))
    finished = await inbox.expect(Finished, CLOSING_SECONDS_MAX)
    ours = Finished(
        pages=geometry.page_count,
        target_pages=sum(out.target_pages_sent for out in outs),
        data_bytes=sum(out.data_bytes_sent for out in outs),
    )
    if finished.message != ours:
        raise RemoteProtocolError(f"the destination counted {finished.message}, this side {ours}")
    return finished.at_ns


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
