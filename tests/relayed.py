"""Both ends of a relay for tests, without QEMUs: what a source and a destination would say."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from protocol import events
from protocol.errors import MidstreamError
from protocol.qemu.returns import encode_pong, encode_shut
from scripts.configure import parse_address
from scripts.relay.relay import Relay
from scripts.relay.steps import Action, Step, When
from tests import qemu_streams as qemu
from tests.bounds import bounded
from tests.qemu_streams import TARGET
from tests.stories import Recorder

PAGES = 16
BLOCKS = [(b"ram", PAGES * TARGET, TARGET)]
OPENING = qemu.head() + qemu.command(1) + qemu.advise() + qemu.start(BLOCKS)
SWITCH_OVER = qemu.discard(b"ram", (0, PAGES * TARGET)) + qemu.package(3)


def page(number: int) -> bytes:
    """Return what a page holds."""
    return bytes([0x80 + number]) * TARGET


def record(number: int) -> bytes:
    """Return a page's record, which names its block."""
    return qemu.page(number * TARGET, page(number), b"ram")


HEAD_BYTES = len(record(0)) - TARGET
PING = struct.pack(">I", 1)


@dataclass
class Link:
    """One connection through the relay, as both of its ends have it."""

    source: trio.SocketStream
    dest: trio.SocketStream

    async def say(self, data: bytes) -> None:
        """Have the source say something."""
        await self.source.send_all(data)

    async def hears(self, data: bytes) -> None:
        """Check that this is what the destination hears next."""
        assert await read(self.dest, len(data)) == data

    async def answer(self, data: bytes) -> None:
        """Have the destination say something, and the source hear it."""
        await self.dest.send_all(data)
        assert await read(self.source, len(data)) == data

    async def is_reset(self) -> bytes:
        """Return what the destination still hears before its connection is reset."""
        heard = b""
        try:
            while data := await self.dest.receive_some():
                heard += data
        except trio.BrokenResourceError:
            return heard
        raise AssertionError("it was closed, and not reset")


async def read(stream: trio.SocketStream, count: int) -> bytes:
    """Return so many bytes, or what there is before the end."""
    data = b""
    while len(data) < count and (more := await stream.receive_some(count - len(data))):
        data += more
    return data


class Ends:
    """A relay, and who connects through it."""

    def __init__(self, relay: Relay, told: Recorder, listener: trio.SocketListener) -> None:
        """Take what `relayed` has made."""
        self.relay, self.told = relay, told
        self.error: MidstreamError | None = None
        self.ended = trio.Event()
        self.address = ""
        self._listener = listener
        self._events = trio.lowlevel.ParkingLot()

    async def connect(self) -> Link:
        """Open a connection."""
        source = await trio.open_tcp_stream(*parse_address(self.address, ""))
        return Link(source, await self._listener.accept())

    async def main(self) -> Link:
        """Open the main connection, up to postcopy."""
        link = await self.connect()
        await link.say(OPENING + SWITCH_OVER)
        await link.hears(OPENING + SWITCH_OVER)
        await link.answer(encode_pong(3))
        return link

    async def finish(self, main: Link) -> None:
        """Have a migration end well."""
        await main.say(b"\0")
        await main.hears(b"\0")
        await main.answer(encode_shut(failed=False))

    async def run(self, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the relay; keep how that ends."""
        try:
            await self.relay.run("127.0.0.1", 0, task_status.started)
        except MidstreamError as error:
            self.error = error
        self.ended.set()


@asynccontextmanager
async def relayed(*steps: tuple[When, Action]) -> AsyncIterator[Ends]:
    """Run a relay that does these steps; nothing of it is left behind."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        host, port = listener.socket.getsockname()
        told = Recorder()
        done: Sequence[Step] = [Step(number, number, *step) for number, step in enumerate(steps, 1)]
        ends = Ends(Relay([(host, port)], told, done), told, listener)
        with bounded():
            async with trio.open_nursery() as nursery:
                ends.address = await nursery.start(ends.run)
                yield ends
                nursery.cancel_scope.cancel()


def closings(told: Recorder) -> list[events.PeerConnection]:
    """Return what was told of connections that have closed."""
    return [
        each
        for each in told.events
        if isinstance(each, events.PeerConnection) and each.now == "closed"
    ]
