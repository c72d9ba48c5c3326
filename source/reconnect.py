"""Connects a paused migration again, by itself and by hand, until it goes on or time is up.

A paused source holds the only copy of what the destination misses.  So nothing that anybody answers
ends it: whoever is found at the address, and whatever goes wrong with him, is told, and another
attempt follows.  Only the time limit ends them, or the user.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from guest.streams.network import TCP, Network
from protocol import events
from protocol.addresses import host_port
from protocol.capabilities import CHECKSUM, offer
from protocol.errors import (
    AuthenticationFailed,
    ConnectionLost,
    MidstreamError,
    MigrationError,
    PeerAborted,
    RemoteProtocolError,
    root_cause,
)
from protocol.events import Emit
from protocol.liveness import PauseLimit
from source.config import SourceConfig
from source.connect import Connections, Opening, connect, new_session
from source.endings import Break

T = TypeVar("T")

# The first attempt comes at once, the others later and later: what is gone for a moment costs no
# more than the moment, and what is gone for long is not asked every moment.
RETRY_SECONDS_FIRST = 0.05
RETRY_SECONDS_MAX = 2.0
# What an attempt has at the least, also when it begins as time is up.
ATTEMPT_SECONDS_MIN = 1.0
# How long who resumes by hand waits to hear how it went.
ORDER_SECONDS_MAX = 45.0


@dataclass
class Retries:
    """When to try again after a break; made anew when memory has arrived since the last one."""

    _delay: float = 0.0

    def next_delay(self, seconds_left: float) -> float | None:
        """Return how long to wait before the next attempt, None when it is too late for one.

        Args:
            seconds_left: How much longer attempts may be made.
        """
        if seconds_left <= 0:
            return None
        delay = self._delay
        self._delay = min(max(2 * delay, RETRY_SECONDS_FIRST), RETRY_SECONDS_MAX)
        return min(delay, seconds_left)


@dataclass
class _Order:
    """A user's word to try an address, and what came of the first attempt there."""

    failure: str = ""
    done: trio.Event = field(default_factory=trio.Event)

    def settle(self, failure: str = "") -> None:
        """Say how it went."""
        if not self.done.is_set():
            self.failure = failure
            self.done.set()


class Reconnector:
    """The attempts of one migration to be resumed.

    Attributes:
        session: What pairs the migration's connections.
        address: The host and port of the next attempt.
        trying: Whether attempts are being made.
    """

    def __init__(
        self,
        config: SourceConfig,
        emit: Emit,
        tell: Callable[[str], None] = lambda _: None,
        network: Network = TCP,
    ) -> None:
        """Prepare; nothing is broken yet.

        Args:
            config: Says where the destination listens, and how long a break may last.
            emit: Takes an event about each attempt.
            tell: Takes a line about each attempt.
            network: What connects.
        """
        self._network = network
        self.session = new_session()
        self.address = (config.host, config.port)
        self.trying = False
        self._config = config
        self._emit = emit
        self._tell = tell
        self._number = 0
        self._limit = PauseLimit(config.reconnect_seconds)
        self._this_until = float("inf")
        self._seconds_max = config.reconnect_seconds
        self._retries = Retries()
        # Until he has, or time is up, nothing is tried.
        self._waits_for_user = False
        # The user has said something that no attempt has followed yet.
        self._redirected = trio.Event()
        self._order = _Order()
        self._attempt = trio.CancelScope()

    def broke(self, ended: Break) -> None:
        """Say that a migration that went well is interrupted now, and how."""
        now = trio.current_time()
        if ended.has_sent:
            self._limit.renew()
        self._limit.pause(now)
        self._waits_for_user = ended.by_hand
        self._seconds_max = self._config.reconnect_seconds
        self._this_until = float("inf")
        if ended.seconds_max is not None and ended.seconds_max < self._seconds_max:
            self._seconds_max, self._this_until = ended.seconds_max, now + ended.seconds_max

    def went_on(self, missing_pages: float) -> None:
        """Say that the migration goes on.

        Args:
            missing_pages: How many target pages the destination lacks; infinite where it has not
                taken the guest.
        """
        self._limit.go_on(trio.current_time())
        if self._limit.lacks(missing_pages):
            self._retries = Retries()

    @property
    def redirected(self) -> bool:
        """Whether the present attempt gives way to one at another address."""
        return self._redirected.is_set()

    def seconds_left(self) -> float:
        """Return how much longer attempts are made."""
        now = trio.current_time()
        return min(self._limit.seconds_left(now), max(self._this_until - now, 0.0))

    async def try_at(self, host: str, port: int) -> str:
        """Try another address, at once and from now on; return what came of the first attempt.

        Raises:
            MigrationError: It came to nothing, and why; attempts there go on.
        """
        self._order.settle("the source was told of another address meanwhile")
        order = self._order = _Order()
        self.address = (host, port)
        self._redirected.set()
        self._attempt.cancel()
        address = host_port(host, port)
        with trio.move_on_after(ORDER_SECONDS_MAX) as patience:
            await order.done.wait()
        failure = order.failure
        if patience.cancelled_caught:
            failure = f"nothing came of it in {ORDER_SECONDS_MAX:g} s"
        if not failure:
            return f"resumed at {address}"
        if not self.trying:
            raise MigrationError(f"{failure}; it does not go on trying, time is up")
        raise MigrationError(
            f"{failure}; it goes on trying {host_port(*self.address)} for "
            f"{self.seconds_left():.0f} s"
        )

    def connect(self) -> AbstractAsyncContextManager[Connections]:
        """Return what opens connections, and closes them in the end, as `connect` does."""
        host, port = self.address
        config = self._config
        capabilities = offer(CHECKSUM) if config.checksum else offer()
        return connect(
            host, port, config.policy, config.credentials,
            opening=Opening(self.session, self._number, capabilities), network=self._network,
        )  # fmt: skip

    def connect_again(self) -> AbstractAsyncContextManager[Connections]:
        """Return what opens connections that resume the session, once."""
        self._number += 1
        return self.connect()

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
        failure = ""
        self.trying = True
        try:
            while (delay := self._next_delay()) is not None:
                unhurried = await self._pause(delay)
                order = self._order
                connections, found, failure = await self._try(stack, recover, unhurried=unhurried)
                if connections is not None and found is not None:
                    order.settle()
                    return connections, found
                order.settle(failure)
        finally:
            self.trying = False
            self._order.settle("the source has given up")
        seconds = self._config.reconnect_seconds
        last = f": {failure}" if failure else ""
        raise ConnectionLost(
            f"{loss}; it could not be resumed in {seconds:g} s{last}", loss.channel
        )

    def _next_delay(self) -> float | None:
        """Return how long to wait before the next attempt, None when it is too late for one."""
        if self._redirected.is_set():
            return 0.0
        if self._waits_for_user:
            return self.seconds_left()
        return self._retries.next_delay(self.seconds_left())

    async def _pause(self, seconds: float) -> bool:
        """Sleep, no longer than until there is another address to try.

        Returns:
            Whether the attempt that follows has its time, whatever is left of that: the user has
            asked for it, or it is the only one for one who has paused by hand and is not back.
        """
        with trio.move_on_after(seconds):
            await self._redirected.wait()
        waited_for_user, self._waits_for_user = self._waits_for_user, False
        return waited_for_user or self._redirected.is_set()

    async def _try(
        self,
        stack: AsyncExitStack,
        recover: Callable[[Connections], Awaitable[T]],
        *,
        unhurried: bool,
    ) -> tuple[Connections | None, T | None, str]:
        """Make one attempt; return what came of it, or why nothing did."""
        self._redirected = trio.Event()
        seconds = max(self.seconds_left(), ATTEMPT_SECONDS_MIN)
        deadline = float("inf") if unhurried else trio.current_time() + seconds
        host, port = self.address
        connections: Connections | None = None
        found: T | None = None
        failure = "another address is tried"
        async with AsyncExitStack() as opened:
            try:
                with trio.CancelScope(deadline=deadline) as self._attempt:
                    failure = f"{host_port(host, port)} did not answer in time"
                    connections = await opened.enter_async_context(self.connect_again())
                    # From here on it is no stranger that is waited for.
                    self._attempt.deadline = float("inf")
                    found = await recover(connections)
                    failure = ""
                    await stack.enter_async_context(opened.pop_all())
            except Exception as error:  # noqa: BLE001 - no answer whatsoever may end a paused source
                failure = _words(root_cause(error))
        if self._redirected.is_set() and failure:
            failure = "another address is tried"
        self._report(host_port(host, port), failure)
        return connections, found, failure

    def _report(self, address: str, failure: str) -> None:
        number, outcome = self._number, "failed" if failure else "resumed"
        self._emit(
            events.ResumeAttempt(attempt=number, address=address, outcome=outcome, reason=failure)
        )
        self._tell(f"attempt {number} to resume at {address}: {failure or outcome}")


def _words(error: BaseException) -> str:
    """Return why an attempt failed, as its user should read it."""
    if isinstance(error, PeerAborted):
        return f"refused: {error.reason or error}"
    if isinstance(error, (AuthenticationFailed, RemoteProtocolError)):
        return f"refused: {error}"
    if isinstance(error, MidstreamError):
        return str(error)
    return f"{type(error).__name__}: {error}"
