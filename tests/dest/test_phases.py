"""A destination's phases by playbooks: what is done, in which order, and what a break comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dest.engine import Engine
from dest.phases import LAST_WORD_SECONDS_MAX, Phases
from dest.steps import (
    Discard,
    HearVerdict,
    Keep,
    Leave,
    Receive,
    Say,
    Step,
    Steps,
    Stood,
    Stop,
    TakeOver,
    Terms,
)
from protocol import events
from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    GuestFailed,
    MidstreamError,
    PeerAborted,
    RemoteProtocolError,
)
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.messages import (
    Bye,
    Finished,
    HeldPart,
    PageRequest,
    Running,
    Standing,
    SwitchOverAck,
    Verdict,
)
from protocol.policy import preset
from protocol.states import Event, Lifecycle
from tests.guests import KIB, small_geometry
from tests.sides import dest_part, source_part
from tests.stories import Recorder

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
GEOMETRY = small_geometry()
PAGES = [
    PageId(block, index)
    for block, shape in enumerate(GEOMETRY.blocks)
    for index in range(shape.page_count)
]

MIDSTREAM = Terms(
    peer="the source", ending=(PRE, POST), recovers=True, gives_verdict=True, rest_seconds=0.0,
    linger_seconds=2.0,
)  # fmt: skip
QEMU = Terms(
    peer="QEMU", ending=(PRE,), recovers=True, gives_verdict=False, rest_seconds=30.0,
    linger_seconds=5.0,
)  # fmt: skip
TO_THE_END = ["say Finished", "Stop", "HearVerdict", "Keep", "say Bye", "Leave"]


class Play:
    """A migration's phases, and somebody who does what they say.

    Attributes:
        done: What was done, in words.
        answers: What a step is answered with, by its type; an error is raised at it.
        meanwhile: Called in each `Receive`, for what comes then.
    """

    def __init__(self, terms: Terms = MIDSTREAM, wait_seconds: float = 90.0) -> None:
        """Come to the setup; nothing is here."""
        self.events = Recorder()
        self.lifecycle = Lifecycle(self.events)
        self.engine = Engine(GEOMETRY, preset("ordered"), self.events, vcpu_count=2)
        self.phases = Phases(
            GEOMETRY, self.engine, self.lifecycle, self.events, terms, wait_seconds
        )
        self.lifecycle.fire(Event.CONNECTED)
        self.done: list[str] = []
        self.said: list[object] = []
        self.steps: list[Step] = []
        self.answers: dict[type, Any] = {
            TakeOver: 77, Stop: Stood(dest_part(), b"account"), Leave: True,
            HearVerdict: (Verdict(equal=True), source_part()),
        }  # fmt: skip
        self.meanwhile: Callable[[], None] = self.postcopy

    def do(self, steps: Steps) -> list[str]:
        """Do steps to their end, or until one fails; return what was done."""
        first, answer = len(self.done), None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                return self.done[first:]
            self.steps.append(step)
            if isinstance(step, Say):
                self.said.append(step.word)
                self.done.append(f"say {type(step.word).__name__}")
            else:
                self.done.append(type(step).__name__)
            if isinstance(step, Discard):
                self.engine.start_postcopy()
            elif isinstance(step, Receive):
                self.meanwhile()
            key = type(step.word) if isinstance(step, Say) else type(step)
            answer = self.answers.get(key)
            if isinstance(answer, MidstreamError):
                raise answer

    def switch_over(self, *, postcopy: bool = True, stale: bool = True) -> None:
        """Hand the guest over, all of it stale."""
        for block, shape in enumerate(GEOMETRY.blocks if stale else ()):
            bits = b"\xff" * (shape.target_page_count // 8)
            self.engine.assembly.discard(block, 0, shape.target_page_count, bits)
        self.do(self.phases.switch_over("state", postcopy=postcopy))

    def bring(self, *pages: PageId) -> None:
        """Have pages come over the precopy channel."""
        for page in pages:
            span = GEOMETRY.page_span(page)
            self.engine.begin(PRE, span, 0)
            self.engine.progress(PRE, span.length)
            self.engine.end(PRE)

    def postcopy(self) -> None:
        """Do what a whole postcopy does."""
        self.switch_over()
        self.bring(*PAGES)

    def lose(self) -> None:
        """Lose a connection."""
        raise ConnectionLost("it is gone", "precopy")

    def pause(self, error: Exception, now_s: float = 0.0) -> float:
        """Have an epoch end with an error; return for how long the source is waited for."""
        self.phases.broke(error)
        self.engine.interrupt()
        self.engine.broke(0)
        return self.phases.pause(now_s)


def test_a_postcopy_to_its_end() -> None:
    """The guest runs before its memory is here; what was counted is said, and all is saved."""
    play = Play()
    assert play.do(play.phases.begin()) == [
        "say Ready", "Receive", "Discard", "TakeOver", "say Running", *TO_THE_END,
    ]  # fmt: skip
    assert play.events.states == ["setup", "active", "device", "postcopy-active", "completed"]
    assert play.steps[1] == Receive((PRE, POST), 0.0)
    assert play.steps[3] == TakeOver("state")
    assert Running(run_ns=77) in play.said
    total = GEOMETRY.target_page_count
    finished = Finished(pages=36, target_pages=total, data_bytes=total * TARGET_PAGE_BYTES)
    assert finished in play.said
    closing = play.phases.closing
    assert closing is not None
    assert (closing.verdict, closing.source) == play.answers[HearVerdict]
    # Who watches hears of what is missing when the vCPUs run, and the source knows.
    kinds = play.events.kinds(events.GuestRun, events.Missing)
    assert kinds == [events.GuestRun, events.Missing, events.Missing]


def test_precopy_alone() -> None:
    """Where nothing was stale, nothing is missing and postcopy is no state."""
    play = Play()

    def precopy() -> None:
        play.do(play.phases.stopping(5))
        play.bring(*PAGES)
        play.switch_over(postcopy=False, stale=False)

    play.meanwhile = precopy
    play.do(play.phases.begin())
    assert play.events.states == ["setup", "active", "device", "completed"]
    assert SwitchOverAck(clock_ns=5) in play.said
    assert play.events.of(events.Missing) == []


def test_a_peer_that_compares_nothing() -> None:
    """It is not asked for a verdict, and all is well when it has been told so, not before."""
    play = Play(QEMU)
    done = play.do(play.phases.begin())
    assert done[-5:] == ["say Finished", "Stop", "Keep", "say Bye", "Leave"]
    assert play.steps[1] == Receive((PRE,), 30.0)
    assert [step for step in play.steps if isinstance(step, Stop)] == [Stop(accounted=False)]
    assert play.lifecycle.state.value == "completed"
    play = Play(QEMU)
    play.answers[Keep] = GuestFailed("no room")
    with pytest.raises(GuestFailed):
        play.do(play.phases.begin())
    assert "say Bye" not in play.done
    assert play.lifecycle.state.value == "postcopy-active"


def test_a_switch_over_that_cannot_be() -> None:
    """Stale pages of a precopy that is said to be complete, or a second one, are its peer's fault.

    A guest that is refused is not this side's.
    """
    play = Play()
    play.lifecycle.fire(Event.PREPARED)
    with pytest.raises(RemoteProtocolError, match="precopy is said to be complete"):
        play.switch_over(postcopy=False)
    assert not play.phases.handed_over
    assert play.done == ["Discard"]
    play = Play()
    play.lifecycle.fire(Event.PREPARED)
    play.switch_over()
    with pytest.raises(RemoteProtocolError, match="came again"):
        play.do(play.phases.switch_over("state", postcopy=True))
    assert play.done.count("TakeOver") == 1


def test_an_end_that_comes_too_early() -> None:
    """Without a switch-over, or with bytes missing, a peer's end is no end."""
    play = Play()
    play.meanwhile = lambda: None
    with pytest.raises(RemoteProtocolError, match="without a switch-over"):
        play.do(play.phases.begin())
    play = Play()
    play.meanwhile = play.switch_over
    with pytest.raises(RemoteProtocolError, match=f"{GEOMETRY.length_bytes} bytes are missing"):
        play.do(play.phases.begin())
    assert "completed" not in play.events.states


def at(state: str) -> Play:
    """Return a play that has come to a state."""
    play = Play()
    if state in {"setup", "completed"}:
        if state == "completed":
            play.do(play.phases.begin())
        return play
    play.lifecycle.fire(Event.PREPARED)
    if state != "active":
        play.do(play.phases.stopping(5))
    if state == "postcopy-active":
        play.switch_over()
    return play


@pytest.mark.parametrize("state", ["setup", "active", "device", "postcopy-active", "completed"])
def test_a_break_is_waited_out_from_the_switch_over_on(state: str) -> None:
    """Before, it is the end; and what ends a migration by itself is the end at any time."""
    loss = ConnectionLost("it is gone", "precopy")
    for error in (PeerAborted("enough"), GuestFailed("it died")):
        with pytest.raises(type(error)):
            at(state).phases.broke(ExceptionGroup("tasks", [error, loss]))
    play = at(state)
    if state in {"setup", "active"}:
        with pytest.raises(ConnectionLost):
            play.phases.broke(loss)
        assert play.lifecycle.state.value == state
    else:
        assert play.pause(loss) > 0
        paused = "completed" if state == "completed" else "postcopy-paused"
        assert play.lifecycle.state.value == paused
    assert play.events.of(events.ChannelLost) == [{"channel": "precopy", "reason": "it is gone"}]


def test_what_makes_no_sense_is_a_break_of_a_guest_that_is_half_here() -> None:
    """Before it is that, or where nobody is waited for, it is the peer's fault."""
    nonsense = RemoteProtocolError("what is that?")
    play = at("postcopy-active")
    assert play.pause(nonsense) == 90.0
    assert "makes no sense" in str(play.events.of(events.ChannelLost)[0]["reason"])
    with pytest.raises(RemoteProtocolError):
        at("active").phases.broke(nonsense)
    for terms, wait_seconds in ((MIDSTREAM, 0.0), (replace(MIDSTREAM, recovers=False), 90.0)):
        play = Play(terms, wait_seconds)
        play.lifecycle.fire(Event.PREPARED)
        play.switch_over()
        with pytest.raises(RemoteProtocolError):
            play.phases.broke(nonsense)


def test_a_resumed_postcopy() -> None:
    """What is missing is said to the byte, vCPUs' pages are asked for again, and it goes on."""
    play = Play()

    def break_in_the_middle_of_a_page() -> None:
        play.switch_over()
        play.bring(*PAGES[:3])
        play.engine.fault(1, GEOMETRY.flat_target_page(0, 3 * 512 + 5), fault_ns=1, now_ns=1)
        play.engine.begin(PRE, Span(0, GEOMETRY.page_span(PAGES[3]).offset, 64 * KIB), 0)
        play.engine.progress(PRE, 4 * TARGET_PAGE_BYTES + 100)
        play.lose()

    play.meanwhile = break_in_the_middle_of_a_page
    with pytest.raises(ConnectionLost) as caught:
        play.do(play.phases.begin())
    assert play.pause(caught.value) == 90.0
    assert play.engine.words.next(2) is None
    play.meanwhile = play.lose
    play.said.clear()
    with pytest.raises(ConnectionLost):
        play.do(play.phases.resume(5.0))
    *maps, part, standing = play.said
    assert {type(word).__name__ for word in maps} == {"MissingMap"}
    assert part == HeldPart(block=0, target_page=3 * 512 + 4, held_bytes=100)
    missing = GEOMETRY.target_page_count - 3 * 512 - 4
    assert standing == Standing(running=True, target_pages=missing, dropped_bytes=0, run_ns=77)
    assert play.engine.words.next(2) == PageRequest(block=0, page=3, target_page=0)
    assert play.events.states[-3:] == ["postcopy-paused", "postcopy-recover", "postcopy-active"]
    recovered = {"missing_bytes": missing * TARGET_PAGE_BYTES, "running": True}
    assert play.events.of(events.Recovered) == [recovered]


def test_a_guest_that_was_not_handed_over_is_handed_over_anew() -> None:
    """After a break before the switch-over nothing counts but that it did not happen."""
    play = at("device")
    play.pause(ConnectionLost("it is gone"))
    done = play.do(play.phases.resume(5.0))
    assert done[:2] == ["say Standing", "Receive"]
    assert Standing(running=False, target_pages=0, dropped_bytes=0) in play.said
    assert play.events.states[-5:] == [
        "postcopy-paused", "postcopy-recover", "device", "postcopy-active", "completed",
    ]  # fmt: skip
    assert done[-len(TO_THE_END) :] == TO_THE_END


@pytest.mark.parametrize("where", [Finished, HearVerdict, Keep, Leave])
def test_a_closing_that_breaks_is_done_over_again(where: type) -> None:
    """All of it, but that the guest stands already; it is completed once, wherever that was."""
    play = Play()
    play.answers[where], answer = ConnectionLost("it is gone"), play.answers.get(where)
    with pytest.raises(ConnectionLost) as caught:
        play.do(play.phases.begin())
    stopped = "Stop" in play.done
    play.pause(caught.value)
    play.answers[where] = answer
    play.meanwhile = lambda: None
    done = play.do(play.phases.resume(1.0))
    assert done[0] == "say Standing"
    assert done[-len(TO_THE_END) + stopped :] == [
        step for step in TO_THE_END if not (stopped and step == "Stop")
    ]
    assert play.done.count("Stop") == 1
    assert play.events.states.count("completed") == 1


def test_a_last_word_that_cannot_be_said_is_said_when_the_peer_is_back() -> None:
    """A QEMU that comes back to a guest that is all here, and saved, hears that all is well."""
    play = Play(QEMU)
    play.answers[Bye] = ConnectionLost("it is gone")
    with pytest.raises(ConnectionLost) as caught:
        play.do(play.phases.begin())
    assert play.pause(caught.value) == 90.0
    del play.answers[Bye]
    play.meanwhile = lambda: None
    done = play.do(play.phases.resume(1.0))
    assert done[-5:] == ["Receive", "say Finished", "Keep", "say Bye", "Leave"]
    assert play.done.count("Stop") == 1
    assert play.events.states[-3:] == ["postcopy-recover", "postcopy-active", "completed"]


def test_a_last_word_that_may_not_have_been_heard() -> None:
    """The source is given a moment to come back for it, and then the migration has ended well."""
    play = Play()
    play.answers[Leave] = False
    with pytest.raises(ConnectionLost, match="may not have heard the last word") as caught:
        play.do(play.phases.begin())
    assert play.pause(caught.value) == LAST_WORD_SECONDS_MAX
    play.phases.gave_up()
    # One that gives no verdict leaves as it likes.
    play = Play(QEMU)
    play.answers[Leave] = False
    play.do(play.phases.begin())


@pytest.mark.parametrize("terms", [MIDSTREAM, QEMU])
def test_who_does_not_come_back_is_named(terms: Terms) -> None:
    """The error has why it is gone, and for how long it was waited for."""
    play = Play(terms)
    play.lifecycle.fire(Event.PREPARED)
    play.switch_over()
    play.pause(ConnectionLost("it is gone"))
    with pytest.raises(ConnectionLost, match=f"gone, and {terms.peer} did not come back in 90 s"):
        play.phases.gave_up()


@pytest.mark.parametrize(
    ("brings", "paused_seconds"),
    [([0, 0], 90.0), ([0, 1, 0], 140.0), ([5, 1, 1, 0], 190.0)],
)
def test_pauses_without_progress_add_up(brings: list[int], paused_seconds: float) -> None:
    """A source that comes back and brings nothing does not begin the waiting anew."""
    play, pages = Play(), list(PAGES)
    play.lifecycle.fire(Event.PREPARED)
    play.switch_over()
    now_s = paused_s = left_s = 0.0
    # It comes back 50 s after each break, and loses its connections 1000 s later.
    for count in brings:
        now_s += 1000
        play.bring(*pages[:count])
        pages = pages[count:]
        left_s = play.pause(ConnectionLost("gone again"), now_s)
        if left_s < 50:
            break
        now_s += 50
        paused_s += 50
        steps = play.phases.resume(now_s)
        play.meanwhile = play.lose
        with pytest.raises(ConnectionLost):
            play.do(steps)
    assert paused_s + left_s == pytest.approx(paused_seconds)
