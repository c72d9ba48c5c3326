"""Keepalive: says on one connection that this side is alive, and notices when the peer is not."""

from __future__ import annotations

from typing import Protocol

import trio

from protocol.channels import Channel
from protocol.errors import ConnectionLost
from protocol.limits import PULSE_SECONDS
from protocol.liveness import Liveness


class KeptAlive(Protocol):
    """A connection of either side, both directions of it."""

    @property
    def name(self) -> Channel | None:
        """Its role, which is known by now."""

    @property
    def bytes_sent(self) -> int:
        """All that this side sent, as far as it knows that it can be there."""

    @property
    def listening(self) -> bool:
        """Somebody waits for bytes of the peer."""

    @property
    def arrived_bytes(self) -> int:
        """All that the peer sent and that is here."""

    def trust_silence(self) -> None:
        """Have the peer's silence alone tell that it is gone."""

    async def ping(self) -> None:
        """Send a sign of life.

        Raises:
            ConnectionLost: The connection broke.
        """


async def keep_alive(connection: KeptAlive, peer: str, silence_seconds_max: float) -> None:
    """Ping and watch until cancelled.

    Args:
        connection: What to watch.
        peer: Who is at its other end, "source" or "destination".
        silence_seconds_max: How long the peer may be silent.

    Raises:
        ConnectionLost: The connection broke, or the peer was silent for so long.
    """
    assert connection.name is not None
    liveness = Liveness(silence_seconds_max)
    connection.trust_silence()
    while True:
        await trio.sleep(PULSE_SECONDS)
        pulse = liveness.pulse(
            sent_bytes=connection.bytes_sent,
            received_bytes=connection.arrived_bytes,
            listening=connection.listening,
        )
        if pulse.lost:
            name = connection.name.value
            raise ConnectionLost(
                f"the {peer} was silent on the {name} connection for {silence_seconds_max:g} s",
                name,
            )
        if pulse.ping:
            await connection.ping()
