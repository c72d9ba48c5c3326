"""A whole destination against a QEMU that is played by hand, over real sockets."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dest.config import QemuDestConfig
from dest.qemu.peer import QemuPeer
from dest.script import PageName, WrittenStep
from dest.session import DestSession
from guest.programs import ProgramSpec
from protocol import events
from protocol.errors import (
    ConnectionLost,
    LocalProtocolError,
    MemoryLost,
    MidstreamError,
    RemoteProtocolError,
)
from protocol.report import Result
from scripts.screen.table import table
from tests import qemu_streams as qemu
from tests.bounds import bare, bounded, nothing_left
from tests.guests import FakeGuests
from tests.qemu_streams import MIB, TARGET
from tests.stories import Recorder

HUGE = 2 * MIB
BLOCKS = [(b"ram", 2 * HUGE, HUGE), (b"rom", 4 * TARGET, TARGET)]
PER_PAGE = HUGE // TARGET

SHUT_GOOD, SHUT_FAILED = bytes.fromhex("0001000400000000"), bytes.fromhex("0001000400000001")


@pytest.fixture(autouse=True)
def guests(monkeypatch: pytest.MonkeyPatch) -> FakeGuests:
    """Guests without processes, for all sessions of a test."""
    guests = FakeGuests()
    monkeypatch.setattr("dest.session.open_guest", guests.open)
    monkeypatch.setattr("dest.session.start_process", guests.start)
    return guests


FIRST = PageName("", 0)


class Rig:
    """A destination that listens, and a QEMU that comes to it."""

    def __init__(self, **config: Any) -> None:  # noqa: ANN401 - any field of the configuration
        """Prepare; `run` listens."""
        self.events = Recorder()
        self.log: list[str] = []
        self.result: Result | None = None
        self.error: MidstreamError | None = None
        self.main: trio.SocketStream
        self._sockets: list[trio.SocketStream] = []
        self._address = ""
        self._listening = trio.Event()
        settings: dict[str, Any] = {
            "host": "127.0.0.1", "port": 0, "backing": "base", "wait_seconds": 0.0,
            "spec_of": lambda _: ProgramSpec(vcpu_count=2, image=True),
        }  # fmt: skip
        session_config = QemuDestConfig(**(settings | config))
        self._session = DestSession(
            session_config, QemuPeer(session_config, self.events), self.events, self._listens,
            self.log.append,
        )  # fmt: skip

    def _listens(self, address: str) -> None:
        self._address = address
        self._listening.set()

    async def run(self) -> None:
        """Serve; keep how that ends."""
        try:
            self.result = await self._session.run()
        except MidstreamError as error:
            self.error = bare(error)

    async def dial(self) -> trio.SocketStream:
        """Connect and say nothing."""
        await self._listening.wait()
        host, _, port = self._address.rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        self._sockets.append(stream)
        return stream

    async def open(self, *more: bytes, blocks: list[tuple[bytes, int, int]] = BLOCKS) -> None:
        """Open a migration, with what comes behind the blocks."""
        self.main = await self.dial()
        opening = (
            qemu.head(), qemu.command(1), qemu.command(2, b"\0\0\0\1"),
            qemu.advise(HUGE | TARGET), qemu.start(blocks),
        )  # fmt: skip
        await self.main.send_all(b"".join((*opening, *more)))
        await self.hear("00020004 00000001")

    async def switch_over(self, *more: bytes) -> None:
        """Make everything stale, and have the guest run on the destination."""
        stale = [qemu.discard(name, (0, length)) for name, length, _ in BLOCKS]
        await self.main.send_all(b"".join((*stale, qemu.package(), *more)))
        await self.happened(events.State, state="postcopy-active")

    async def happened(self, kind: type[events.Event], **wanted: object) -> None:
        """Wait until an event with these fields has been told."""
        heard = trio.Event()
        self.events.on(kind, heard.set, **wanted)
        if not any(wanted.items() <= fields.items() for fields in self.events.of(kind)):
            await heard.wait()

    async def hear(self, expected: str) -> None:
        """Expect these bytes on the return path, in hexadecimal."""
        want = bytes.fromhex(expected)
        got = b""
        while len(got) < len(want) and (data := await self.main.receive_some(len(want) - len(got))):
            got += data
        assert got == want

    async def hear_success(self) -> None:
        """Read the return path up to the word that all is well, and close."""
        got = b""
        while not got.endswith(SHUT_GOOD):
            data = await self.main.receive_some()
            assert data, got
            got += data
        await self.main.aclose()

    async def hear_end(self) -> bytes:
        """Return the rest of the return path, and close what it came over."""
        got = b""
        # Whoever closes with unread bytes resets the connection.
        with suppress(trio.BrokenResourceError):
            while data := await self.main.receive_some():
                got += data
        await self.main.aclose()
        return got

    async def close(self) -> None:
        """Close all connections."""
        for stream in self._sockets:
            await stream.aclose()


@asynccontextmanager
async def make_rig(**config: Any) -> AsyncIterator[Rig]:  # noqa: ANN401
    """Run a destination that a test is the QEMU of; nothing of either may stay."""
    await trio.to_thread.run_sync(int)  # What Python and trio open once.
    with nothing_left(), bounded():
        rig = Rig(**config)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.run)
                yield rig
        finally:
            await rig.close()


async def turned_away(stranger: trio.SocketStream) -> None:
    """Expect that a connection is closed; where bytes of it were not read it is reset."""
    with suppress(trio.BrokenResourceError):
        assert await stranger.receive_some() == b""


def data_of(page: int) -> list[bytes]:
    """Return the target pages of a huge page, no two alike."""
    return [struct.pack(">HH", page + 1, index) * (TARGET // 4) for index in range(PER_PAGE)]


def huge(page: int, block: bytes = b"ram", first: int = 0, stop: int = PER_PAGE) -> bytes:
    """Return records with a part of a huge page."""
    data = data_of(page)
    names = [block] + [b""] * (stop - first - 1)
    return b"".join(
        qemu.page(page * HUGE + index * TARGET, data[index], name)
        for index, name in zip(range(first, stop), names, strict=True)
    )


def rom() -> bytes:
    """Return records with all of the small block."""
    return qemu.zero(0, b"rom") + b"".join(qemu.zero(index * TARGET) for index in range(1, 4))


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


ASK = qemu.command(10, b"\3ram") + qemu.command(10, b"\3rom")
REST = qemu.part(huge(0), huge(1), rom(), last=True) + b"\0"


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


async def test_steps_for_pages_that_the_guest_has_not(guests: FakeGuests) -> None:
    """What the user asked for is checked as soon as QEMU has told of its guest."""
    steps = (WrittenStep("placed", PageName("", 7), (FIRST,)),)
    async with make_rig(steps=steps) as rig:
        await rig.open()
        assert await rig.hear_end() == SHUT_FAILED
    assert isinstance(rig.error, LocalProtocolError)
    assert guests.made == []
