"""Tests of protocol/states.py: the table, and that every migration comes to an end."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from protocol import events
from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import (
    MESSAGE_TYPES,
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
from protocol.states import (
    FINAL,
    POSTCOPY,
    TRANSITIONS,
    Event,
    Lifecycle,
    State,
    check_receivable,
    next_state,
    state_diagram,
)
from tests.strategies import least_fields

# The table once more, to be read: state, event, state.
TABLE = """
    none              CONNECTED         setup
    none              CANCEL            cancelling
    none              BROKEN            failed
    setup             PREPARED          active
    setup             CANCEL            cancelling
    setup             BROKEN            failed
    active            GUEST_STOPPED     device
    active            CANCEL            cancelling
    active            BROKEN            failed
    device            POSTCOPY_STARTED  postcopy-active
    device            ALL_PLACED        completed
    device            CANCEL            cancelling
    device            INTERRUPTED       postcopy-paused
    device            BROKEN            failed
    postcopy-active   ALL_PLACED        completed
    postcopy-active   CANCEL            cancelling
    postcopy-active   INTERRUPTED       postcopy-paused
    postcopy-active   BROKEN            failed
    postcopy-paused   RECONNECTED       postcopy-recover
    postcopy-paused   CANCEL            cancelling
    postcopy-paused   BROKEN            failed
    postcopy-recover  RECOVERED         postcopy-active
    postcopy-recover  CANCEL            cancelling
    postcopy-recover  SWITCH_OVER_AGAIN device
    postcopy-recover  INTERRUPTED       postcopy-paused
    postcopy-recover  BROKEN            failed
    cancelling        CANCEL_DONE       cancelled
    cancelling        BROKEN            cancelled
"""
MOVES = {
    (State(before), Event[event]): State(after)
    for before, event, after in (line.split() for line in TABLE.strip().splitlines())
}

PAGES: set[type[Message]] = {PageData, ZeroData, RunData, Checksum}
HEARD: dict[tuple[State, Channel], set[type[Message]]] = {
    (State.ACTIVE, Channel.PRECOPY): {
        *PAGES,
        PassEnd,
        SwitchOverAhead,
        SourceTime,
        Discard,
        SwitchOver,
    },
    (State.DEVICE, Channel.PRECOPY): {*PAGES, PassEnd, SourceTime, Discard, SwitchOver, End},
    (State.DEVICE, Channel.POSTCOPY): {End},
    (State.POSTCOPY_ACTIVE, Channel.PRECOPY): {
        *PAGES,
        PageRest,
        PassEnd,
        RequestAnswer,
        End,
    },
    (State.POSTCOPY_ACTIVE, Channel.POSTCOPY): {*PAGES, PassEnd, RequestAnswer, End},
    (State.COMPLETED, Channel.PRECOPY): {PassEnd, RequestAnswer, End},
    (State.COMPLETED, Channel.POSTCOPY): {PassEnd, RequestAnswer, End},
}

every_state = pytest.mark.parametrize("state", State)


class Listener:
    """Keeps the states that it is told of."""

    def __init__(self) -> None:
        self.states: list[object] = []

    def __call__(self, event: events.Event, /) -> None:
        """Take an event, which must be one of a state."""
        assert isinstance(event, events.State)
        assert event.reason is UNSET
        self.states.append(event.state)


def lifecycle_in(state: State, listener: Listener) -> Lifecycle:
    """Return a lifecycle that has arrived in a state."""
    lifecycle = Lifecycle(listener)
    lifecycle.state = state
    return lifecycle


def reachable_from(state: State) -> set[State]:
    """Return the states that any events lead to, the first included."""
    found: set[State] = set()
    waiting = [state]
    while waiting:
        here = waiting.pop()
        if here not in found:
            found.add(here)
            waiting += [after for (before, _), after in MOVES.items() if before is here]
    return found


def test_states_have_qemu_names() -> None:
    """The states' names are those that QEMU's query-migrate gives as status."""
    expected = [
        "none", "setup", "active", "device", "postcopy-active", "postcopy-paused",
        "postcopy-recover", "completed", "failed", "cancelling", "cancelled",
    ]  # fmt: skip
    actual = [state.value for state in State]
    assert expected == actual


@every_state
@pytest.mark.parametrize("event", Event)
def test_every_pair(state: State, event: Event) -> None:
    """Each event in each state leads where the table says, or cannot happen there."""
    expected = MOVES.get((state, event))
    if expected is not None:
        assert expected == next_state(state, event)
        return
    with pytest.raises(
        LocalProtocolError, match=f"^{event.name} cannot happen in state {state.value}$"
    ):
        next_state(state, event)


def test_the_table_names_every_state() -> None:
    """No state is missing in the table, and every event leads somewhere from somewhere."""
    assert set(State) == set(TRANSITIONS)
    assert set(Event) == {event for events in TRANSITIONS.values() for event in events}


def test_final_states() -> None:
    """A migration ends completed, failed or cancelled, and in no other state."""
    assert {State.COMPLETED, State.FAILED, State.CANCELLED} == FINAL


def test_postcopy_states() -> None:
    """The states in which memory is lost with the source are those after the switch-over."""
    assert {State.POSTCOPY_ACTIVE, State.POSTCOPY_PAUSED, State.POSTCOPY_RECOVER} == POSTCOPY


def test_every_state_can_be_reached() -> None:
    """No state stands in the table for nothing."""
    assert set(State) == reachable_from(State.NONE)


@every_state
def test_every_state_leads_to_an_end(state: State) -> None:
    """From everywhere a migration can still be cancelled, unless it has ended."""
    ends = reachable_from(state) & FINAL
    expected = state if state in FINAL else State.CANCELLED
    assert expected in ends


@pytest.mark.parametrize("state", sorted(POSTCOPY, key=str))
def test_the_guest_does_not_go_back(state: State) -> None:
    """Once the guest was handed over no event leads to a state where the source runs it."""
    before = {State.NONE, State.SETUP, State.ACTIVE}
    assert not before & reachable_from(state)


@given(st.lists(st.sampled_from(Event)))
def test_a_lifecycle_walks_the_table(events: list[Event]) -> None:
    """Whatever happens in whatever order, only moves of the table are made, and each is told."""
    listener = Listener()
    lifecycle = Lifecycle(listener)
    state, told = State.NONE, []
    for event in events:
        if (state, event) in MOVES:
            state = MOVES[state, event]
            told.append(state.value)
            lifecycle.fire(event)
        else:
            with pytest.raises(LocalProtocolError):
                lifecycle.fire(event)
        assert state is lifecycle.state
    assert told == listener.states


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State.NONE, ["failed"]),
        (State.SETUP, ["failed"]),
        (State.ACTIVE, ["failed"]),
        (State.DEVICE, ["failed"]),
        (State.POSTCOPY_ACTIVE, ["failed"]),
        (State.POSTCOPY_PAUSED, ["failed"]),
        (State.POSTCOPY_RECOVER, ["failed"]),
        (State.CANCELLING, ["cancelled"]),
        (State.COMPLETED, []),
        (State.FAILED, []),
        (State.CANCELLED, []),
    ],
)
def test_a_failure_comes_to_an_end(state: State, expected: list[str]) -> None:
    """A failure leads from every state to an end, over the states on the way, and stays there."""
    listener = Listener()
    lifecycle = lifecycle_in(state, listener)
    lifecycle.fail()
    assert expected == listener.states
    assert lifecycle.state in FINAL
    lifecycle.fail()
    assert expected == listener.states


@every_state
def test_an_interruption_pauses(state: State) -> None:
    """A lost connection pauses what can go on, and leaves alone what is paused or has ended."""
    listener = Listener()
    lifecycle = lifecycle_in(state, listener)
    if state in FINAL or state is State.POSTCOPY_PAUSED:
        lifecycle.interrupt()
        assert state is lifecycle.state
    elif state in {State.DEVICE, State.POSTCOPY_ACTIVE, State.POSTCOPY_RECOVER}:
        lifecycle.interrupt()
        assert lifecycle.state is State.POSTCOPY_PAUSED
    else:
        with pytest.raises(LocalProtocolError):
            lifecycle.interrupt()


def test_a_recovery_ends_where_the_guest_is() -> None:
    """A session is paused and resumed any number of times; what has ended stays as it is."""
    listener = Listener()
    lifecycle = lifecycle_in(State.POSTCOPY_ACTIVE, listener)
    for _ in range(2):
        lifecycle.interrupt()
        lifecycle.go_on(Event.RECONNECTED)
        lifecycle.go_on(Event.RECOVERED)
    assert listener.states == ["postcopy-paused", "postcopy-recover", "postcopy-active"] * 2
    lifecycle.go_on(Event.ALL_PLACED)
    lifecycle.go_on(Event.RECONNECTED)
    assert lifecycle.state is State.COMPLETED


@every_state
def test_a_cancellation_comes_to_an_end(state: State) -> None:
    """A cancellation leads from every state to cancelled, unless the migration has ended."""
    listener = Listener()
    lifecycle = lifecycle_in(state, listener)
    lifecycle.cancel()
    if state in FINAL:
        expected = []
    elif state is State.CANCELLING:
        expected = ["cancelled"]
    else:
        expected = ["cancelling", "cancelled"]
    assert expected == listener.states
    assert (state if state in FINAL else State.CANCELLED) is lifecycle.state


@every_state
@pytest.mark.parametrize("channel", Channel)
def test_what_may_be_heard(state: State, channel: Channel) -> None:
    """Each message in a state over a channel is heard as the table says, or is the peer's fault."""
    for message_type in MESSAGE_TYPES:
        message = message_type(**least_fields(message_type))
        if message_type in HEARD.get((state, channel), set()):
            check_receivable(state, channel, message)
            continue
        fault = f"{message_type.__name__} on the {channel.value} channel in state {state.value}"
        with pytest.raises(RemoteProtocolError, match=f"^{fault}$"):
            check_receivable(state, channel, message)


def test_the_diagram_is_the_table() -> None:
    """The drawn diagram has every move of the table once, a start, the ends, and nothing else."""
    lines = state_diagram().splitlines()
    assert lines[0] == "stateDiagram-v2"
    names = {state.value.replace("-", "_"): state for state in State}
    arrows = [re.fullmatch(r"    (\S+) --> (\S+): (\S+)", line) for line in lines]
    moves = [
        ((names[arrow[1]], Event[arrow[3]]), names[arrow[2]])
        for arrow in arrows
        if arrow is not None
    ]
    assert dict(moves) == MOVES
    assert len(moves) == len(MOVES)
    rest = {line.strip() for line, arrow in zip(lines, arrows, strict=True) if arrow is None}
    expected = {"stateDiagram-v2", "[*] --> none"}
    expected |= {f"{state.value} --> [*]" for state in FINAL}
    expected |= {f'state "{state.value}" as {name}' for name, state in names.items() if "_" in name}
    assert expected == rest
