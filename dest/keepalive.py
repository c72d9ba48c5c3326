"""Says on one connection that the destination is alive, and notices when the source is not."""

from __future__ import annotations

import trio

from dest.channel import InChannel
from protocol.errors import ConnectionLost
from protocol.limits import PULSE_SECONDS
from protocol.liveness import Liveness


async def keep_alive(channel: InChannel, silence_seconds_max: float) -> None:
    """Ping and watch until cancelled.

    Raises:
        ConnectionLost: The connection broke, or the source was silent for so long.
    """
    assert channel.name is not None
    liveness = Liveness(silence_seconds_max)
    channel.trust_silence()
    while True:
        await trio.sleep(PULSE_SECONDS)
        pulse = liveness.pulse(
            sent_bytes=channel.bytes_sent,
            received_bytes=channel.arrived_bytes,
            listening=channel.listening,
        )
        if pulse.lost:
            raise ConnectionLost(
                f"the source was silent on the {channel.name.value} connection for "
                f"{silence_seconds_max:g} s",
                channel.name.value,
            )
        if pulse.ping:
            await channel.ping()
