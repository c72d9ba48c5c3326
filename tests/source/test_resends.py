"""Frames that came changed: what goes again for them, and when, and what cannot be one."""

from __future__ import annotations

import pytest

from guest.interface import GuestSnapshot
from guest.memory import GuestMemory
from protocol import events
from protocol.capabilities import CHECKSUM
from protocol.errors import RemoteProtocolError
from protocol.fields import PackedRuns
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.limits import RESEND_COUNT_MAX
from protocol.messages import Message, PassAck, PassEnd, Resend, SwitchOver
from protocol.policy import preset
from source.resends import Resends
from source.scheduler import Scheduler
from tests.guests import FakeGuest, small_geometry
from tests.source.test_migration import PRE, PRECOPY_ONLY, make_rig, write
from tests.stories import Recorder

ONE_PAGE = PackedRuns(b"\0\0\0\0\0\0\0\1")
CHANGED = Resend(block=1, offset=3 * TARGET_PAGE_BYTES, runs=ONE_PAGE)


async def test_what_comes_changed_last_goes_again_before_the_switch_over(
    memory: GuestMemory, guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Precopy alone hands the guest over when nothing of the rest came changed."""
    pause, passes = guest.pause, 0

    async def write_and_pause(*, anywhere: bool = False) -> GuestSnapshot:
        write(memory, guest, 1, 31)
        return await pause(anywhere=anywhere)

    async def hear(message: Message) -> None:
        nonlocal passes
        passes += 1
        assert isinstance(message, PassEnd)
        if passes == 2:
            runs = PackedRuns(b"\0\0\0\0\0\0\0\1")
            offset = 31 * TARGET_PAGE_BYTES
            await rig.dest.main.send(Resend(block=1, offset=offset, runs=runs))
        await rig.dest.main.send(PassAck(index=message.index))

    monkeypatch.setattr(guest, "pause", write_and_pause)
    async with make_rig(memory, rule=PRECOPY_ONLY, checksum=True) as rig:
        rig.dest.capabilities = (CHECKSUM,)
        rig.dest.instead[PassEnd] = hear
        await rig.transfer(guest)
        last = [message for name, message in rig.dest.heard if name is PRE][-8:]
        assert [type(message).__name__ for message in last] == [
            "Checksum", "PageData", "PassEnd", "Checksum", "PageData", "PassEnd", "SwitchOver",
            "End",
        ]  # fmt: skip
        assert last[0:2] == last[3:5]
        assert rig.dest.finished().target_pages == memory.geometry.target_page_count + 2


@pytest.mark.parametrize("checksum", [False, True])
async def test_what_cannot_have_gone_is_not_sent_again(
    memory: GuestMemory, guest: FakeGuest, checksum: bool
) -> None:
    """A Resend outside the guest, or where no checksums are in force, breaks the protocol."""
    async with make_rig(memory, checksum=checksum) as rig:
        rig.dest.capabilities = (CHECKSUM,) if checksum else ()

        async def ask(_: Message) -> None:
            offset = 32 * TARGET_PAGE_BYTES if checksum else 0
            runs = PackedRuns(b"\0\0\0\0\0\0\0\1")
            await rig.dest.main.send(Resend(block=1, offset=offset, runs=runs))

        rig.dest.instead[SwitchOver] = ask
        error = await rig.fail(guest)
        assert isinstance(error, RemoteProtocolError)
        assert "cannot have gone" in str(error)


class Rig:
    """What came changed, without a connection."""

    def __init__(self) -> None:
        """Begin with nothing."""
        geometry = small_geometry()
        self.events = Recorder()
        self.scheduler = Scheduler(geometry, preset("ordered"), TARGET_PAGE_BYTES)
        self.resends = Resends(geometry, self.scheduler, self.events)
        self.resends.begin_epoch(checked=True)


def test_before_the_switch_over_it_is_dirty() -> None:
    """It waits for the next pass, which takes it once, and is no business of the scheduler's."""
    rig = Rig()
    rig.resends.hear(CHANGED, handed_over=False)
    assert rig.scheduler.remaining_bytes == 0
    changed = rig.resends.take_changed()
    assert (len(changed), changed.first_from(0, 0)) == (1, (1, 3))
    assert len(rig.resends.take_changed()) == 0
    assert rig.events.of(events.FrameChanged) == [
        {"block": 1, "offset": 3 * TARGET_PAGE_BYTES, "bytes": TARGET_PAGE_BYTES}
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
