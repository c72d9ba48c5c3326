"""Strangers at a destination that waits for QEMU: whoever comes and holds keeps it from nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from protocol import events
from protocol.errors import MemoryLost
from tests import qemu_streams as qemu
from tests.guests import FakeGuests
from tests.qemu_dests import (
    ASK,
    HUGE,
    PER_PAGE,
    REST,
    SHUT_GOOD,
    data_of,
    huge,
    make_rig,
    rom,
    turned_away,
)
from tests.qemu_streams import TARGET

pytestmark = pytest.mark.usefixtures("guests")


# What a stranger may begin with, and hold then.
HELD = [
    b"", b"\x08", b"\x08\0\xff\0\0", b"\x08\0\x0a\0", qemu.command(10, b"\3ram"), qemu.command(9),
    b"\x08\0\xff\xff\xff" + bytes(9), b"QEVM", qemu.head(), b"\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n",
]  # fmt: skip


async def test_strangers_at_a_paused_migration_hold_no_place() -> None:
    """Whoever comes and holds, however well he has begun, QEMU comes back beside him."""
    async with make_rig(wait_seconds=60.0) as rig:
        await rig.open()
        await rig.switch_over()
        await rig.main.aclose()
        await rig.happened(events.State, state="postcopy-paused")
        for data in HELD:
            stranger = await rig.dial()
            await stranger.send_all(data)
        rig.main = await rig.dial()
        await rig.main.send_all(ASK + qemu.command(9) + REST)
        await rig.hear_success()
        await rig.close()
    assert rig.error is None
    assert rig.events.states.count("postcopy-paused") == 1


async def test_strangers_before_a_migration_hold_no_place() -> None:
    """Beginnings of a stream that do not go on keep no QEMU out."""
    async with make_rig() as rig:
        for data in (b"QEVM", qemu.head()[:10], qemu.head(), qemu.head() + qemu.command(1), b""):
            stranger = await rig.dial()
            await stranger.send_all(data)
        gone = await rig.dial()
        await gone.send_all(b"QEVM")
        await gone.aclose()
        wrong = await rig.dial()
        await wrong.send_all(b"QEVM\0\0\0\2")
        await rig.open()
        await rig.switch_over(REST)
        await rig.hear_success()
        await rig.close()
    assert rig.error is None
    assert any("version 2 of QEMU's stream" in line for line in rig.log)


# Beginnings of what comes over the connection for urgent pages, that go no further, or that bring
# what is here, or what no guest of these blocks has.
NOT_PREEMPT = (
    b"\0\0\0\0",
    qemu.page(HUGE, data_of(1)[0])[:2000],
    qemu.zero(0, b"ram"),
    qemu.zero(0, b"rim"),
    qemu.zero(64 * HUGE, b"ram"),
)


async def test_strangers_hold_no_place_of_urgent_pages(guests: FakeGuests, tmp_path: Path) -> None:
    """Whoever begins as the second connection does, the one that brings what is missing is it."""
    saved = tmp_path / "saved"
    async with make_rig(save=saved) as rig:
        await rig.open(qemu.part(huge(0)))
        await rig.switch_over(qemu.part(rom()))
        (guest,) = guests.made
        guest.fault(0, PER_PAGE + 7)
        await rig.hear("0003 0010 0000000000200000 00200000 03" + b"ram".hex())
        await rig.main.send_all(qemu.part(huge(0)))
        await rig.happened(events.PagePlaced, page=0, channel="precopy")
        strangers = [await rig.dial() for _ in NOT_PREEMPT]
        for stranger, data in zip(strangers, NOT_PREEMPT, strict=True):
            await stranger.send_all(data)
        for stranger in strangers[2:]:
            await turned_away(stranger)
        preempt = await rig.dial()
        await preempt.send_all(huge(1))
        await rig.happened(events.PagePlaced, page=1, channel="postcopy")
        for stranger in strangers[:2]:
            await turned_away(stranger)
        await rig.main.send_all(qemu.part(b"", last=True) + b"\0")
        await rig.hear(SHUT_GOOD.hex())
        await rig.close()
    assert rig.error is None
    assert saved.read_bytes() == b"".join(data_of(0) + data_of(1)) + bytes(4 * TARGET)
    for words in ("what is not missing", "'rim'", "is here already"):
        assert any(words in line for line in rig.log)


@pytest.mark.parametrize("data", [b"\x08\0\x0a\0", qemu.command(10, b"\3ram")])
async def test_who_holds_does_not_stretch_the_waiting(
    data: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    """Time is up when it is, whoever has begun to say something."""
    autojump_clock.autojump_threshold = 0.1
    async with make_rig(wait_seconds=5.0) as rig:
        await rig.open()
        await rig.switch_over()
        await rig.main.aclose()
        await rig.happened(events.State, state="postcopy-paused")
        stranger = await rig.dial()
        await stranger.send_all(data)
    assert isinstance(rig.error, MemoryLost)
    assert "QEMU did not come back in 5 s" in str(rig.error)
