"""Frames that came changed: what goes again for them, and when, and what cannot be one."""

from __future__ import annotations

from typing import cast

import pytest

from protocol import events
from protocol.errors import RemoteProtocolError
from protocol.fields import PackedRuns
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.limits import RESEND_COUNT_MAX
from protocol.messages import Message, PassAck, PassEnd, Resend, SwitchOver
from protocol.policy import preset
from protocol.session_messages import CHECKSUM
from source.convergence import SwitchRule
from source.resends import Resends
from source.scheduler import Scheduler
from tests.guests import small_geometry
from tests.source.playbook import AT_ONCE, PRE, PRECOPY_ONLY, SMALL, Play
from tests.stories import Recorder

TWO_PASSES = SwitchRule(postcopy_after=2, downtime_ms_max=-1)
ONE_PAGE = PackedRuns(b"\0\0\0\0\0\0\0\1")
CHANGED = Resend(block=0, offset=3 * TARGET_PAGE_BYTES, runs=ONE_PAGE)


def test_what_comes_changed_last_goes_again_before_the_switch_over() -> None:
    """Precopy alone hands the guest over when nothing of the rest came changed."""
    play = Play(capabilities=(CHECKSUM,), rule=PRECOPY_ONLY, checksum=True)
    passes = 0

    def hear(message: Message) -> list[Message]:
        nonlocal passes
        passes += 1
        assert isinstance(message, PassEnd)
        changed = Resend(block=0, offset=31 * TARGET_PAGE_BYTES, runs=ONE_PAGE)
        return [*([changed] if passes == 2 else []), PassAck(index=message.index)]

    play.at["stop guest"] = lambda: play.write(31)
    play.dest.instead[PassEnd] = hear
    play.transfer()
    assert play.is_equal
    last = [message for name, message in play.dest.heard if name is PRE][-8:]
    assert [type(message).__name__ for message in last] == [
        "Checksum", "PageData", "PassEnd", "Checksum", "PageData", "PassEnd", "SwitchOver", "End",
    ]  # fmt: skip
    assert last[0:2] == last[3:5]
    assert play.dest.finished().target_pages == SMALL.target_page_count + 2


def test_what_comes_changed_in_a_pass_goes_with_the_next() -> None:
    """It is as dirty as if the guest had written to it."""
    play = Play(capabilities=(CHECKSUM,), rule=TWO_PASSES, checksum=True)
    play.dest.instead[PassEnd] = lambda message: [
        *([CHANGED] if message == PassEnd(index=0) else []),
        PassAck(index=cast("PassEnd", message).index),
    ]  # fmt: skip
    play.transfer()
    ends = [each["bytes"] for each in play.events.of(events.PassEnd)]
    assert ends == [SMALL.length_bytes, TARGET_PAGE_BYTES]
    assert play.dest.finished().target_pages == SMALL.target_page_count + 1


def test_what_comes_changed_in_postcopy_goes_again_before_the_end() -> None:
    """Both channels are asked whether all has come as it was, until nothing was changed."""
    play = Play(capabilities=(CHECKSUM,), rule=AT_ONCE, checksum=True)
    play.dest.instead[PassEnd] = lambda message: [
        *([CHANGED] if message == PassEnd(index=1) and play.story[-1] == "PassEnd" else []),
        PassAck(index=cast("PassEnd", message).index),
    ]  # fmt: skip
    play.transfer()
    confirm = ["PassEnd", "PassEnd over postcopy", "hear", "hear"]
    end = play.story.index("End")
    assert play.story[end - 9 : end] == [*confirm, "drain", *confirm]
    assert play.dest.finished().target_pages == SMALL.target_page_count + 1


@pytest.mark.parametrize("checksum", [False, True])
def test_what_cannot_have_gone_is_not_sent_again(checksum: bool) -> None:
    """A Resend outside the guest, or where no checksums are in force, breaks the protocol."""
    play = Play(capabilities=(CHECKSUM,) if checksum else (), checksum=checksum)
    offset = SMALL.length_bytes if checksum else 0
    play.dest.instead[SwitchOver] = lambda _: [Resend(block=0, offset=offset, runs=ONE_PAGE)]
    with pytest.raises(RemoteProtocolError, match="cannot have gone"):
        play.transfer()


class Rig:
    """What came changed, without a connection."""

    def __init__(self) -> None:
        """Begin with nothing."""
        geometry = small_geometry()
        self.events = Recorder()
        self.scheduler = Scheduler(geometry, preset("ordered"), TARGET_PAGE_BYTES)
        self.resends = Resends(geometry, self.scheduler, self.events)
        self.resends.checked = True


def test_before_the_switch_over_it_is_dirty() -> None:
    """It waits for the next pass, which takes it once, and is no business of the scheduler's."""
    rig = Rig()
    rig.resends.hear(CHANGED, handed_over=False)
    assert rig.scheduler.remaining_bytes == 0
    changed = rig.resends.take_changed()
    assert (len(changed), changed.first_from(0, 0)) == (1, (0, 3))
    assert len(rig.resends.take_changed()) == 0
    assert rig.events.of(events.FrameChanged) == [
        {"block": 0, "offset": 3 * TARGET_PAGE_BYTES, "bytes": TARGET_PAGE_BYTES}
    ]


def test_after_the_switch_over_it_is_missing() -> None:
    """It goes again at once, as what was never sent; no pass will come for it."""
    rig = Rig()
    rig.resends.hear(CHANGED, handed_over=True)
    assert rig.scheduler.remaining_bytes == TARGET_PAGE_BYTES
    assert len(rig.resends.take_changed()) == 0
    counts = rig.scheduler.counts
    assert (counts.changed_frames, counts.changed_bytes) == (1, TARGET_PAGE_BYTES)


def test_a_destination_that_finds_no_end_is_refused() -> None:
    """More changed frames than any link makes are the destination's fault."""
    rig = Rig()
    rig.scheduler.counts.changed_frames = RESEND_COUNT_MAX - 1
    rig.resends.hear(CHANGED, handed_over=False)
    with pytest.raises(RemoteProtocolError, match="frames came changed"):
        rig.resends.hear(CHANGED, handed_over=False)
