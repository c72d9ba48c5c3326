"""What the source says at the turns of a migration, and the answer that lets it go on.  Pure.

When each is said is for `phases` to know.  They go over the precopy channel, in their order with
its frames; only the end is said on every channel.
"""

from __future__ import annotations

import msgpack

from protocol.errors import RemoteProtocolError
from protocol.geometry import Geometry
from protocol.limits import CLOSING_SECONDS_MAX, DISCARD_BYTES_MAX, SETUP_SECONDS_MAX
from protocol.messages import (
    Discard,
    End,
    Finished,
    Ready,
    Setup,
    SwitchOverAck,
    SwitchOverAhead,
)
from protocol.pageset import PageSet
from source.config import SourceConfig
from source.epochs import Epoch
from source.meter import Meter
from source.steps import Now, Say, Steps, expect


def set_up(config: SourceConfig) -> Steps[None]:
    """Say what guest comes, and how; wait until the destination is ready for its first page.

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
    yield Say(setup, spec)
    yield from expect(Ready, SETUP_SECONDS_MAX)


def announce_switch_over(meter: Meter, now: Now) -> Steps[None]:
    """Say that the guest is about to change hands: from then on a destination that loses us waits.

    Args:
        meter: Takes the exchange of clocks that this is.
        now: The time.

    Raises:
        ConnectionLost, RemoteProtocolError: The destination is gone, or says something else.
    """
    asked_ns = now.ns
    yield Say(SwitchOverAhead())
    ack = yield from expect(SwitchOverAck, CLOSING_SECONDS_MAX)
    meter.compare_clocks(asked_ns, ack.message.clock_ns, ack.at_ns)


def discard(missing: PageSet) -> Steps[None]:
    """Say which target pages the destination lacks, whatever it has of them.

    Raises:
        ConnectionLost: The connection broke.
    """
    for block, first, count, bits in missing.bitmaps(DISCARD_BYTES_MAX * 8):
        yield Say(Discard(payload_bytes=len(bits), block=block, first=first, count=count), bits)


def finish(geometry: Geometry, epoch: Epoch) -> Steps[int]:
    """End every channel, and hear that all that went is placed; return when that was heard, in ns.

    Both sides believe it only when they counted the same over the connections of this epoch.

    Args:
        geometry: The guest's blocks.
        epoch: The present channels.

    Raises:
        ConnectionLost: The connection broke.
        RemoteProtocolError: The destination says something else, or counted otherwise.
    """
    for name, outlet in epoch.outlets.items():
        pages, data_bytes = outlet.target_pages_sent, outlet.data_bytes_sent
        yield Say(End(target_pages=pages, data_bytes=data_bytes), channel=name)
    finished = yield from expect(Finished, CLOSING_SECONDS_MAX)
    ours = Finished(
        pages=geometry.page_count,
        target_pages=epoch.target_pages_sent,
        data_bytes=epoch.data_bytes_sent,
    )
    if finished.message != ours:
        raise RemoteProtocolError(f"the destination counted {finished.message}, this side {ours}")
    return finished.at_ns
