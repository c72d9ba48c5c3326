"""A whole destination against a QEMU that is played by hand, over real sockets."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
import trio.testing

from dest.config import QemuDestConfig
from dest.qemu.peer import QemuPeer
from dest.session import DestSession
from guest.programs import ProgramSpec
from protocol import events
from protocol.errors import MidstreamError
from protocol.report import Result
from tests import qemu_streams as qemu
from tests.bounds import bare, bounded, nothing_left
from tests.qemu_streams import MIB, TARGET
from tests.stories import Recorder

HUGE = 2 * MIB


BLOCKS = [(b"ram", 2 * HUGE, HUGE), (b"rom", 4 * TARGET, TARGET)]


PER_PAGE = HUGE // TARGET


SHUT_GOOD, SHUT_FAILED = bytes.fromhex("0001000400000000"), bytes.fromhex("0001000400000001")


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


ASK = qemu.command(10, b"\3ram") + qemu.command(10, b"\3rom")


REST = qemu.part(huge(0), huge(1), rom(), last=True) + b"\0"
