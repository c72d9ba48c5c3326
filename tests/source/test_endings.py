"""Breaks, failures and the user's word in each phase: who has the guest then, and who is told."""

from __future__ import annotations

import pytest

from protocol import events
from protocol.errors import (
    ConnectionLost,
    GuestFailed,
    MidstreamError,
    MigrationError,
    PeerAborted,
    RemoteProtocolError,
)
from protocol.limits import RECOVER_SECONDS_MAX
from protocol.messages import PageData, PageRequest, Running, SwitchOver
from protocol.policy import preset
from protocol.wire import encode
from source.convergence import SwitchRule
from source.endings import LAST_WORD_SECONDS_MAX, Break, PausedByHand
from source.steps import Do, Farewell, Within
from tests.guests import KIB
from tests.source.playbook import (
    AFTER_ONE_PASS,
    ALL_CAPABILITIES,
    AT_ONCE,
    PRE,
    PRECOPY_ONLY,
    SMALL,
    Play,
)

LOSS = ConnectionLost("the cable is out", "precopy")


def raising(error: BaseException) -> object:
    """Return what raises an error."""

    def fail() -> None:
        raise error

    return fail


def fail_at(play: Play, word: str, error: MidstreamError) -> Break | BaseException:
    """Migrate, with an error at a step; return what that leads to."""
    play.at[word] = raising(error)  # type: ignore[assignment]
    with pytest.raises(type(error)):
        play.transfer()
    play.at.clear()
    try:
        return play.end_epoch(error)
    except MidstreamError as cause:
        return cause


# Each step of a migration with one pass, up to where the guest is handed over.
BEFORE = ["Setup", "start log", "drain", "PassEnd", "harvest", "SwitchOverAhead", "stop guest"]


@pytest.mark.parametrize("word", [*BEFORE, "Discard"])
def test_a_break_before_the_switch_over_fails_and_the_guest_stays(word: str) -> None:
    """It runs on here, if it was stopped; a destination that waits is told that nobody comes."""
    play = Play(rule=AFTER_ONE_PASS)
    play.at["PassEnd"] = lambda: play.write(3)
    if word == "PassEnd":
        del play.at["PassEnd"]
    assert fail_at(play, word, LOSS) is LOSS
    assert play.phases.guest_side == "source"
    stopped = word in {"stop guest", "Discard"}
    assert ("run guest" in play.story) == stopped
    assert len(play.events.of(events.GuestRun)) == stopped
    announced = stopped or word == "SwitchOverAhead"
    assert play.farewells == [Farewell("the cable is out", anew=True)] * announced
    assert play.events.of(events.ChannelLost) == [
        {"channel": "precopy", "reason": "the cable is out"}
    ]


@pytest.mark.parametrize("rule", [AFTER_ONE_PASS, PRECOPY_ONLY])
@pytest.mark.parametrize("word", ["SwitchOver", "keep little", "End", "End over postcopy"])
def test_a_break_after_the_switch_over_pauses_it(word: str, rule: object) -> None:
    """From its first byte on the guest may be there: it stands still, and nobody is told."""
    play = Play(rule=rule)
    if word == "keep little":
        if rule is PRECOPY_ONLY:
            return
        play.at["PassEnd"] = lambda: play.write(3)
    broken = fail_at(play, word, LOSS)
    assert isinstance(broken, Break)
    assert (broken.loss, broken.seconds_max, broken.by_hand) == (LOSS, None, False)
    assert play.events.states[-1] == "postcopy-paused"
    assert "run guest" not in play.story
    assert play.farewells == []


def test_a_break_that_nothing_can_mend_fails() -> None:
    """Where one side cannot resume, or the user does not want it, the guest is not run here."""
    for play in (Play(capabilities=()), Play(reconnect_seconds=0.0)):
        assert fail_at(play, "End", LOSS) is LOSS
        assert "run guest" not in play.story
        assert play.phases.guest_side == "dest"


def test_what_makes_no_sense_is_a_break_once_the_guest_has_changed_hands() -> None:
    """A bit that changed on its way costs no more than a break; before, it is the end."""
    nonsense = RemoteProtocolError("a header is not valid msgpack")
    play = Play()
    broken = fail_at(play, "End", nonsense)
    assert isinstance(broken, Break)
    assert "makes no sense" in str(broken.loss)
    play = Play(rule=AFTER_ONE_PASS)
    assert fail_at(play, "PassEnd", nonsense) is nonsense
    assert play.farewells == [Farewell(str(nonsense))]


def test_why_the_destination_ended_it_is_read_behind_a_break() -> None:
    """Its reason counts, and it need not be told."""
    play = Play(rule=AFTER_ONE_PASS)
    abort = play.last_word = PeerAborted("the destination ended the migration: no", "no")
    play.at["PassEnd"] = raising(LOSS)  # type: ignore[assignment]
    with pytest.raises(ConnectionLost):
        play.transfer()
    with pytest.raises(PeerAborted) as caught:
        play.end_epoch(LOSS)
    assert caught.value is abort
    assert play.farewells == []
    assert play.events.of(events.ChannelLost) == []


@pytest.mark.parametrize("word", [*BEFORE, "SwitchOver", "End"])
def test_a_user_who_cancels_tells_the_destination(word: str) -> None:
    """Whatever phase it is in, it hears who it was; the guest runs here unless it may be there."""
    play = Play(rule=AFTER_ONE_PASS)
    play.at[word] = raising(KeyboardInterrupt())  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        play.transfer()
    play.at.clear()
    with pytest.raises(KeyboardInterrupt):
        play.end_epoch(KeyboardInterrupt())
    assert play.farewells == [Farewell("cancelled by its user", cancelled=True)]
    assert ("run guest" in play.story) == (word == "stop guest")


def test_a_guest_that_does_not_run_here_is_not_taken_back() -> None:
    """With `hold` its program begins on the destination, or nowhere."""
    play = Play(hold=True)
    assert fail_at(play, "stop guest", LOSS) is LOSS
    assert "run guest" not in play.story


def test_a_guest_that_dies_is_missed_until_it_is_handed_over() -> None:
    """From then on its process has nothing to do."""
    death = GuestFailed("the guest process was killed by SIGKILL")
    play = Play()

    def here() -> None:
        with pytest.raises(GuestFailed):
            play.endings.guest_failed(death)

    play.at["Setup"] = play.at["Discard"] = here
    play.at["SwitchOver"] = play.at["End"] = lambda: play.endings.guest_failed(death)
    play.transfer()
    play.endings.guest_failed(death)
    assert fail_at(Play(), "Discard", death) is death


def test_a_break_in_the_exchange_that_closes_is_not_mended_for_long() -> None:
    """A destination that has the verdict is on its way out."""
    play = Play()
    play.transfer()
    play.verification.verdict_sent = True
    broken = play.end_epoch(LOSS)
    assert broken.seconds_max == LAST_WORD_SECONDS_MAX
    assert broken.has_sent
    assert play.events.states[-1] == "completed"


@pytest.mark.parametrize("policy", ["ordered", "vanilla", "resend", "critical-first", "parallel"])
@pytest.mark.parametrize(
    ("rule", "checksum"), [(AT_ONCE, False), (AFTER_ONE_PASS, False), (AFTER_ONE_PASS, True)]
)
def test_a_break_at_any_byte_loses_none(policy: str, rule: SwitchRule, checksum: bool) -> None:
    """Before the guest is handed over it stays; from then on what is missing goes, and is equal.

    A second break follows in the recovery, or in what goes over its connections.
    """
    capabilities = ALL_CAPABILITIES if checksum else ("recover", "keepalive", "answers")
    changes = {"policy": preset(policy), "rule": rule, "checksum": checksum}
    whole = Play(SMALL, capabilities, **changes)
    lively(whole)
    whole.transfer()
    total = sum(outlet.bytes_sent for outlet in whole.outlets.values())
    paused = 0
    for at_bytes in [*range(1, total, max(total // 37, 1)), *range(total - 40_000, total, 1371)]:
        play = Play(SMALL, capabilities, **changes)
        lively(play)
        play.bytes_left = at_bytes
        with pytest.raises(ConnectionLost) as caught:
            play.transfer()
        if not play.phases.handed_over:
            with pytest.raises(ConnectionLost):
                play.end_epoch(caught.value)
            assert not play.dest.running
            assert play.phases.guest_side == "source"
            continue
        paused += 1
        play.end_epoch(caught.value)
        break_again(play, at_bytes)
        play.resume()
        assert play.is_equal
        assert play.events.states[-1] == "completed"
    assert paused > 10


def test_what_a_break_has_cut_off_is_ended_first() -> None:
    """Of a target page that is there in part the rest goes, and nothing of it twice."""
    play = Play(SMALL, rule=AT_ONCE)
    play.on_write = lambda: cut_in_a_page(play)
    with pytest.raises(ConnectionLost) as caught:
        play.transfer()
    play.end_epoch(caught.value)
    play.on_write = lambda: None
    assert play.dest.held == {(0, 16): 1000}
    before = len(play.story)
    play.resume()
    assert play.story[before : before + 3] == ["keep little", "PageRest", "drain"]
    assert play.is_equal
    # The frame was on its way.
    assert play.phases.scheduler.counts.lost_bytes == 64 * KIB - 1000
    assert play.dest.finished().target_pages == SMALL.target_page_count - 16


def cut_in_a_page(play: Play) -> None:
    """Behind the first frame of 16 target pages, let 1000 bytes of the next one's through."""
    frame = play.outlets[PRE].open_frame
    if play.bytes_left is None and frame is not None and frame.memory_bytes:
        head = encode(PageData(payload_bytes=64 * KIB, block=0, offset=64 * KIB))
        play.bytes_left = len(head) + 1000


def lively(play: Play) -> None:
    """Have the guest write here, and wait for pages there."""

    def write() -> None:
        if not play.phases.handed_over:
            play.write(*range(1, 60, 2))

    play.at["PassEnd"] = write
    play.dest.instead[SwitchOver] = lambda _: [
        PageRequest(block=0, page=9, target_page=0), Running(),
        PageRequest(block=0, page=51, target_page=0),
    ]  # fmt: skip


def break_again(play: Play, number: int) -> None:
    """Break a recovery off, and then what follows one."""
    with pytest.raises(ConnectionLost):
        play.recover(messages_max=min(number % 2, len(play.dest.standing()) - 1))
    assert play.events.states[-1] == "postcopy-paused"
    play.bytes_left = number % 10_007
    try:
        play.resume()
    except ConnectionLost as loss:
        play.end_epoch(loss)
    else:
        # It had no more to send than that.
        play.lifecycle.interrupt()
        play.end_epoch(LOSS)


def test_who_comes_back_and_is_another_is_let_go() -> None:
    """A destination that ran the guest and says that it does not: it is paused as before."""
    play = Play()
    assert isinstance(fail_at(play, "End", LOSS), Break)
    play.dest.running = False
    with pytest.raises(RemoteProtocolError, match="ran the guest and says that it does not"):
        play.recover()
    assert play.events.states[-2:] == ["postcopy-recover", "postcopy-paused"]
    assert play.farewells == []


@pytest.mark.parametrize("gives_way", [True, False])
def test_a_recovery_that_gives_way_is_no_end(gives_way: bool) -> None:
    """What is cancelled for another address leaves it paused; a user who cancels says so."""
    play = Play()
    assert isinstance(fail_at(play, "SwitchOver", LOSS), Break)
    steps = play.endings.recover(lambda: gives_way)
    assert next(steps) == Within(Do.HEAR, RECOVER_SECONDS_MAX)
    if not gives_way:
        farewell = steps.throw(KeyboardInterrupt())
        assert farewell == Farewell("cancelled by its user", cancelled=True)
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt())
    assert play.events.states[-1] == ("postcopy-paused" if gives_way else "postcopy-recover")


def test_a_guest_that_was_not_taken_is_handed_over_again() -> None:
    """Its state goes once more, and everything with it."""
    play = Play()
    assert isinstance(fail_at(play, "SwitchOver", LOSS), Break)
    states: list[bytes] = []
    play.dest.on_state = states.append
    play.resume()
    assert len(states) == 1
    assert play.is_equal
    assert play.events.states[-4:] == ["postcopy-recover", "device", "postcopy-active", "completed"]


def test_a_pause_by_hand_comes_in_time_or_not() -> None:
    """Only a postcopy that could be resumed can be paused; what is over is not broken any more."""
    play = Play()
    heard: list[str] = []

    def order() -> None:
        with pytest.raises(MigrationError) as caught:
            play.endings.check_pause()
        heard.append(str(caught.value).rpartition(" ")[2])
        play.endings.pause()

    play.at["Setup"] = play.at["start log"] = play.at["Discard"] = order
    play.at["keep little"] = play.endings.check_pause
    play.at["End"] = play.endings.pause
    with pytest.raises(PausedByHand) as caught:
        play.transfer()
    assert heard == ["setup", "active", "device"]
    broken = play.end_epoch(caught.value)
    assert broken.by_hand
    play.endings.check_paused()
    # Nothing is read on for: nobody else has ended it.
    assert "read on" not in play.story
    play.at.clear()
    play.resume()
    with pytest.raises(MigrationError, match="too late: the state is completed"):
        play.endings.check_paused()


def test_what_could_not_be_resumed_is_not_paused() -> None:
    """The user reads why."""
    play = Play(reconnect_seconds=0.0)

    def order() -> None:
        with pytest.raises(MigrationError, match="--reconnect-timeout is 0"):
            play.endings.check_pause()

    play.at["keep little"] = order
    play.transfer()


def test_where_the_guest_is_can_be_told() -> None:
    """Before the hand-over here, then nobody knows, then there; and how much has not gone."""
    play = Play(rule=AT_ONCE)
    seen: list[str] = []
    for word in ("Discard", "keep little", "End"):
        play.at[word] = lambda: seen.append(str(play.endings.whereabouts))
    play.transfer()
    assert seen == [
        "the guest stays at the source",
        "whether the destination runs the guest is not known, 256 KiB of its memory not sent",
        "the guest is at the destination, 0 B of its memory not sent",
    ]
