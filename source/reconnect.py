"""Connects, and connects a paused migration again as its attempts say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TypeVar

import trio

from guest import clock
from guest.streams.network import TCP, Network
from protocol.addresses import host_port
from protocol.errors import (
    AuthenticationFailed,
    ConnectionLost,
    MidstreamError,
    PeerAborted,
    RemoteProtocolError,
    root_cause,
)
from protocol.events import Emit
from protocol.messages import Standing
from protocol.session_messages import CHECKSUM, offer
from source.attempts import ORDER_SECONDS_MAX, Attempts
from source.carrying import carry_out
from source.config import SourceConfig
from source.connect import Connections, Opening, connect, new_session
from source.endings import Break
from source.resumption import Lacking
from source.steps import Attempt, Now, Step

T = TypeVar("T")


class Reconnector:
    """Opens the connections of one migration, the first and those after breaks.

    Attributes:
        session: What pairs the migration's connections.
        attempts: Decides when and where it is tried.
    """

    def __init__(
        self,
        config: SourceConfig,
        emit: Emit,
        tell: Callable[[str], None] = lambda _: None,
        network: Network = TCP,
        now_ns: Callable[[], int] = clock.now_ns,
    ) -> None:
        """Prepare; nothing is broken yet.

        Args:
            config: Says where the destination listens, and how long a break may last.
            emit: Takes an event about each attempt.
            tell: Takes a line about each attempt.
            network: What connects.
            now_ns: Tells the time, by a clock that goes as fast as trio's.
        """
        self.session = new_session()
        self.attempts = Attempts(config, emit, tell)
        self._config = config
        self._network = network
        self._now_ns = now_ns
        # The user has said something.
        self._redirected = trio.Event()
        # Something has come of what he said.
        self._settled = trio.lowlevel.ParkingLot()
        self._attempt = trio.CancelScope()

    def broke(self, ended: Break) -> None:
        """Say that a migration that went well is interrupted now, and how."""
        self.attempts.broke(ended, self._now)

    def went_on(self, standing: Standing, lacking: Lacking) -> None:
        """Say that the migration goes on, and what the destination lacks."""
        self.attempts.went_on(standing, lacking, self._now)

    def seconds_left(self) -> float:
        """Return how much longer attempts are made."""
        return self.attempts.seconds_left(self._now)

    async def try_at(self, host: str, port: int) -> str:
        """Try another address, at once and from now on; return what came of the first attempt.

        Raises:
            MigrationError: It came to nothing, and why; attempts there may go on.
        """
        order = self.attempts.redirect(host, port)
        self._redirected.set()
        self._attempt.cancel()
        self._settled.unpark_all()
        with trio.move_on_after(ORDER_SECONDS_MAX):
            while order.failure is None:
                await self._settled.park()
        return self.attempts.answer(order, self._now)

    def connect(self) -> AbstractAsyncContextManager[Connections]:
        """Return what opens a new session's connections, and closes them, as `connect` does."""
        return self._connect(*self.attempts.address, 0)

    def connect_again(self) -> AbstractAsyncContextManager[Connections]:
        """Return what opens connections that resume the session, once."""
        self.attempts.number += 1
        return self._connect(*self.attempts.address, self.attempts.number)

    async def reconnect(
        self,
        loss: ConnectionLost,
        stack: AsyncExitStack,
        recover: Callable[[Connections], Awaitable[T]],
    ) -> tuple[Connections, T]:
        """Open connections that resume the session, and recover over them.

        Args:
            loss: Why the last ones are gone.
            stack: Closes the new ones in the end.
            recover: Hears over new connections what the destination has; fails where whoever
                welcomed them is not the destination that was left.

        Raises:
            ConnectionLost: Time is up.
        """
        found: list[tuple[Connections, T]] = []

        async def do(step: Step) -> object:
            self._settled.unpark_all()
            if not isinstance(step, Attempt):
                await self._redirected.wait()
                return None
            self._redirected = trio.Event()
            async with AsyncExitStack() as opened:
                failure = await self._try(step, opened, recover, found)
                if not failure:
                    await stack.enter_async_context(opened.pop_all())
            return failure

        now = Now()
        try:
            await carry_out(self.attempts.run(loss, now), do, now, self._now_ns)
        finally:
            self._settled.unpark_all()
        return found[-1]

    async def _try(
        self,
        attempt: Attempt,
        opened: AsyncExitStack,
        recover: Callable[[Connections], Awaitable[T]],
        found: list[tuple[Connections, T]],
    ) -> str:
        """Make an attempt; return why nothing came of it."""
        host, port, number, seconds = attempt
        try:
            with trio.move_on_after(seconds) as self._attempt:
                connections = await opened.enter_async_context(self._connect(host, port, number))
                # From here on it is no stranger that is waited for.
                self._attempt.deadline = float("inf")
                found.append((connections, await recover(connections)))
                return ""
        except Exception as error:  # noqa: BLE001 - no answer whatsoever may end a paused source
            return _words(root_cause(error))
        return f"{host_port(host, port)} did not answer in time"

    def _connect(
        self, host: str, port: int, number: int
    ) -> AbstractAsyncContextManager[Connections]:
        config = self._config
        capabilities = offer(CHECKSUM) if config.checksum else offer()
        return connect(
            host, port, config.policy, config.credentials,
            opening=Opening(self.session, number, capabilities), network=self._network,
        )  # fmt: skip

    @property
    def _now(self) -> float:
        return self._now_ns() / 1e9


def _words(error: BaseException) -> str:
    """Return why an attempt failed, as its user should read it."""
    if isinstance(error, PeerAborted):
        return f"refused: {error.reason or error}"
    if isinstance(error, (AuthenticationFailed, RemoteProtocolError)):
        return f"refused: {error}"
    if isinstance(error, MidstreamError):
        return str(error)
    return f"{type(error).__name__}: {error}"
