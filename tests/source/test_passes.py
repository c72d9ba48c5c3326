"""Precopy passes: one bandwidth limit over all, and what is left to send at any moment."""

from __future__ import annotations

import pytest

from protocol import events
from protocol.errors import GaveUp
from protocol.messages import PassEnd
from source.convergence import SwitchRule
from source.passes import FRAME_SECONDS_MAX
from tests.guests import KIB
from tests.source.playbook import PRE, SMALL, Play

PAGES = SMALL.target_page_count

# A pass takes as long as a burst, and half as long again.
RATE = 256 * KIB * 1000 // 30
NEVER = SwitchRule(postcopy_after=None, downtime_ms_max=0)


def dirty_all(play: Play) -> None:
    """Have the guest write to all its memory in each pass, as soon as a part of it went."""
    play.events.on(events.PageSent, lambda: play.dirty.update(range(PAGES)))


def test_the_limit_holds_over_all_passes() -> None:
    """No pass begins with a burst of its own: so many passes take as long as their bytes."""
    play = Play(rule=SwitchRule(postcopy_after=8, downtime_ms_max=0), bandwidth=RATE)
    dirty_all(play)
    began_ns, ends = play.now_ns, []
    play.events.on(events.PassEnd, lambda: ends.append((play.now_ns - began_ns) / 1e9))
    play.transfer()
    assert len(ends) == 8
    for count, end in enumerate(ends, 1):
        assert end >= count * SMALL.length_bytes / RATE


def test_what_is_left_to_send_is_true_at_any_moment() -> None:
    """It begins with all memory, and falls with each byte though all of it is one frame."""
    rule = SwitchRule(postcopy_after=2, downtime_ms_max=0)
    play = Play(rule=rule, bandwidth=RATE, chunk_bytes=256 * KIB)
    dirty_all(play)
    phases = play.phases
    seen = [(0, phases.remaining_bytes)]
    play.on_write = lambda: seen.append((phases.meter.pass_count, phases.remaining_bytes))
    play.transfer()
    assert phases.remaining_bytes == 0
    for number in (0, 1):
        left = [remaining_bytes for count, remaining_bytes in seen if count == number]
        assert left == sorted(left, reverse=True)
        assert all(0 <= each <= SMALL.length_bytes for each in left)
        assert len(set(left)) > 2, "it fell all at once"
    assert seen[0] == (0, SMALL.length_bytes)


def test_a_switch_over_by_hand_ends_a_pass() -> None:
    """It ends between two frames; what it did not send, and all that is dirty, is postcopy's."""
    # At this rate a pass takes a minute, and a frame the longest that one may take.
    play = Play(rule=NEVER, bandwidth=SMALL.length_bytes // 60, chunk_bytes=256 * KIB)
    sent: list[int] = []

    def order() -> None:
        if not sent:
            play.steering.convergence.order()
        sent.append(play.phases.scheduler.remaining_bytes)

    play.events.on(events.PageSent, order)
    play.transfer()
    assert play.is_equal
    # One frame went before the switch-over, and was not the whole pass.
    assert play.dest.heard_types(PRE)[:5] == [
        "Setup", "PageData", "SwitchOverAhead", "Discard", "SwitchOver",
    ]  # fmt: skip
    assert sent[0] == SMALL.length_bytes - 64 * KIB
    assert play.phases.meter.pass_count == 0
    assert play.phases.switch_over_reason == "switch-over"
    assert play.dest.finished().target_pages == PAGES


def test_what_cannot_be_sent_is_given_up_all_the_same() -> None:
    """A frame that takes for ever is not waited for when the time is over."""
    rule = SwitchRule(None, downtime_ms_max=0, give_up_after_seconds=20)
    play = Play(rule=rule, bandwidth=1)
    began_ns = play.now_ns
    with pytest.raises(GaveUp, match="in pass 1, with 256 KiB left to send"):
        play.transfer()
    assert (play.now_ns - began_ns) / 1e9 == 20 + FRAME_SECONDS_MAX
    assert play.story[-1] == "drain, late"


def test_a_word_is_not_waited_for_when_the_time_is_over() -> None:
    """A destination that does not acknowledge a pass has as long as the user gives precopy."""
    rule = SwitchRule(None, downtime_ms_max=0, give_up_after_seconds=20)
    play = Play(rule=rule)
    play.dest.instead[PassEnd] = lambda _: []
    began_ns = play.now_ns
    with pytest.raises(GaveUp):
        play.transfer()
    assert (play.now_ns - began_ns) / 1e9 == 20
    assert play.phases.guest_side == "source"
    assert "stop guest" not in play.story


def test_passes_that_stop_shrinking_are_said() -> None:
    """The user and the events hear of the first pass that leaves as much dirty, if one follows."""
    for passes, lines_said in ((1, 0), (4, 1)):
        play = Play(rule=SwitchRule(postcopy_after=passes, downtime_ms_max=0))
        dirty_all(play)
        lines: list[str] = []
        play.steering.warn = lines.append
        play.transfer()
        assert len(lines) == lines_said
        assert len(play.events.of(events.NotConverging)) == lines_said
