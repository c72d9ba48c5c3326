"""A whole destination against a QEMU that is played by hand, over real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from dest.script import PageName, WrittenStep
from guest.programs import ProgramSpec
from protocol import events
from protocol.errors import LocalProtocolError, MemoryLost, RemoteProtocolError
from scripts.screen.table import table
from tests import qemu_streams as qemu
from tests.guests import FakeGuests
from tests.qemu_dests import (
    BLOCKS,
    HUGE,
    PER_PAGE,
    SHUT_FAILED,
    SHUT_GOOD,
    data_of,
    huge,
    make_rig,
    rom,
)
from tests.qemu_streams import TARGET

pytestmark = pytest.mark.usefixtures("guests")


FIRST = PageName("", 0)


async def test_a_migration_with_two_channels(guests: FakeGuests, tmp_path: Path) -> None:
    """A half-sent page and an urgent one come over a channel each, are placed, saved and told."""
    saved = tmp_path / "saved"
    async with make_rig(save=saved) as rig:
        await rig.open(qemu.part(huge(0)))
        preempt = await rig.dial()
        await rig.switch_over(qemu.part(huge(0, stop=100)))
        (guest,) = guests.made
        guest.fault(0, PER_PAGE + 7)
        # The first request of a block names it, and it is for a whole page.
        await rig.hear("0003 0010 0000000000200000 00200000 03" + b"ram".hex())
        guest.fault(1, 5)
        await rig.hear("0004 000c 0000000000000000 00200000")
        await preempt.send_all(huge(1))
        await rig.happened(events.PagePlaced, page=1, channel="postcopy")
        rest = qemu.part(huge(0, first=100), rom(), last=True)
        await rig.main.send_all(rest + b"\0")
        await rig.hear(SHUT_GOOD.hex())
        await rig.close()
    assert rig.error is None
    assert rig.result is not None
    assert saved.read_bytes() == b"".join(data_of(0) + data_of(1)) + bytes(4 * TARGET)
    assert guest.calls == ["run", "pause"]
    assert rig.events.states == ["setup", "active", "device", "postcopy-active", "completed"]
    own = rig.result.report["midstream"]
    assert own["policy"] == "qemu-preempt"
    assert own["requests"]["on-postcopy-channel"] == own["requests"]["on-precopy-channel"] == 1
    # What QEMU alone knows, or what it cannot do, is not there at all.
    assert own.keys() == {
        "schema", "peer", "machine", "policy", "device-state-bytes", "blocks", "requests",
        "channels", "recoveries", "backing", "placement", "placement-reason",
        "dest-priority", "faults", "stages", "accesses", "verified", "cpu-seconds",
    }  # fmt: skip
    assert own["requests"].keys() == {"received", "on-precopy-channel", "on-postcopy-channel"}
    assert own["verified"].keys() == {"reads", "reads-unchecked"}
    assert own["cpu-seconds"].keys() == {"dest"}
    assert "downtime" not in rig.result.report
    assert own["faults"]["count"] == 2
    assert [block["name"] for block in own["blocks"]] == ["ram", "rom"]
    assert rig.result.report["ram"]["normal"] == 3 * PER_PAGE
    assert rig.result.report["ram"]["duplicate"] == 4
    text = table(rig.result.report)
    assert "preempt channel 1, main channel 1" in text
    assert max(map(len, text.splitlines())) < 80


async def test_a_guest_that_cannot_be_saved_is_told_to_qemu() -> None:
    """QEMU hears that it failed, and not that all is well: both sides tell of one end."""
    async with make_rig(save=Path("/dev/full")) as rig:
        await rig.open(qemu.part(huge(0)))
        await rig.switch_over(qemu.part(huge(0), huge(1), rom(), last=True) + b"\0")
        assert await rig.hear_end() == SHUT_FAILED
    assert str(rig.error) == "cannot save the guest to /dev/full: No space left on device"
    assert rig.result is None


async def test_a_migration_with_one_channel(guests: FakeGuests) -> None:
    """Without the capability everything comes over the main channel, pings in the package too."""
    async with make_rig() as rig:
        await rig.open()
        await rig.main.send_all(
            b"".join(qemu.discard(name, (0, length)) for name, length, _ in BLOCKS)
        )
        await rig.main.send_all(qemu.package(0x42))
        await rig.hear("0002 0004 00000042")
        await rig.main.send_all(qemu.part(huge(1), huge(0), rom(), last=True) + b"\0")
        await rig.hear(SHUT_GOOD.hex())
        await rig.close()
    assert rig.result is not None
    assert rig.result.report["midstream"]["policy"] == "qemu"
    assert rig.result.report["midstream"]["channels"]["postcopy"] == 0


async def test_what_is_not_discarded_is_here(guests: FakeGuests) -> None:
    """What precopy brought and nobody discarded is not missing; vCPUs find it at once."""
    async with make_rig() as rig:
        await rig.open(qemu.part(huge(0), huge(1), rom()))
        await rig.main.send_all(qemu.discard(b"ram", (HUGE, HUGE)) + qemu.package())
        await rig.happened(events.State, state="postcopy-active")
        (guest,) = guests.made
        assert guest.board.present[:PER_PAGE].all()
        assert not guest.board.present[PER_PAGE : 2 * PER_PAGE].any()
        await rig.main.send_all(qemu.part(huge(1), last=True) + b"\0")
        await rig.hear(SHUT_GOOD.hex())
        await rig.close()
    assert rig.result is not None


async def test_a_script_faults_on_the_half_sent_page(guests: FakeGuests) -> None:
    """Steps fire by what has come of a page, as with midstream's own source."""
    spec = ProgramSpec(vcpu_count=2, image=True)
    steps = (WrittenStep("received", FIRST, (PageName("", 1), FIRST), 0.25),)
    async with make_rig(steps=steps, spec_of=lambda _: spec) as rig:
        await rig.open()
        await rig.switch_over(qemu.part(huge(0, stop=PER_PAGE // 4 - 1)))
        await rig.main.send_all(
            b"\x02\0\0\0\x02" + huge(0, first=PER_PAGE // 4 - 1, stop=PER_PAGE // 4)
        )
        await rig.happened(events.Touch, page=0)
        await rig.main.aclose()
    assert [fields["page"] for fields in rig.events.of(events.Touch)] == [1, 0]
    assert isinstance(rig.error, MemoryLost)


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([qemu.part(huge(0)), b"\x04\0\0\0\3\x05timer\0\0\0\0\0\0\0\2"], "start postcopy before"),
        ([qemu.command(9)], "wants to resume"),
        ([qemu.discard(b"ram", (2 * HUGE, HUGE))], "outside 'ram'"),
        ([qemu.discard(b"other", (0, TARGET))], "'other', unknown"),
        ([qemu.package(), qemu.part(huge(0))], "came again"),
        (
            [qemu.discard(b"ram", (0, HUGE)), qemu.package(), qemu.discard(b"ram", (0, HUGE))],
            "after the switch-over",
        ),
    ],
)
async def test_a_source_that_goes_wrong_is_told(pieces: list[bytes], reason: str) -> None:
    """What cannot be taken ends the migration with its reason, and QEMU hears that it failed."""
    async with make_rig() as rig:
        await rig.open(*pieces)
        assert await rig.hear_end() == SHUT_FAILED
    # In postcopy what has not come is lost, whatever is wrong; without a discard nothing is.
    is_lost = "memory of the guest is lost" in str(rig.error)
    assert is_lost == (reason == "after the switch-over")
    assert type(rig.error) is (MemoryLost if is_lost else RemoteProtocolError)
    assert reason in str(rig.error)
    assert rig.events.states[-1] == "failed"


async def test_a_page_over_both_channels_is_refused() -> None:
    """Target pages of one huge page over both channels are none of a correct QEMU's."""
    async with make_rig() as rig:
        await rig.open()
        preempt = await rig.dial()
        await rig.switch_over(qemu.part(huge(0, stop=2)))
        await rig.happened(events.State, state="postcopy-active")
        await preempt.send_all(huge(0, first=2, stop=3))
        assert await rig.hear_end() == SHUT_FAILED
    assert "over both channels" in str(rig.error)


async def test_a_source_without_postcopy_is_refused() -> None:
    """Without its advice nobody could ask for pages: the user is told what to switch on."""
    async with make_rig() as rig:
        main = await rig.dial()
        await main.send_all(qemu.head() + qemu.command(1) + qemu.start([(b"rom", TARGET, TARGET)]))
        assert await main.receive_some() == SHUT_FAILED
        await main.aclose()
    assert "switch its capability postcopy-ram on" in str(rig.error)


async def test_steps_for_pages_that_the_guest_has_not(guests: FakeGuests) -> None:
    """What the user asked for is checked as soon as QEMU has told of its guest."""
    steps = (WrittenStep("placed", PageName("", 7), (FIRST,)),)
    async with make_rig(steps=steps) as rig:
        await rig.open()
        assert await rig.hear_end() == SHUT_FAILED
    assert isinstance(rig.error, LocalProtocolError)
    assert guests.made == []
