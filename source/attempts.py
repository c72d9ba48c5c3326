"""When and where a paused migration is tried to be resumed, by itself and by hand.  Pure.

A paused source holds the only copy of what the destination misses.  So nothing that anybody answers
ends it: whoever is found at the address, and whatever goes wrong with him, is told, and another
attempt follows.  Only the time limit ends them, or the user.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from protocol import events
from protocol.addresses import host_port
from protocol.errors import ConnectionLost, MigrationError
from protocol.events import Emit
from protocol.liveness import PauseLimit
from protocol.messages import Standing
from source.config import SourceConfig
from source.endings import Break
from source.resumption import Lacking
from source.steps import Attempt, Do, Now, Steps, Within

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
class Order:
    """A user's word to try an address, and what came of the first attempt there.

    Attributes:
        address: That.
        failure: Why it came to nothing, empty if the session was resumed; None while it is open.
    """

    address: str = ""
    failure: str | None = None

    def settle(self, failure: str) -> None:
        """Say how it went, unless that is known."""
        if self.failure is None:
            self.failure = failure


class Attempts:
    """The attempts of one migration to be resumed.

    Attributes:
        address: The host and port of the next attempt.
        number: Which attempt of the session was the last.
        trying: Whether attempts are being made.
        redirected: The user has named an address that no attempt has followed yet; the present one
            gives way.
    """

    def __init__(self, config: SourceConfig, emit: Emit, tell: Callable[[str], None]) -> None:
        """Prepare; nothing is broken yet.

        Args:
            config: Says where the destination listens, and how long a break may last.
            emit: Takes an event about each attempt.
            tell: Takes a line about each attempt.
        """
        self.address = (config.host, config.port)
        self.number = 0
        self.trying = False
        self.redirected = False
        self._config = config
        self._emit = emit
        self._tell = tell
        self._limit = PauseLimit(config.reconnect_seconds)
        self._this_until = inf
        self._retries = Retries()
        # Until he has said where, or time is up, nothing is tried.
        self._waits_for_user = False
        self._order = Order()

    def broke(self, ended: Break, now: float) -> None:
        """Say that a migration that went well is interrupted now, in seconds, and how."""
        if ended.has_sent:
            self._limit.renew()
        self._limit.pause(now)
        self._waits_for_user = ended.by_hand
        seconds_max = ended.seconds_max
        is_short = seconds_max is not None and seconds_max < self._config.reconnect_seconds
        self._this_until = now + seconds_max if seconds_max is not None and is_short else inf

    def went_on(self, standing: Standing, lacking: Lacking, now: float) -> None:
        """Say that the migration goes on, and what the destination lacks."""
        self._limit.go_on(now)
        if self._limit.lacks(len(lacking.missing) if standing.running else inf):
            self._retries = Retries()

    def seconds_left(self, now: float) -> float:
        """Return how much longer attempts are made."""
        return min(self._limit.seconds_left(now), max(self._this_until - now, 0.0))

    def redirect(self, host: str, port: int) -> Order:
        """Try another address, at once and from now on."""
        self._order.settle("the source was told of another address meanwhile")
        self.address, self.redirected = (host, port), True
        self._order = Order(host_port(host, port))
        return self._order

    def answer(self, order: Order, now: float) -> str:
        """Return what the user reads of his word; it had its time.

        Raises:
            MigrationError: It came to nothing, and why; attempts there may go on.
        """
        if order.failure == "":
            return f"resumed at {order.address}"
        failure = order.failure or f"nothing came of it in {ORDER_SECONDS_MAX:g} s"
        if not self.trying:
            raise MigrationError(f"{failure}; it does not go on trying, time is up")
        raise MigrationError(
            f"{failure}; it goes on trying {host_port(*self.address)} for "
            f"{self.seconds_left(now):.0f} s"
        )

    def run(self, loss: ConnectionLost, now: Now) -> Steps[None]:
        """Make attempts until one has resumed the session.

        Args:
            loss: Why the last connections are gone.
            now: The time.

        Raises:
            ConnectionLost: Time is up.
        """
        failure = ""
        self.trying = True
        try:
            while (delay := self._next_delay(now.seconds)) is not None:
                yield Within(Do.LOOK_OUT, delay)
                # It has its time, whatever is left of that, where the user has asked for it, or it
                # is the only one for one who has paused by hand and is not back.
                unhurried = self._waits_for_user or self.redirected
                self._waits_for_user = self.redirected = False
                failure = yield from self._attempt(now, unhurried=unhurried)
                if not failure:
                    return
        finally:
            self.trying = False
            self._order.settle("the source has given up")
        last = f": {failure}" if failure else ""
        raise ConnectionLost(
            f"{loss}; it could not be resumed in {self._config.reconnect_seconds:g} s{last}",
            loss.channel,
        )

    def _next_delay(self, now: float) -> float | None:
        """Return how long to wait before the next attempt, None when it is too late for one."""
        if self.redirected:
            return 0.0
        if self._waits_for_user:
            return self.seconds_left(now)
        return self._retries.next_delay(self.seconds_left(now))

    def _attempt(self, now: Now, *, unhurried: bool) -> Steps[str]:
        """Make one attempt; return why nothing came of it, empty if the session is resumed."""
        seconds = inf if unhurried else max(self.seconds_left(now.seconds), ATTEMPT_SECONDS_MIN)
        order, (host, port) = self._order, self.address
        self.number += 1
        number, address = self.number, host_port(host, port)
        failure: str = yield Attempt(host, port, number, seconds)
        if self.redirected and failure:
            failure = "another address is tried"
        outcome = "failed" if failure else "resumed"
        self._emit(
            events.ResumeAttempt(attempt=number, address=address, outcome=outcome, reason=failure)
        )
        self._tell(f"attempt {number} to resume at {address}: {failure or outcome}")
        order.settle(failure)
        return failure
