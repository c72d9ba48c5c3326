"""A destination whose source is gone: it waits, is resumed, or keeps what it has and says so."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dest.assembly import Assembly
from dest.config import DestConfig
from dest.midstream import MidstreamPeer
from dest.session import DestSession
from protocol import events
from protocol.channels import Channel
from protocol.errors import ConnectionLost, MemoryLost, MidstreamError
from protocol.geometry import TARGET_PAGE_BYTES, PageId
from protocol.messages import (
    Abort,
    End,
    HeldPart,
    MissingMap,
    PageData,
    PageRest,
    Running,
    Standing,
    SwitchOverAck,
    SwitchOverAhead,
)
from protocol.missing import HeldParts, MissingReader
from protocol.report import Result
from protocol.session_messages import offer
from protocol.wire import encode
from tests.bounds import bare, bounded, nothing_left
from tests.guests import HUGE, KIB, FakeGuests, patterned_memory, small_geometry
from tests.sides import HandSource
from tests.stories import Recorder

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
GEOMETRY = small_geometry()


pytestmark = pytest.mark.usefixtures("guests")


class Rig:
    """A destination and a source played by hand."""

    def __init__(self, source: HandSource, **config: Any) -> None:  # noqa: ANN401 - any field
        """Prepare; `run` listens."""
        self.source = source
        self.events = Recorder()
        self.scope = trio.CancelScope()
        self.paused = trio.Event()
        self.result: Result | None = None
        self.error: MidstreamError | None = None
        self.address = ""
        self.held: HeldParts = {}
        self._listening = trio.Event()
        settings: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "backing": "base"}
        dest_config = DestConfig(**(settings | config))
        self._session = DestSession(
            dest_config, MidstreamPeer(dest_config), self.events, self._listens, lambda _: None
        )
        self.events.on(events.State, self._pauses, state="postcopy-paused")

    def _pauses(self) -> None:
        self.paused.set()

    def _listens(self, address: str) -> None:
        self.address = address
        self._listening.set()

    async def run(self) -> None:
        """Serve; keep how that ends."""
        with self.scope:
            try:
                self.result = await self._session.run()
            except MidstreamError as error:
                self.error = bare(error)

    async def reach_device(self) -> None:
        """Connect, and announce the switch-over."""
        await self._listening.wait()
        self.source.capabilities = offer()
        await self.source.connect(self.address)
        await self.source.set_up()
        await self.source.main.send(SwitchOverAhead())
        await self.source.main.expect(SwitchOverAck)

    async def break_off(self) -> None:
        """Lose the connections, once all that was sent has been read."""
        await wait_all_tasks_blocked(0.04)
        self.source.close()
        await self.paused.wait()
        self.paused = trio.Event()

    async def resume(self, attempt: int) -> tuple[Standing, int]:
        """Come back; return where the destination stands, and how much it misses."""
        await self.source.resume(self.address, attempt)
        return await self.hear_standing()

    async def hear_standing(self) -> tuple[Standing, int]:
        """Return where the destination stands, and how much it misses."""
        reader = MissingReader(GEOMETRY)
        while True:
            message, payload = await self.source.main.receive()
            if isinstance(message, MissingMap):
                reader.add(message, payload)
            elif isinstance(message, HeldPart):
                reader.add_part(message)
                self.held = reader.held
            else:
                assert isinstance(message, Standing)
                return message, len(reader.finish(message))


@asynccontextmanager
async def make_rig(**config: Any) -> AsyncIterator[Rig]:  # noqa: ANN401 - any field
    """Run a destination that a test is the source of; nothing of either may stay."""
    await trio.to_thread.run_sync(int)
    with patterned_memory(GEOMETRY) as memory:
        source = HandSource(memory)
        with nothing_left(), bounded():
            try:
                rig = Rig(source, **config)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(rig.run)
                    yield rig
            finally:
                source.close()


@pytest.mark.parametrize("gathered", [False, True])
async def test_a_break_in_the_middle_of_a_target_page(
    guests: FakeGuests, monkeypatch: pytest.MonkeyPatch, gathered: bool
) -> None:
    """What came whole is kept, the rest is missing and comes, and the counts begin anew.

    It is the same where it still lay in the kernel, because too little of it had gathered.
    """
    if not gathered:
        monkeypatch.setattr("dest.channel._UNGATHERED_BYTES_MAX", 1 << 30)
    came = trio.Event()

    def progress(assembly: Assembly, channel: Channel, count: int) -> None:
        real_progress(assembly, channel, count)
        if assembly.received_bytes(PageId(0, 1)) == 266 * KIB:
            came.set()

    real_progress = Assembly.progress
    monkeypatch.setattr(Assembly, "progress", progress)
    async with make_rig() as rig:
        source = rig.source
        await rig.reach_device()
        await source.start_postcopy()
        running = await source.main.expect(Running)
        await source.send_page(PRE, PageId(0, 0))
        # Of the next page a chunk, and of another chunk two target pages and a half.
        await source.send_bytes(PRE, 0, HUGE, 256 * KIB)
        await begin_frame(source, HUGE + 256 * KIB, 10 * KIB)
        if not gathered:
            await came.wait()
        await rig.break_off()
        standing, missing = await rig.resume(1)
        assert came.is_set()
        held = 512 + 64 + 2
        assert standing == Standing(
            running=True, target_pages=GEOMETRY.target_page_count - held, dropped_bytes=0,
            run_ns=running.run_ns,
        )  # fmt: skip
        assert missing == standing.target_pages
        assert rig.held == {(0, 512 + 66): 2 * KIB}
        offset = HUGE + 66 * TARGET_PAGE_BYTES + 2 * KIB
        view = source.memory.views[0][offset : offset + 2 * KIB]
        lacked = PageRest(payload_bytes=len(view), block=0, offset=offset)
        await source.main.send(lacked, bytes(view))
        # The rest of the page goes over the other channel.
        rest = HUGE + (64 + 3) * TARGET_PAGE_BYTES
        for offset in range(rest, 2 * HUGE, 248 * KIB):
            await source.send_bytes(POST, 0, offset, min(248 * KIB, 2 * HUGE - offset))
        await source.send_rest(PageId(0, 0), PageId(0, 1))
        second = 512 - 64 - 3
        first = missing - second
        first_bytes = first * TARGET_PAGE_BYTES - 2 * KIB
        await source.main.send(End(target_pages=first, data_bytes=first_bytes))
        await source.second.send(End(target_pages=second, data_bytes=second * TARGET_PAGE_BYTES))
        await source.hear_account()
        await source.say_verdict()
        source.close()
    assert rig.result is not None
    assert rig.result.problem is None
    assert guests.made[0].calls == ["load", "run", "pause"]
    assert rig.events.kinds(events.ChannelLost, events.Recovered) == [
        events.ChannelLost,
        events.Recovered,
    ]


async def test_a_guest_that_was_not_handed_over(guests: FakeGuests) -> None:
    """After a break before the SwitchOver the destination says that it runs nothing, and waits."""
    async with make_rig() as rig:
        await rig.reach_device()
        await rig.break_off()
        standing, _ = await rig.resume(1)
        assert standing == Standing(running=False, target_pages=0, dropped_bytes=0)
        await rig.source.start_postcopy()
        await rig.source.main.expect(Running)
        assert guests.made[0].calls == ["load", "run"]
        rig.scope.cancel()
        await rig.source.main.wait_closed()
    assert rig.events.states.count("device") == 2


async def test_a_source_that_knows_first() -> None:
    """A source that comes back before the destination has noticed a break is believed."""
    async with make_rig() as rig:
        await rig.reach_device()
        await rig.source.start_postcopy()
        await rig.source.main.expect(Running)
        for attempt in (1, 2):
            old = dict(rig.source.peers)
            standing, _ = await rig.resume(attempt)
            assert standing.running
            for peer in old.values():
                await peer.wait_closed()
                peer.close()
        rig.scope.cancel()
        rig.source.close()


async def test_what_arrived_over_the_other_channel_is_read() -> None:
    """When one connection breaks, what lies in the kernel of the other does not come again."""
    async with make_rig() as rig:
        await rig.reach_device()
        await rig.source.start_postcopy()
        await rig.source.main.expect(Running)
        # More than is read at once, and no turn of the event loop before the other one breaks.
        payload = bytes(4 * TARGET_PAGE_BYTES)
        for offset in range(0, 20 * len(payload), len(payload)):
            head = encode(PageData(payload_bytes=len(payload), block=0, offset=offset))
            assert os.write(rig.source.second.sock.fileno(), head + payload) > len(payload)
        rig.source.main.close()
        await rig.paused.wait()
        rig.source.close()
        _, missing = await rig.resume(1)
        assert missing == GEOMETRY.target_page_count - 20 * 4
        rig.scope.cancel()
        await rig.source.main.wait_closed()


async def test_what_comes_late_over_a_connection_that_is_replaced_is_read() -> None:
    """A source that is back has sent what may still be on its way over its old connections."""
    async with make_rig() as rig:
        await rig.reach_device()
        await rig.source.start_postcopy()
        await rig.source.main.expect(Running)
        old = dict(rig.source.peers)
        await rig.source.resume(rig.address, 1)
        await wait_all_tasks_blocked(0.04)
        payload = bytes(TARGET_PAGE_BYTES)
        with suppress(OSError):
            await old[PRE].send(PageData(payload_bytes=len(payload), block=0, offset=0), payload)
        for peer in old.values():
            peer.close()
        _, missing = await rig.hear_standing()
        assert missing == GEOMETRY.target_page_count - 1
        rig.scope.cancel()
        await rig.source.main.wait_closed()


@pytest.mark.parametrize("how", ["time is up", "the user cancels"])
async def test_a_source_that_does_not_come_back(
    how: str, tmp_path: Path, guests: FakeGuests
) -> None:
    """What is lost is told with its place; what is here is saved, with a map of what is not."""
    save = tmp_path / "guest"
    async with make_rig(save=save, wait_seconds=0.1 if how == "time is up" else 60.0) as rig:
        await rig.reach_device()
        await rig.source.start_postcopy()
        await rig.source.main.expect(Running)
        await rig.source.send_page(PRE, PageId(0, 2))
        await rig.break_off()
        # The guest runs on meanwhile.
        assert guests.made[0].calls == ["load", "run"]
        if how == "the user cancels":
            rig.scope.cancel()
    # A pause would wait for a vCPU that waits for a page.
    assert guests.made[0].calls == ["load", "run", "kill"]
    assert isinstance(rig.error, MemoryLost)
    assert rig.error.exit_status == 4
    assert "memory of the guest is lost: 1568 target pages" in str(rig.error)
    assert "ram 0-1023, ram 1536-2047, rom 0-31" in str(rig.error)
    assert (how == "the user cancels") == ("its user waits no longer" in str(rig.error))
    told = json.loads((tmp_path / "guest.missing.json").read_text())
    assert [block["missing"] for block in told["blocks"]] == [[[0, 1024], [1536, 512]], [[0, 32]]]
    with patterned_memory(GEOMETRY) as memory:
        there = save.read_bytes()
        assert there[2 * HUGE : 3 * HUGE] == bytes(memory.views[0][2 * HUGE : 3 * HUGE])
    end = (
        ["cancelling", "cancelled"] if how == "the user cancels" else ["postcopy-paused", "failed"]
    )
    assert rig.events.states[-2:] == end


async def test_a_guest_that_never_came() -> None:
    """A destination that waited for a switch-over in vain has lost nothing, and fails."""
    async with make_rig(wait_seconds=0.1) as rig:
        await rig.reach_device()
        await rig.break_off()
    assert isinstance(rig.error, ConnectionLost)
    assert "did not come back in 0.1 s" in str(rig.error)


async def test_no_waiting() -> None:
    """Where the user wants no waiting a break is the end, as without the capability."""
    async with make_rig(wait_seconds=0.0) as rig:
        await rig.reach_device()
        await rig.source.start_postcopy()
        await rig.source.main.expect(Running)
        rig.source.close()
    assert isinstance(rig.error, MemoryLost)
    assert rig.events.states[-2:] == ["postcopy-active", "failed"]


async def test_what_makes_no_sense_is_a_break_however_often_it_comes() -> None:
    """Bytes that cannot be read pause the migration, untold, and never end it."""
    async with make_rig() as rig:
        await rig.reach_device()
        await rig.source.start_postcopy()
        await rig.source.main.expect(Running)
        for attempt in range(1, 13):
            await rig.source.main.send_bytes(b"\xff" * 8)
            await rig.source.main.wait_closed()
            await rig.paused.wait()
            rig.paused = trio.Event()
            rig.source.close()
            standing, missing = await rig.resume(attempt)
            assert standing.running
            assert missing == GEOMETRY.target_page_count
        await rig.source.main.send(Abort(reason="enough", cancelled=True))
        await rig.source.main.wait_closed()
    assert isinstance(rig.error, MemoryLost)
    assert "the source ended the migration: enough" in str(rig.error)


async def begin_frame(source: HandSource, offset: int, count: int) -> None:
    """Send the head of a frame of a chunk, and so many of its bytes."""
    head = encode(PageData(payload_bytes=source.chunk_bytes, block=0, offset=offset))
    await source.main.send_bytes(head + bytes(source.memory.views[0][offset : offset + count]))
