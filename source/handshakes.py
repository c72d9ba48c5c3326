"""What the source says at each turn of a migration, and the answer that lets it go on.

When each is said is for `migration` to know.  They go over the precopy channel, in their order with
its frames; only the end is said on every channel.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgpack

from guest.handle import GuestSnapshot
from guest.states import encode_states
from protocol.errors import RemoteProtocolError
from protocol.geometry import Geometry
from protocol.limits import CLOSING_SECONDS_MAX, DISCARD_BYTES_MAX, SETUP_SECONDS_MAX
from protocol.messages import (
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
from source.downtime import Downtime
from source.returns import Inbox


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
    asked_ns = time.monotonic_ns()
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
