"""A QEMU that is gone, that comes back, or that makes no sense: played by hand, over sockets."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from protocol import events
from protocol.errors import ConnectionLost, MemoryLost, MidstreamError
from tests import qemu_streams as qemu
from tests.guests import FakeGuests
from tests.qemu_dests import (
    ASK,
    HUGE,
    PER_PAGE,
    REST,
    SHUT_FAILED,
    SHUT_GOOD,
    data_of,
    huge,
    make_rig,
    rom,
)
from tests.qemu_streams import TARGET

pytestmark = pytest.mark.usefixtures("guests")


@pytest.mark.parametrize(("in_postcopy", "error"), [(False, ConnectionLost), (True, MemoryLost)])
async def test_a_source_that_is_gone(in_postcopy: bool, error: type[MidstreamError]) -> None:
    """The end of file is never success; in postcopy memory is lost with it, exit status 4."""
    async with make_rig() as rig:
        await rig.open(qemu.part(huge(0)))
        if in_postcopy:
            await rig.switch_over(qemu.part(huge(0)))
        await rig.main.aclose()
    assert type(rig.error) is error
    assert rig.error.exit_status == (4 if in_postcopy else 1)


async def test_a_lost_preempt_channel_loses_memory() -> None:
    """What the second connection still had to bring is lost with it."""
    async with make_rig() as rig:
        await rig.open()
        preempt = await rig.dial()
        await rig.switch_over()
        await preempt.send_all(huge(1, stop=3))
        await preempt.aclose()
        await rig.hear_end()
    assert isinstance(rig.error, MemoryLost)
    assert "preempt connection" in str(rig.error)


async def test_a_source_that_comes_back(guests: FakeGuests, tmp_path: Path) -> None:
    """After a break it hears what is here, block by block, is asked again, and sends the rest."""
    saved = tmp_path / "saved"
    async with make_rig(save=saved, wait_seconds=30.0) as rig:
        await rig.open()
        await rig.switch_over(qemu.part(huge(0, stop=100)))
        (guest,) = guests.made
        guest.fault(0, PER_PAGE + 7)
        request = "0003 0010 0000000000200000 00200000 03" + b"ram".hex()
        await rig.hear(request)
        await rig.main.aclose()
        await rig.happened(events.State, state="postcopy-paused")
        stranger = await rig.dial()
        await stranger.send_all(qemu.head())
        rig.main = await rig.dial()
        await rig.main.send_all(
            qemu.command(10, b"\3ram") + qemu.command(10, b"\3rom") + qemu.command(9)
        )
        end = "0123456789abcdef"
        here = "ff" * 12 + "0f" + "00" * (2 * PER_PAGE // 8 - 13)
        await rig.hear(f"0005 0004 03 {b'ram'.hex()} 0000000000000080 {here} {end}")
        await rig.hear(f"0005 0004 03 {b'rom'.hex()} 0000000000000008 {'00' * 8} {end}")
        await rig.hear("0006 0004 00000001")
        await rig.hear(request)
        rest = qemu.part(huge(0, first=100), huge(1), rom(), last=True)
        await rig.main.send_all(rest + b"\0")
        await rig.hear(SHUT_GOOD.hex())
        await rig.close()
    assert rig.result is not None
    assert rig.result.report["midstream"]["recoveries"] == 1
    assert saved.read_bytes() == b"".join(data_of(0) + data_of(1)) + bytes(4 * TARGET)
    assert rig.events.states[-4:] == [
        "postcopy-paused", "postcopy-recover", "postcopy-active", "completed",
    ]  # fmt: skip
    assert any("under way here already" in line for line in rig.log)


@pytest.mark.parametrize(
    "piece",
    [
        qemu.command(10, b"\5other"),
        qemu.package(),
        qemu.part(huge(1)),
        qemu.command(255),
    ],
)
async def test_a_source_that_comes_back_wrong(piece: bytes) -> None:
    """What is no resumption is turned away, and the one that was left still gets in."""
    async with make_rig(wait_seconds=30.0) as rig:
        await rig.open()
        await rig.switch_over()
        await rig.main.aclose()
        await rig.happened(events.State, state="postcopy-paused")
        for _ in range(3):
            rig.main = await rig.dial()
            # A new main connection is known by a command.
            with suppress(trio.BrokenResourceError):
                await rig.main.send_all(qemu.command(1) + piece)
            await rig.hear_end()
        rig.main = await rig.dial()
        await rig.main.send_all(ASK + qemu.command(9) + REST)
        await rig.hear_success()
    assert rig.error is None
    assert rig.result is not None


@pytest.mark.parametrize(
    "piece",
    [
        qemu.command(255),
        b"\x77",
        b"\x02\0\0\0\x02" + (0x40).to_bytes(8, "big"),
        b"\x02\0\0\0\x02" + qemu.compressed(0, bytes(10_000_000), b"ram"),
        qemu.part(qemu.page(2 * HUGE, bytes(TARGET), b"ram")),
        qemu.discard(b"ram", (0, HUGE)),
    ],
)
async def test_what_cannot_be_read_in_postcopy_is_a_break(piece: bytes) -> None:
    """It pauses the migration, so that QEMU may come back without it."""
    async with make_rig(wait_seconds=30.0) as rig:
        await rig.open()
        await rig.switch_over(piece)
        await rig.happened(events.State, state="postcopy-paused")
        assert SHUT_FAILED not in await rig.hear_end()
        rig.main = await rig.dial()
        await rig.main.send_all(ASK + qemu.command(9) + REST)
        await rig.hear_success()
    assert rig.error is None
    assert rig.result is not None
    assert rig.result.report["midstream"]["recoveries"] == 1
