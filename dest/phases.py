"""Decides what a destination does next: take over, finish, close, wait after a break.  Pure.

A migration goes from one *epoch*, a set of connections, to the next.  What is done over one is a
generator of steps: whoever runs it does each in its order and sends back what came of it; what
fails at one ends the epoch.  `begin` opens the first epoch, and `resume` the others; `stopping` and
`switch_over` answer what the peer says while one lasts.  `broke` is told why an epoch has ended,
and raises that if the migration has ended with it; `pause` says for how long the peer is waited
for, and what follows is `resume` or `gave_up`.  What is left of a guest `lose` says in the end.

Nothing here waits, or looks at a clock: times are arguments, and of any peer it is known what it
can do (`Terms`), and not who it is.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from dest.engine import Engine
from dest.missing import outcome_of_loss, tell_missing
from dest.steps import (
    Discard,
    Forget,
    HearVerdict,
    Keep,
    Leave,
    Receive,
    SaveRest,
    Say,
    Step,
    Steps,
    Stood,
    Stop,
    TakeOver,
    Terms,
)
from protocol import events
from protocol.errors import (
    ConnectionLost,
    PeerAborted,
    RemoteProtocolError,
    as_loss,
    root_cause,
)
from protocol.events import Emit
from protocol.geometry import Geometry
from protocol.limits import CLOSING_SECONDS_MAX
from protocol.liveness import PauseLimit
from protocol.messages import (
    Bye,
    Finished,
    Ready,
    Running,
    Standing,
    SwitchOverAck,
    Verdict,
)
from protocol.missing import held_parts, missing_maps
from protocol.pageset import PageSet
from protocol.report import DestPart, SourcePart
from protocol.states import Event, Lifecycle, State

# How long a destination that has the last word stays for a source that did not hear it.
LAST_WORD_SECONDS_MAX = 3.0

# Where a break does not end the session, if both sides can recover.
_RESUMABLE = frozenset(
    {State.DEVICE, State.POSTCOPY_ACTIVE, State.POSTCOPY_RECOVER, State.COMPLETED}
)


@dataclass(frozen=True)
class Closing:
    """Words of the end; a peer that gives no verdict has said nothing."""

    part: DestPart
    verdict: Verdict | None = None
    source: SourcePart | None = None


class Phases:
    """One migration, from Ready to the last word.

    Attributes:
        handed_over: The guest is this side's.
        run_ns: Since when it runs here, on the monotonic clock; 0 while it does not.
        closing: How it ended, once it has.
    """

    def __init__(
        self,
        geometry: Geometry,
        engine: Engine,
        lifecycle: Lifecycle,
        emit: Emit,
        terms: Terms,
        wait_seconds: float,
    ) -> None:
        """Start before Ready.

        Args:
            geometry: The guest's blocks.
            engine: Knows what is here.
            lifecycle: The migration's state.
            emit: Takes events.
            terms: What the peer can do.
            wait_seconds: How long it is waited for without progress; 0 for not at all.
        """
        self.handed_over = False
        self.run_ns = 0
        self.closing: Closing | None = None
        self._geometry = geometry
        self._engine = engine
        self._lifecycle = lifecycle
        self._emit = emit
        self._terms = terms
        self._limit = PauseLimit(wait_seconds)
        self._stood: Stood | None = None
        self._loss: ConnectionLost | None = None

    @property
    def missing(self) -> PageSet:
        """Target pages that have not come, half-received ones included."""
        return self._engine.assembly.missing()

    # An epoch, to its end.

    def begin(self) -> Steps:
        """Say ready, and go on to the end."""
        yield Say(Ready())
        self._lifecycle.fire(Event.PREPARED)
        yield from self._to_the_end()

    def resume(self, now_s: float) -> Steps:
        """Say over new connections what is here and what is missing, and go on to the end."""
        self._limit.go_on(now_s)
        self._lifecycle.go_on(Event.RECONNECTED)
        assembly, missing = self._engine.assembly, self.missing
        for message, payload in missing_maps(missing) if self.handed_over else ():
            yield Say(message, payload)
        for part in held_parts(assembly.held_parts):
            yield Say(part)
        yield Say(
            Standing(
                running=self.handed_over,
                target_pages=len(missing) if self.handed_over else 0,
                dropped_bytes=assembly.dropped_bytes,
                run_ns=self.run_ns,
            )
        )
        self._engine.resumed()
        self._lifecycle.go_on(Event.RECOVERED if self.handed_over else Event.SWITCH_OVER_AGAIN)
        self._emit(events.Recovered(missing_bytes=missing.length_bytes, running=self.handed_over))
        yield from self._to_the_end()

    # What the peer says meanwhile.

    def stopping(self, now_ns: int) -> Steps:
        """Answer that the guest is about to be stopped for the switch-over."""
        self._lifecycle.fire(Event.GUEST_STOPPED)
        yield Say(SwitchOverAck(clock_ns=now_ns))

    def switch_over(self, device_state: Any, *, postcopy: bool) -> Steps:  # noqa: ANN401 - the guest's
        """Switch over: from here on the guest runs on this side.

        Args:
            device_state: What its vCPUs begin with, as the guest takes it.
            postcopy: Something may be missing.

        Raises:
            RemoteProtocolError: It is here, or something is missing that should not be.
        """
        if self.handed_over:
            raise RemoteProtocolError("SwitchOver came again")
        if self._lifecycle.state is State.ACTIVE:
            self._lifecycle.fire(Event.GUEST_STOPPED)
        yield Discard()
        if postcopy:
            self._lifecycle.fire(Event.POSTCOPY_STARTED)
        elif not self._engine.assembly.complete:
            raise RemoteProtocolError("pages are missing though precopy is said to be complete")
        self.handed_over = True
        self.run_ns = yield TakeOver(device_state)
        self._emit(events.GuestRun())
        yield Say(Running(run_ns=self.run_ns))
        if postcopy:
            tell_missing(self._emit, self._geometry, self._engine.assembly)

    # Breaks.

    def broke(self, error: BaseException) -> None:
        """Note why an epoch has ended: its connections are gone; then `pause`.

        Raises:
            BaseException: The root of the error, if it ends the migration.
        """
        cause = root_cause(error)
        state = self._lifecycle.state
        waits = self._terms.recovers and self._limit.seconds_max > 0 and state in _RESUMABLE
        if waits:
            # Half of the guest may be the peer's: what cannot be read costs no more than a break.
            cause = as_loss(cause)
        if not isinstance(cause, ConnectionLost):
            raise cause from None
        self._emit(events.ChannelLost(channel=cause.channel, reason=str(cause)))
        if not waits:
            raise cause from None
        self._lifecycle.interrupt()
        self._loss = cause

    def pause(self, now_s: float) -> float:
        """Begin a pause, when all that was received is counted; return how long it may last."""
        # Where nothing has come since the break before, the pauses add up.
        self._limit.lacks(len(self.missing) if self.handed_over else float("inf"))
        self._limit.pause(now_s)
        last_word_seconds = LAST_WORD_SECONDS_MAX if self.closing is not None else float("inf")
        return min(self._limit.seconds_left(now_s), last_word_seconds)

    def gave_up(self) -> None:
        """Note that the peer did not come back.

        Raises:
            ConnectionLost: The migration ends with that.
        """
        if self.closing is None:
            seconds, peer = self._limit.seconds_max, self._terms.peer
            raise ConnectionLost(f"{self._loss}, and {peer} did not come back in {seconds:g} s")

    def lose(self, cause: BaseException) -> Generator[Step, Any, BaseException]:
        """Keep what is here of a guest that ran here, as its migration has failed.

        It makes no difference in which state of postcopy the user cancels: memory that has not come
        by then is lost.

        Args:
            cause: Why it has failed; what is no `Exception` is its user's wish.

        Returns:
            How that is to be told.
        """
        cancelled = not isinstance(cause, Exception)
        over = isinstance(cause, (ConnectionLost, PeerAborted, RemoteProtocolError))
        if not (self.handed_over and (cancelled or over)):
            return cause
        is_paused = self._lifecycle.state is State.POSTCOPY_PAUSED
        yield Forget()
        missing = self.missing
        kept = yield SaveRest(missing, is_hurried=cancelled)
        if len(missing):
            self._emit(events.MemoryLost(target_pages=len(missing), bytes=missing.length_bytes))
        return outcome_of_loss(cause, missing, kept, is_paused=is_paused)

    def _to_the_end(self) -> Steps:
        terms, assembly = self._terms, self._engine.assembly
        yield Receive(terms.ending, terms.rest_seconds)
        if not self.handed_over:
            raise RemoteProtocolError("the source has ended without a switch-over")
        if not assembly.complete:
            raise RemoteProtocolError(
                f"the source has ended, {assembly.missing_bytes} bytes are missing"
            )
        counts = assembly.counts.values()
        yield Say(
            Finished(
                pages=self._geometry.page_count,
                target_pages=sum(each.target_pages for each in counts),
                data_bytes=sum(each.data_bytes for each in counts),
            )
        )
        if terms.gives_verdict:
            # Both sides have counted the same.
            self._lifecycle.go_on(Event.ALL_PLACED)
        yield from self._close()

    def _close(self) -> Steps:
        """Give account of the memory, hear the verdict, keep the guest, say goodbye."""
        terms = self._terms
        if self._stood is None:
            self._stood = yield Stop(accounted=terms.gives_verdict)
        part, account = self._stood
        if terms.gives_verdict:
            verdict, source = yield HearVerdict(account, CLOSING_SECONDS_MAX)
            self.closing = Closing(part, verdict, source)
        # The source is to hear it if that fails, and not that all is well.
        yield Keep()
        yield Say(Bye())
        if self.closing is None:
            self.closing = Closing(part)
            self._lifecycle.go_on(Event.ALL_PLACED)
        # The peer closes first, so that it cannot take our closing for a lost connection.
        was_orderly = yield Leave(terms.linger_seconds)
        if terms.gives_verdict and not was_orderly:
            raise ConnectionLost("the source may not have heard the last word")
