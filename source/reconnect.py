"""Connects a paused migration again, by itself and by hand, until it goes on or time is up."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack

import trio

from protocol.capabilities import CHECKSUM, offer
from protocol.channels import Channel
from protocol.errors import ConnectionLost, PeerAborted, RemoteProtocolError
from protocol.geometry import Geometry
from protocol.limits import RECOVER_SECONDS_MAX, RECOVERY_COUNT_MAX, REFUSAL_COUNT_MAX
from protocol.messages import HeldPart, MissingMap, Standing
from protocol.missing import MissingReader
from source.config import SourceConfig
from source.connect import Connections, Opening, connect, new_session
from source.recovery import Lacking, Retries


class Reconnector:
    """The attempts of one migration to be resumed.

    Attributes:
        session: What pairs the migration's connections.
        address: The host and port of the next attempt.
    """

    def __init__(self, config: SourceConfig) -> None:
        """Prepare; nothing is broken yet.

        Args:
            config: Says where the destination listens, and how long a break may last.
        """
        self.session = new_session()
        self.address = (config.host, config.port)
        self._config = config
        self._attempt = 0
        self._break_count = 0
        self._retries = Retries(until=0.0)
        self._redirected = trio.Event()

    def broke(self, seconds_max: float | None = None) -> None:
        """Say that a migration that went well is interrupted now.

        Args:
            seconds_max: How long it is tried to be resumed, if not as long as any other.

        Raises:
            ConnectionLost: It has been interrupted too often.
        """
        self._break_count += 1
        if self._break_count > RECOVERY_COUNT_MAX:
            raise ConnectionLost(f"the connection broke more than {RECOVERY_COUNT_MAX} times")
        seconds = self._config.reconnect_seconds
        if seconds_max is not None:
            seconds = min(seconds, seconds_max)
        self._retries = Retries(until=trio.current_time() + seconds)

    def redirect(self, host: str, port: int) -> None:
        """Try another address from now on, and at once."""
        self.address = (host, port)
        self._redirected.set()

    def connect(self) -> AbstractAsyncContextManager[Connections]:
        """Return what opens connections, and closes them in the end, as `connect` does."""
        host, port = self.address
        config = self._config
        capabilities = offer(CHECKSUM) if config.checksum else offer()
        return connect(
            host, port, config.policy, config.credentials,
            opening=Opening(self.session, self._attempt, capabilities),
            silence_seconds_max=config.silence_seconds_max,
        )  # fmt: skip

    def connect_again(self) -> AbstractAsyncContextManager[Connections]:
        """Return what opens connections that resume the session, once."""
        self._attempt += 1
        return self.connect()

    async def reconnect(self, loss: ConnectionLost, stack: AsyncExitStack) -> Connections:
        """Open connections that resume the session.

        Args:
            loss: Why the last ones are gone.
            stack: Closes the new ones in the end.

        Raises:
            ConnectionLost: Time is up.
            PeerAborted: The destination has no such session any more, and says so again.
            RemoteProtocolError: What listens there is no midstream destination, time after time.
        """
        reason, refusal_count = "", 0
        while (delay := self._retries.next_delay(trio.current_time())) is not None:
            await self._pause(delay)
            try:
                return await stack.enter_async_context(self.connect_again())
            except (PeerAborted, RemoteProtocolError) as error:
                refusal_count += 1
                if refusal_count == REFUSAL_COUNT_MAX:
                    raise
                reason = f": {error}"
            except ConnectionLost as error:
                reason = f": {error}"
        raise ConnectionLost(f"{loss}; it could not be resumed{reason}", loss.channel)

    async def _pause(self, seconds: float) -> None:
        """Sleep, no longer than until there is another address to try."""
        with trio.move_on_after(seconds):
            await self._redirected.wait()
        self._redirected = trio.Event()


async def hear_standing(connections: Connections, geometry: Geometry) -> tuple[Standing, Lacking]:
    """Return where the destination stands after a break, and what it lacks.

    Raises:
        ConnectionLost: It broke again, or does not say in time.
        PeerAborted: The destination ended the session.
        RemoteProtocolError: It says something else.
    """
    reader = MissingReader(geometry)
    returns = connections[Channel.PRECOPY].returns
    with trio.move_on_after(RECOVER_SECONDS_MAX):
        while True:
            message, payload = await returns.receive()
            match message:
                case MissingMap():
                    reader.add(message, payload)
                case HeldPart():
                    reader.add_part(message)
                case Standing():
                    return message, Lacking(reader.finish(message), reader.held)
                case _:
                    raise RemoteProtocolError(
                        f"{type(message).__name__} came where Standing was due"
                    )
    raise ConnectionLost(
        f"the destination did not say in {RECOVER_SECONDS_MAX:g} s what it has",
        Channel.PRECOPY.value,
    )
