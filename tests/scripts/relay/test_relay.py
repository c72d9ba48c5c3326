"""A relay between a source and a destination that a test plays: what passes, what is done to it."""

from __future__ import annotations

import pytest
import trio

from protocol import events
from protocol.channels import Channel
from protocol.errors import MigrationError
from protocol.qemu.returns import (
    PageRequests,
    encode_pong,
    encode_received,
    encode_resume_ack,
    encode_shut,
)
from protocol.states import State
from scripts.configure import parse_address
from scripts.injection.actions import NetworkAction
from scripts.injection.marks import Direction
from scripts.relay.steps import AtByte, Flip, Hold, NamedPage, Release, Requested, Said, Served
from tests import qemu_streams as qemu
from tests.bounds import nothing_left
from tests.qemu_streams import TARGET
from tests.relayed import (
    HEAD_BYTES,
    OPENING,
    SWITCH_OVER,
    Link,
    closings,
    page,
    read,
    record,
    relayed,
)

CUT = NetworkAction("cut", tuple(Channel))
GARBAGE = b"GET / HTTP/1.1\r\n\r\n" * 5000


def named(number: int) -> NamedPage:
    """Return a page of the only block."""
    return NamedPage("ram", number)


def asking(*pages: int) -> bytes:
    """Return the requests for pages, as one connection makes them."""
    requests = PageRequests()
    return b"".join(requests.encode("ram", number * TARGET, TARGET) for number in pages)


def test_a_migration_passes_byte_for_byte() -> None:
    """Both channels and the return path arrive as they were said, and the relay ends with them."""

    async def run() -> None:
        async with relayed() as ends:
            main, urgent = await ends.main(), await ends.connect()
            await main.answer(asking(7, 3))
            await urgent.say(record(7) + qemu.eos())
            await urgent.hears(record(7) + qemu.eos())
            rest = qemu.part(*map(record, (0, 3, 9)), last=True)
            await main.say(rest)
            await main.hears(rest)
            await ends.finish(main)
            for stream in (main.source, main.dest, urgent.source, urgent.dest):
                await stream.aclose()
            await ends.ended.wait()
            assert ends.error is None
            served = [each for each in ends.told.events if isinstance(each, events.RequestServed)]
            assert [(each.page, each.channel) for each in served] == [
                (7, "postcopy"), (3, "precopy"),
            ]  # fmt: skip
            assert ends.told.states[-1] == "completed"
            assert ends.relay.carried[Channel.POSTCOPY] == len(record(7) + qemu.eos())

    with nothing_left():
        trio.run(run)


@pytest.mark.parametrize("first", [b"", b"Q", b"\x16", b"\x16\x03\x01", b"\x11\x22\x33\x44", b"\0"])
def test_what_is_no_migration_passes_too(first: bytes) -> None:
    """Whatever a connection carries, it passes both ways, byte for byte, and the relay stays."""

    async def run() -> None:
        async with relayed() as ends:
            link = await ends.connect()
            # As a connection begins, a byte at a time.
            for index in range(len(first)):
                await link.say(first[index : index + 1])
                await link.hears(first[index : index + 1])
            await link.say(GARBAGE)
            await link.hears(GARBAGE)
            await link.answer(GARBAGE)
            await link.source.send_eof()
            assert await link.dest.receive_some() == b""
            # One way is closed; the other goes on.
            await link.answer(b"still here")
            await link.dest.aclose()
            await link.source.aclose()
            again = await ends.connect()
            await again.say(b"?")
            await again.hears(b"?")
            assert not ends.ended.is_set()
            assert closings(ends.told)[0].forward_bytes == len(first + GARBAGE)
            for stream in (again.source, again.dest):
                await stream.aclose()

    with nothing_left():
        trio.run(run)


def test_garbage_in_a_migration_passes() -> None:
    """A migration of which nothing can be read passes; where it cannot be read is told."""

    async def run() -> None:
        async with relayed() as ends:
            main = await ends.main()
            await main.say(GARBAGE)
            await main.hears(GARBAGE)
            await main.answer(b"\xff\xff\0\0" + GARBAGE)
            assert ends.relay.tracker.unread_count >= 1
            await close(main)

    trio.run(run)


async def close(*links: Link) -> None:
    """Close connections at both ends."""
    for link in links:
        await link.source.aclose()
        await link.dest.aclose()


@pytest.mark.parametrize("byte", [1, 2000, TARGET])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_cut_is_at_its_very_byte(byte: int, *, at_once: bool) -> None:
    """So many bytes of a page arrive before both connections are reset, and not one more."""
    steps = (AtByte(named(5), byte, None, True), CUT)

    async def run() -> None:
        async with relayed(steps) as ends:
            main, urgent = await ends.main(), await ends.connect()
            await urgent.say(record(7))
            await urgent.hears(record(7))
            data = qemu.part(*map(record, (4, 5, 6)))
            for start in range(0, len(data), len(data) if at_once else 1000):
                try:
                    await main.say(data[start:][: len(data) if at_once else 1000])
                except trio.BrokenResourceError:
                    break
            before = data.index(record(5)) + HEAD_BYTES
            assert await main.is_reset() == data[: before + byte]
            assert await urgent.is_reset() == b""
            while ends.relay.tracker.state is not State.POSTCOPY_PAUSED:
                await trio.lowlevel.checkpoint()
            assert {each.reason for each in closings(ends.told)} == {"it was cut by a step"}
            await close(main, urgent)
            # The migration is not over: it may be resumed.
            assert not ends.ended.is_set()

    with nothing_left():
        trio.run(run)


def test_one_connection_can_be_cut_alone() -> None:
    """The preempt connection is cut before it has said a word; the main one goes on."""
    steps = (Said("pong", None), NetworkAction("cut", (Channel.POSTCOPY,)))

    async def run() -> None:
        async with relayed(steps) as ends:
            main = await ends.connect()
            # It is there before the moment comes.
            urgent = await ends.connect()
            await main.say(OPENING + SWITCH_OVER)
            await main.hears(OPENING + SWITCH_OVER)
            await main.answer(encode_pong(3))
            assert await urgent.is_reset() == b""
            await ends.finish(main)
            await close(main, urgent)
            await ends.ended.wait()

    trio.run(run)


@pytest.mark.parametrize("byte", [1, TARGET])
def test_a_half_close_is_at_its_very_byte(byte: int) -> None:
    """The receiver sees the end behind so many bytes, and the other way all goes on.

    What still comes goes nowhere, is nothing that has passed, and keeps nobody from the end.
    """
    half_close = NetworkAction("half-close", (Channel.PRECOPY,), (Direction.FORWARD,))

    async def run() -> None:
        async with relayed((AtByte(named(5), byte, None, True), half_close)) as ends:
            main, urgent = await ends.main(), await ends.connect()
            data = qemu.part(*map(record, (4, 5, 6)))
            await main.say(data)
            passed = data[: data.index(record(5)) + HEAD_BYTES + byte]
            assert await read(main.dest, len(data)) == passed
            await main.say(bytes(1 << 20))
            await main.answer(asking(8))
            await urgent.say(record(8))
            await urgent.hears(record(8))
            await close(main, urgent)
            while ends.relay.tracker.state is not State.POSTCOPY_PAUSED:
                await trio.lowlevel.checkpoint()
            (carried,) = [each for each in closings(ends.told) if each.connection == 1]
            assert carried.forward_bytes == len(OPENING + SWITCH_OVER + passed)

    with nothing_left():
        trio.run(run)


def test_the_return_path_can_be_half_closed() -> None:
    """The source sees the end of the return path, of which nothing comes any more."""
    half_close = NetworkAction("half-close", (Channel.PRECOPY,), (Direction.BACKWARD,))

    async def run() -> None:
        async with relayed((Requested(named(2)), half_close)) as ends:
            main = await ends.main()
            await main.dest.send_all(asking(2, 3))
            assert await read(main.source, 1) == b""
            await main.say(qemu.part(record(5)))
            await main.hears(qemu.part(record(5)))
            await close(main)

    trio.run(run)


def test_a_page_is_held_while_others_pass() -> None:
    """A page that is held up to a byte waits there while another channel carries what is asked."""
    steps = (
        (Said("package", None), Hold(named(5), 1000, (Channel.PRECOPY,))),
        (Served(named(9)), Release(named(5))),
    )

    async def run() -> None:
        async with relayed(*steps) as ends:
            main, urgent = await ends.main(), await ends.connect()
            data = qemu.part(record(5))
            await main.say(data)
            held_at = data.index(record(5)) + HEAD_BYTES + 1000
            await main.hears(data[:held_at])
            await main.answer(asking(8, 9))
            await urgent.say(record(8))
            await urgent.hears(record(8))
            # Nothing but this lets the other go on.
            await urgent.say(record(9))
            await urgent.hears(record(9))
            await main.hears(data[held_at:])
            await close(main, urgent)

    trio.run(run)


def test_a_held_connection_can_be_cut() -> None:
    """A connection that waits before a held byte is cut like any other."""
    steps = (
        (Said("package", None), Hold(named(5), 0, tuple(Channel))),
        (Requested(named(2)), CUT),
    )

    async def run() -> None:
        async with relayed(*steps) as ends:
            main = await ends.main()
            data = qemu.part(record(5))
            await main.say(data)
            await main.hears(data[: data.index(record(5)) + HEAD_BYTES])
            await main.dest.send_all(asking(2))
            assert await main.is_reset() == b""
            await close(main)

    trio.run(run)


def test_the_return_path_can_be_stalled() -> None:
    """A request that meets a stalled return path does not reach the source before it is healed."""
    back = (Direction.BACKWARD,)
    steps = (
        (Requested(named(2)), NetworkAction("stall", tuple(Channel), back)),
        (AtByte(named(9), 1, None, True), NetworkAction("heal", tuple(Channel))),
    )

    async def run() -> None:
        async with relayed(*steps) as ends:
            main = await ends.main()
            await main.dest.send_all(asking(2))
            while not any(isinstance(each, events.Inject) for each in ends.told.events):
                await trio.lowlevel.checkpoint()
            with trio.move_on_after(0.05) as patience:
                await main.source.receive_some()
            assert patience.cancelled_caught, "the request has passed"
            await main.say(qemu.part(record(9)))
            assert await main.source.receive_some() == asking(2)
            await close(main)

    trio.run(run)


def test_what_is_done_to_a_channel_meets_its_first_byte() -> None:
    """A connection that has said nothing yet, beside a main one, is treated as the preempt one."""
    an_hour = NetworkAction("delay", (Channel.POSTCOPY,), (Direction.FORWARD,), by_ms=3_600_000.0)

    async def run() -> None:
        async with relayed((Said("pong", None), an_hour)) as ends:
            main, urgent = await ends.main(), await ends.connect()
            await urgent.say(record(7))
            with trio.move_on_after(0.1) as patience:
                await urgent.dest.receive_some()
            assert patience.cancelled_caught, "its first byte has passed"
            # The other connection is not delayed.
            await main.say(qemu.part(record(9)))
            await main.hears(qemu.part(record(9)))
            await close(main, urgent)

    trio.run(run)


def test_one_bit_is_flipped() -> None:
    """One bit of one byte of a page arrives changed, and everything else as it was."""
    steps = (AtByte(named(5), 3, None, True), Flip(6))

    async def run() -> None:
        async with relayed(steps) as ends:
            main = await ends.main()
            data = qemu.part(record(4), record(5), record(6))
            await main.say(data)
            spoiled = bytearray(page(5))
            spoiled[2] ^= 1 << 6
            await main.hears(data.replace(page(5), bytes(spoiled)))
            await close(main)

    trio.run(run)


def test_a_broken_migration_goes_on() -> None:
    """After a break the source asks what is there, goes on over new connections, and completes."""
    steps = (Said("recv-bitmap", "ram"), CUT)

    async def run() -> None:
        async with relayed(steps) as ends:
            main = await ends.main()
            await main.source.aclose()
            assert await main.dest.receive_some() == b""
            await main.dest.aclose()

            async def ask() -> Link:
                """Have the source ask for the received bitmap, over a new connection."""
                while ends.relay.tracker.state is not State.POSTCOPY_PAUSED:
                    await trio.lowlevel.checkpoint()
                link = await ends.connect()
                await link.say(qemu.command(10, b"\x03ram"))
                await link.hears(qemu.command(10, b"\x03ram"))
                await link.dest.send_all(encode_received("ram", bytes(8)))
                return link

            first = await ask()
            # It is cut behind the received bitmap.
            assert await first.is_reset() == b""
            await close(first)
            again = await ask()
            assert await again.source.receive_some() == encode_received("ram", bytes(8))
            await again.say(qemu.command(9))
            await again.hears(qemu.command(9))
            await again.answer(encode_resume_ack())
            await ends.finish(again)
            await close(again)
            await ends.ended.wait()
            assert ends.relay.tracker.breaks == 2
            recovered = [each for each in ends.told.events if isinstance(each, events.Recovered)]
            assert len(recovered) == 1

    trio.run(run)


def test_a_destination_that_gives_up_is_told() -> None:
    """The word that the destination has failed is the end of the relay, with the reason."""

    async def run() -> None:
        async with relayed() as ends:
            main = await ends.connect()
            await main.say(OPENING)
            await main.hears(OPENING)
            await main.answer(encode_shut(failed=True))
            await close(main)
            await ends.ended.wait()
            assert isinstance(ends.error, MigrationError)
            assert "has given up" in str(ends.error)

    trio.run(run)


def test_nobody_at_the_destination_is_told() -> None:
    """A source whose destination is not there hears a reset; the relay says so and stays."""

    async def run() -> None:
        async with relayed() as ends:
            ends.relay.far[:] = [("127.0.0.1", 1)]
            source = await trio.open_tcp_stream(*parse_address(ends.address, ""))
            with pytest.raises(trio.BrokenResourceError):
                await source.receive_some()
            await source.aclose()
            (lost,) = (each for each in ends.told.events if isinstance(each, events.ChannelLost))
            assert lost.reason == "the destination: Connection refused"
            assert not ends.ended.is_set()

    trio.run(run)
