"""Says on one connection that the source is alive, and notices when the destination is not."""

from __future__ import annotations

import trio

from protocol.errors import ConnectionLost
from protocol.limits import PULSE_SECONDS
from protocol.liveness import Liveness
from source.connect import Connection


async def keep_alive(connection: Connection, silence_seconds_max: float) -> None:
    """Ping and watch until cancelled.

    Raises:
        ConnectionLost: The connection broke, or the destination was silent for so long.
    """
    liveness = Liveness(silence_seconds_max)
    out, returns = connection.out, connection.returns
    out.trust_silence()
    while True:
        await trio.sleep(PULSE_SECONDS)
        pulse = liveness.pulse(
            sent_bytes=out.bytes_sent,
            received_bytes=returns.bytes_received,
            listening=returns.listening,
        )
        if pulse.lost:
            raise ConnectionLost(
                f"the destination was silent on the {out.name.value} connection for "
                f"{silence_seconds_max:g} s",
                out.name.value,
            )
        if pulse.ping:
            out.ping()
