"""What a break, a failure or the user's word leads to: pause, farewell, the guest back.  Pure.

Until the guest is handed over whatever breaks costs only the copy on the destination, and the guest
runs on here.  From then on a lost connection is no end: the migration stands still, and what the
destination says of itself over new connections decides how it goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from protocol import events
from protocol.errors import (
    ConnectionLost,
    GuestFailed,
    MigrationError,
    PeerAborted,
    as_loss,
    is_cancellation,
    reason_of,
    root_cause,
)
from protocol.events import Emit
from protocol.messages import Standing
from protocol.states import POSTCOPY, Event, Lifecycle, State
from protocol.units import format_bytes
from protocol.whereabouts import NOWHERE, SOURCE, Whereabouts
from source.config import SourceConfig
from source.phases import Phases
from source.resumption import Lacking
from source.steps import Do, Farewell, Steps
from source.verification import Verification

# How long a source that has given its verdict tries to hear that it arrived: a destination that has
# it is on its way out.
LAST_WORD_SECONDS_MAX = 3.0

# The guest is the destination's by then.
_HANDED_OVER = POSTCOPY | {State.COMPLETED}


class PausedByHand(ConnectionLost):
    """The user has paused the migration."""


class Break(NamedTuple):
    """The end of an epoch that another can follow.

    Attributes:
        loss: Why it ended.
        seconds_max: How long it is tried to be resumed, None for as long as any other.
        has_sent: Memory has left since it last went on.
        by_hand: The user did it, and says where it goes on.
    """

    loss: ConnectionLost
    seconds_max: float | None = None
    has_sent: bool = False
    by_hand: bool = False


class Endings:
    """What becomes of one migration when an epoch ends before its time.

    Attributes:
        phases: The migration; None before it has connections.
    """

    def __init__(
        self,
        config: SourceConfig,
        verification: Verification,
        lifecycle: Lifecycle,
        emit: Emit,
    ) -> None:
        """Prepare.

        Args:
            config: What the user said.
            verification: Knows whether a verdict was given.
            lifecycle: Where the migration is.
            emit: Takes events.
        """
        self.phases: Phases | None = None
        self._config = config
        self._verification = verification
        self._lifecycle = lifecycle
        self._emit = emit

    @property
    def whereabouts(self) -> Whereabouts:
        """Where the guest is when the migration ends before its time."""
        phases = self.phases
        if phases is None:
            return Whereabouts(NOWHERE)
        if phases.guest_side == SOURCE:
            return Whereabouts(SOURCE)
        unsent = f"{format_bytes(phases.remaining_bytes)} of its memory not sent"
        return Whereabouts(phases.guest_side, unsent)

    def guest_failed(self, error: GuestFailed) -> None:
        """Take the word that the guest's process is gone.

        Raises:
            GuestFailed: It was not handed over.  From then on its process has nothing to do: memory
                and counts are this one's too.
        """
        if self._lifecycle.state not in _HANDED_OVER:
            raise error

    def end_epoch(self, error: BaseException) -> Steps[Break]:
        """Do what is left to do in an epoch that an error has ended; nothing may cancel that.

        Returns:
            What another epoch can mend.

        Raises:
            BaseException: The error's cause, where that is the end.
        """
        phases = self.phases
        assert phases is not None, "there were connections"
        cause = root_cause(error)
        by_hand = isinstance(cause, PausedByHand)
        if isinstance(cause, ConnectionLost) and not by_hand:
            # When the destination aborts, a send may fail before the reason that came with it has
            # been read.
            cause = (yield Do.READ_ON) or cause
        resumable = phases.handed_over and phases.recoverable
        if resumable:
            cause = as_loss(cause)
        if isinstance(cause, ConnectionLost):
            self._emit(events.ChannelLost(channel=cause.channel, reason=str(cause)))
            if resumable:
                self._lifecycle.interrupt()
                seconds_max = LAST_WORD_SECONDS_MAX if self._verification.verdict_sent else None
                has_sent = phases.epoch.target_pages_sent > 0
                return Break(cause, seconds_max, has_sent, by_hand)
        yield from self._take_back(phases)
        yield from self._part(phases, cause)
        raise cause from None

    def recover(self, gives_way: Callable[[], bool]) -> Steps[tuple[Standing, Lacking]]:
        """Hear over new connections what whoever welcomed them has.

        Args:
            gives_way: Tells whether what is cancelled gives way to an attempt at another address.

        Raises:
            MidstreamError: He is not the destination that was left, or is gone; the migration is
                paused as before.
        """
        phases = self.phases
        assert phases is not None, "it is paused"
        self._lifecycle.go_on(Event.RECONNECTED)
        try:
            standing, lacking = yield from phases.resumption.hear_standing(phases.now)
            phases.resumption.check(standing, lacking)
        except BaseException as error:
            cause = as_loss(root_cause(error))
            if isinstance(cause, ConnectionLost):
                self._emit(events.ChannelLost(channel=cause.channel, reason=str(cause)))
            if isinstance(cause, Exception) or gives_way():
                self._lifecycle.interrupt()
            else:
                # The user ends it, and the destination need not wait.
                yield _farewell(cause)
            raise
        return standing, lacking

    def check_pause(self) -> None:
        """Check that the user may pause the migration now.

        Raises:
            MigrationError: He may not.
        """
        state = self._lifecycle.state
        if state is not State.POSTCOPY_ACTIVE:
            raise MigrationError(
                f"only a migration that is postcopy-active can be paused, this one is {state.value}"
            )
        if self.phases is None or not self.phases.recoverable:
            raise MigrationError(
                "it could not be resumed: --reconnect-timeout is 0, or the destination cannot do it"
            )

    def pause(self) -> None:
        """Have the user's word end the epoch, where it comes in time.

        Raises:
            PausedByHand: It does.
        """
        if self._lifecycle.state is State.POSTCOPY_ACTIVE:
            raise PausedByHand("its user has paused it")

    def check_paused(self) -> None:
        """Check that the user's word has ended the epoch.

        Raises:
            MigrationError: Something else has.
        """
        if self._lifecycle.state is not State.POSTCOPY_PAUSED:
            raise MigrationError(f"it came too late: the state is {self._lifecycle.state.value}")

    def _take_back(self, phases: Phases) -> Steps[None]:
        """Have the guest run on here, if it was stopped for a switch-over that came to nothing."""
        meter = phases.meter
        if phases.handed_over or meter.stopped_ns is None or self._config.hold:
            return
        yield Do.RUN_GUEST
        self._emit(events.GuestRun())
        meter.take_back(phases.now.ns)

    def _part(self, phases: Phases, cause: BaseException) -> Steps[None]:
        """Tell the destination why this ends, unless it knows or cannot be told."""
        if isinstance(cause, PeerAborted):
            return
        if not isinstance(cause, ConnectionLost):
            yield _farewell(cause)
        elif phases.announced:
            # It waits to be resumed, and nobody will.
            yield Farewell(reason_of(cause), anew=True)


def _farewell(cause: BaseException) -> Farewell:
    reason = reason_of(cause) if isinstance(cause, Exception) else "cancelled by its user"
    return Farewell(reason, cancelled=is_cancellation(cause))
