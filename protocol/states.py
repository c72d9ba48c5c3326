"""The state machine, as one table, with QEMU's names (`qapi/migration.json`, MigrationStatus).

Rules:

1. Everything that changes a state is an `Event` and stands in this file; nobody sets a state.
2. Source and destination use the same table.  Where only one side can meet an event, the other's
   rows simply never fire.
3. At most one side runs the guest.  Until the first byte of SwitchOver may have left it is the
   source's, with all of its memory: whatever breaks costs only the copy on the destination.  From
   then on the source never runs it again; the destination does once it has the whole SwitchOver, in
   postcopy as well as when precopy alone brought everything and both sides stay in `device` until
   Finished.
4. What breaks in between, and all that breaks later, interrupts the session and does not end it.
5. `completed`, `failed` and `cancelled` are final.  A break in `completed` changes no state: what
   is left is the proof, and it is done over again.
"""

from __future__ import annotations

from enum import Enum

from protocol import events
from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError, is_cancellation
from protocol.events import Emit
from protocol.messages import (
    Checksum,
    Discard,
    End,
    Message,
    PageData,
    PageRest,
    PassEnd,
    RequestAnswer,
    RunData,
    SourceTime,
    SwitchOver,
    SwitchOverAhead,
    ZeroData,
)
from protocol.text import one_line


class State(Enum):
    """The state of a migration; the values are QEMU's."""

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    DEVICE = "device"
    POSTCOPY_ACTIVE = "postcopy-active"
    POSTCOPY_PAUSED = "postcopy-paused"
    POSTCOPY_RECOVER = "postcopy-recover"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    # As of `Channel`: with every message it is looked up what may come in this state.
    __hash__ = object.__hash__


class Event(Enum):
    """An event that changes the state of a migration."""

    CONNECTED = "both sides are to talk"
    PREPARED = "the destination has memory and vCPUs"
    GUEST_STOPPED = "the guest stands still for the switch-over"
    POSTCOPY_STARTED = "the guest runs on the destination, pages are missing"
    ALL_PLACED = "every page is placed and both sides counted the same"
    BROKEN = "a side failed, or a connection did that nothing can replace"
    INTERRUPTED = "a connection failed, and the guest has changed hands or is about to"
    RECONNECTED = "an interrupted session has all its connections again"
    RECOVERED = "both sides know again what is missing"
    SWITCH_OVER_AGAIN = "the destination had not yet taken the guest, it is handed over anew"
    CANCEL = "the user wants it to end"
    CANCEL_DONE = "everything is undone"


_CANCELLABLE = {Event.CANCEL: State.CANCELLING, Event.BROKEN: State.FAILED}

TRANSITIONS: dict[State, dict[Event, State]] = {
    State.NONE: {Event.CONNECTED: State.SETUP, **_CANCELLABLE},
    State.SETUP: {Event.PREPARED: State.ACTIVE, **_CANCELLABLE},
    State.ACTIVE: {Event.GUEST_STOPPED: State.DEVICE, **_CANCELLABLE},
    State.DEVICE: {
        Event.POSTCOPY_STARTED: State.POSTCOPY_ACTIVE,
        Event.ALL_PLACED: State.COMPLETED,
        Event.INTERRUPTED: State.POSTCOPY_PAUSED,
        **_CANCELLABLE,
    },
    State.POSTCOPY_ACTIVE: {
        Event.ALL_PLACED: State.COMPLETED,
        Event.INTERRUPTED: State.POSTCOPY_PAUSED,
        **_CANCELLABLE,
    },
    State.POSTCOPY_PAUSED: {Event.RECONNECTED: State.POSTCOPY_RECOVER, **_CANCELLABLE},
    State.POSTCOPY_RECOVER: {
        Event.RECOVERED: State.POSTCOPY_ACTIVE,
        Event.SWITCH_OVER_AGAIN: State.DEVICE,
        Event.INTERRUPTED: State.POSTCOPY_PAUSED,
        **_CANCELLABLE,
    },
    State.CANCELLING: {Event.CANCEL_DONE: State.CANCELLED, Event.BROKEN: State.CANCELLED},
    State.COMPLETED: {},
    State.FAILED: {},
    State.CANCELLED: {},
}

# What the destination may hear once it has said Ready, by its state and the channel.  An Abort may
# come at any time, and ends the session before it could be looked up here.
RECEIVABLE: dict[State, dict[Channel, tuple[type[Message], ...]]] = {
    State.ACTIVE: {
        Channel.PRECOPY: (
            PageData,
            ZeroData,
            RunData,
            Checksum,
            PassEnd,
            SwitchOverAhead,
            SourceTime,
            Discard,
            SwitchOver,
        )
    },
    State.DEVICE: {
        Channel.PRECOPY: (
            PageData,
            ZeroData,
            RunData,
            Checksum,
            PassEnd,
            SourceTime,
            Discard,
            SwitchOver,
            End,
        ),
        Channel.POSTCOPY: (End,),
    },
    State.POSTCOPY_ACTIVE: {
        Channel.PRECOPY: (
            PageData,
            ZeroData,
            RunData,
            PageRest,
            Checksum,
            PassEnd,
            RequestAnswer,
            End,
        ),
        Channel.POSTCOPY: (
            PageData,
            ZeroData,
            RunData,
            Checksum,
            PassEnd,
            RequestAnswer,
            End,
        ),
    },
    # Where the closing exchange is done over again; what a break may have lost is told again, too.
    State.COMPLETED: {
        Channel.PRECOPY: (PassEnd, RequestAnswer, End),
        Channel.POSTCOPY: (PassEnd, RequestAnswer, End),
    },
}

FINAL = frozenset(state for state, events in TRANSITIONS.items() if not events)
POSTCOPY = frozenset({State.POSTCOPY_ACTIVE, State.POSTCOPY_PAUSED, State.POSTCOPY_RECOVER})


def check_receivable(state: State, channel: Channel, message: Message) -> None:
    """Check that the destination may hear a message now.

    Raises:
        RemoteProtocolError: It may not.
    """
    if not isinstance(message, RECEIVABLE.get(state, {}).get(channel, ())):
        raise RemoteProtocolError(
            f"{type(message).__name__} on the {channel.value} channel in state {state.value}"
        )


def next_state(state: State, event: Event) -> State:
    """Return the state that an event leads to.

    Raises:
        LocalProtocolError: The event cannot happen in that state.
    """
    following = TRANSITIONS[state].get(event)
    if following is None:
        raise LocalProtocolError(f"{event.name} cannot happen in state {state.value}")
    return following


def state_diagram() -> str:
    """Return the table as a mermaid state diagram; `protocol/README.md` shows it."""
    lines = ["stateDiagram-v2"]
    lines += [
        f'    state "{state.value}" as {_mermaid_id(state)}'
        for state in State
        if "-" in state.value
    ]
    lines.append(f"    [*] --> {_mermaid_id(State.NONE)}")
    lines += [
        f"    {_mermaid_id(state)} --> {_mermaid_id(following)}: {event.name}"
        for state, events in TRANSITIONS.items()
        for event, following in events.items()
    ]
    lines += [f"    {_mermaid_id(state)} --> [*]" for state in TRANSITIONS if state in FINAL]
    return "\n".join(lines)


def _mermaid_id(state: State) -> str:
    """Return a state's name as mermaid takes it: a hyphen would end it."""
    return state.value.replace("-", "_")


class Lifecycle:
    """One migration's state on one side; every change is told as an event."""

    def __init__(self, emit: Emit) -> None:
        """Start in `none`."""
        self.state = State.NONE
        self._emit = emit

    def fire(self, event: Event, reason: str = "") -> None:
        """Go where an event leads.

        Args:
            event: What happened.
            reason: Why, for a person; empty where the event says it.

        Raises:
            LocalProtocolError: The event cannot happen in this state.
        """
        self.state = next_state(self.state, event)
        if reason:
            self._emit(events.State(state=self.state.value, reason=reason))
        else:
            self._emit(events.State(state=self.state.value))

    def end(self, cause: BaseException) -> None:
        """Go to the end that an error leads to, cancelled or failed, and say why."""
        if is_cancellation(cause):
            told = str(cause) if isinstance(cause, Exception) else getattr(cause, "reason", "")
            self.cancel(one_line(told or "cancelled by its user"))
        else:
            self.fail(one_line(str(cause)) or type(cause).__name__)

    def fail(self, reason: str = "") -> None:
        """Go to the end that a failure leads to; nothing happens in a final state."""
        while self.state not in FINAL:
            self.fire(Event.BROKEN, reason)

    def interrupt(self) -> None:
        """Go where a lost connection leads; nothing happens in a final state, or while paused."""
        if self.state not in FINAL | {State.POSTCOPY_PAUSED}:
            self.fire(Event.INTERRUPTED)

    def go_on(self, event: Event) -> None:
        """Go where an event of a recovery leads; nothing happens in a final state."""
        if self.state not in FINAL:
            self.fire(event)

    def cancel(self, reason: str = "") -> None:
        """Go to the end that a cancellation leads to; nothing happens in a final state."""
        if self.state not in FINAL:
            if self.state is not State.CANCELLING:
                self.fire(Event.CANCEL, reason)
            self.fire(Event.CANCEL_DONE, reason)
