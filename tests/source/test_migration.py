"""The source's steps, against a destination that is played by hand and a guest that is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from guest.dirty_log import SoftwareDirtyLog
from guest.interface import GuestSnapshot
from guest.memory import GuestMemory
from protocol import events
from protocol.channels import Channel
from protocol.errors import (
    GaveUp,
    MidstreamError,
    RemoteProtocolError,
    root_cause,
)
from protocol.geometry import TARGET_PAGE_BYTES, PageId
from protocol.messages import (
    Discard,
    Message,
    PageData,
    PageRequest,
    PassAck,
    PassEnd,
    Ready,
    Running,
    Setup,
    Standing,
    SwitchOver,
)
from protocol.policy import preset
from protocol.states import Event, Lifecycle
from source.config import SourceConfig
from source.connect import connect
from source.convergence import SwitchRule
from source.migration import Migration
from source.recovery import Lacking
from source.steering import Steering
from tests.bounds import BOUND_SECONDS
from tests.clocks import trio_ns
from tests.guests import KIB, FakeGuest, bytes_of
from tests.sides import HandDest, hand_dest, source_config
from tests.stories import Recorder

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY

PRECOPY_ONLY = SwitchRule(postcopy_after=None, downtime_ms_max=300)
AFTER_ONE_PASS = SwitchRule(postcopy_after=1, downtime_ms_max=0)


class Rig:
    """A source's migration in its surroundings."""

    def __init__(self, config: SourceConfig, memory: GuestMemory, dest: HandDest) -> None:
        """Put what does not need connections together."""
        self.config = config
        self.memory = memory
        self.dest = dest
        self.events = Recorder()
        self.lifecycle = Lifecycle(self.events)
        self.steering = Steering(config, self.lifecycle, self.events)
        self.migration: Migration

    async def transfer(self, guest: FakeGuest) -> GuestSnapshot:
        """Connect and migrate."""
        config = self.config
        async with (
            connect(config.host, config.port, config.policy) as connections,
            trio.open_nursery() as nursery,
        ):
            self.lifecycle.fire(Event.CONNECTED)
            self.migration = Migration(
                config, self.memory, guest.handle, self.lifecycle, self.events,
                SoftwareDirtyLog(guest.board), self.steering, now_ns=trio_ns,
            )  # fmt: skip
            self.migration.attach(connections)
            for inbox in self.migration.inboxes.values():
                nursery.start_soon(inbox.run)
            snapshot = await self.migration.transfer()
            nursery.cancel_scope.cancel()
        return snapshot

    async def resume(self, standing: Standing, lacking: Lacking) -> None:
        """Go on over new connections."""
        config = self.config
        async with (
            connect(config.host, config.port, config.policy) as connections,
            trio.open_nursery() as nursery,
        ):
            self.migration.attach(connections)
            for inbox in self.migration.inboxes.values():
                nursery.start_soon(inbox.run)
            await self.migration.resume(standing, lacking)
            nursery.cancel_scope.cancel()

    async def fail(self, guest: FakeGuest) -> MidstreamError:
        """Migrate and return why that fails."""
        try:
            await self.transfer(guest)
        except BaseException as error:  # noqa: BLE001 - whatever is in the group
            cause = root_cause(error)
            assert isinstance(cause, MidstreamError), repr(cause)
            return cause
        pytest.fail("the migration ended in success")


@asynccontextmanager
async def make_rig(
    memory: GuestMemory,
    seconds: float = BOUND_SECONDS,
    **changes: Any,  # noqa: ANN401 - any field of the configuration
) -> AsyncIterator[Rig]:
    """Prepare a migration to a hand-played destination; the block is bounded."""
    async with hand_dest(memory.geometry, seconds) as dest:
        config = source_config(memory.geometry, dest.port, **changes)
        yield Rig(config, memory, dest)


def write(memory: GuestMemory, guest: FakeGuest, block: int, target_page: int) -> None:
    """Do what a vCPU does that writes: memory first, then the log."""
    offset = target_page * TARGET_PAGE_BYTES
    memory.views[block][offset : offset + 7] = b"written"
    guest.board.dirty[memory.geometry.flat_target_page(block, target_page)] = 1


async def test_precopy_alone(memory: GuestMemory, guest: FakeGuest) -> None:
    """Without postcopy: a pass, its acknowledgement, the switch-over with nothing left, the end."""
    async with make_rig(memory, rule=PRECOPY_ONLY) as rig:
        snapshot = await rig.transfer(guest)
        assert bytes_of(rig.dest.memory) == bytes_of(memory)
        assert rig.dest.heard_types(PRE) == ["Setup", "PageData", "PassEnd", "SwitchOver", "End"]
        assert rig.dest.heard_types(POST) == ["End"]
        assert snapshot.states == guest.states
        assert guest.calls == ["pause"]
        assert rig.events.states == ["setup", "active", "device", "completed"]
        meter = rig.migration.meter
        assert meter.pass_count == 1
        assert meter.bytes_at_stop is not None
        assert meter.bytes_at_stop > memory.geometry.length_bytes
        marks = (meter.prepared_ns, meter.stopped_ns, meter.running_ns)
        assert list(marks) == sorted(filter(None, marks))


async def test_postcopy_at_once(memory: GuestMemory, guest: FakeGuest) -> None:
    """Without a pass every target page is discarded, and sent once after the switch-over."""
    async with make_rig(memory) as rig:
        await rig.transfer(guest)
        assert bytes_of(rig.dest.memory) == bytes_of(memory)
        assert rig.dest.heard_types(PRE) == ["Setup", "Discard", "SwitchOver", "PageData", "End"]
        discards = [message for _, message in rig.dest.heard if isinstance(message, Discard)]
        counts = [block.target_page_count for block in memory.geometry.blocks]
        assert [(each.first, each.count) for each in discards] == [(0, count) for count in counts]
        assert rig.dest.finished().target_pages == sum(counts)
        assert rig.events.states == ["setup", "active", "device", "postcopy-active", "completed"]
        assert rig.migration.meter.pass_count == 0


async def test_requests_of_postcopy_are_served(memory: GuestMemory, guest: FakeGuest) -> None:
    """A page asked for comes urgently over the postcopy channel, though Running is not yet said."""
    async with make_rig(memory, postcopy_bandwidth=16 * KIB) as rig:

        async def fault_first(_: Message) -> None:
            await rig.dest.main.send(PageRequest(block=0, page=3, target_page=5))
            await rig.dest.main.send(Running())

        rig.dest.instead[SwitchOver] = fault_first
        rig.events.on(
            events.PageSent,
            lambda: setattr(rig.migration._sender.engine.pacer, "bytes_per_second", 0),
        )
        await rig.transfer(guest)
        assert bytes_of(rig.dest.memory) == bytes_of(memory)
        urgent = {
            memory.geometry.page_of(message.block, message.offset // TARGET_PAGE_BYTES)
            for name, message in rig.dest.heard
            if name is POST and isinstance(message, PageData) and message.urgent
        }
        assert urgent == {PageId(0, 3)}
        assert rig.events.of(events.PageSent)[0]["page"] == 3


async def test_a_request_says_which_target_page(memory: GuestMemory, guest: FakeGuest) -> None:
    """Under a critical policy what comes urgently is the target page that the request names."""
    policy = preset("critical-first")
    async with make_rig(memory, postcopy_bandwidth=16 * KIB, policy=policy) as rig:

        async def fault_first(_: Message) -> None:
            await rig.dest.main.send(PageRequest(block=0, page=3, target_page=5))
            await rig.dest.main.send(Running())

        def hurry() -> None:
            rig.migration._sender.engine.pacer.bytes_per_second = 0

        rig.dest.instead[SwitchOver] = fault_first
        rig.events.on(events.PageStart, hurry, page=3, urgent=True)
        await rig.transfer(guest)
        assert bytes_of(rig.dest.memory) == bytes_of(memory)
        (urgent,) = [message for name, message in rig.dest.heard if name is POST][:-1]
        assert isinstance(urgent, PageData)
        assert (urgent.block, urgent.offset) == (0, 3 * (2 << 20) + 5 * TARGET_PAGE_BYTES)
        assert (urgent.payload_bytes, urgent.urgent) == (TARGET_PAGE_BYTES, True)


async def test_what_is_written_meanwhile_comes_again(memory: GuestMemory, guest: FakeGuest) -> None:
    """After a pass only what was written since is discarded and sent once more."""
    async with make_rig(memory, rule=AFTER_ONE_PASS) as rig:
        rig.events.on(events.PassEnd, lambda: write(memory, guest, 0, 1025))
        await rig.transfer(guest)
        assert bytes_of(rig.dest.memory) == bytes_of(memory)
        (discard,) = [message for _, message in rig.dest.heard if isinstance(message, Discard)]
        assert discard.block == 0
        assert rig.dest.finished().target_pages == memory.geometry.target_page_count + 1
        assert rig.migration.meter.dirty_sync_count == 2


async def test_what_is_written_last_goes_before_the_switch_over(
    memory: GuestMemory, guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Precopy alone sends what the guest wrote until it stopped, and only then hands it over."""
    pause = guest.pause

    async def write_and_pause(*, anywhere: bool = False) -> GuestSnapshot:
        write(memory, guest, 1, 31)
        return await pause(anywhere=anywhere)

    monkeypatch.setattr(guest, "pause", write_and_pause)
    async with make_rig(memory, rule=PRECOPY_ONLY) as rig:
        await rig.transfer(guest)
        assert bytes_of(rig.dest.memory) == bytes_of(memory)
        assert rig.dest.heard_types(PRE) == [
            "Setup", "PageData", "PassEnd", "PageData", "SwitchOver", "End",
        ]  # fmt: skip
        assert rig.dest.finished().target_pages == memory.geometry.target_page_count + 1


async def test_a_destination_without_checksums_is_refused(
    memory: GuestMemory, guest: FakeGuest
) -> None:
    """Who wants checksums does not get a migration without them."""
    async with make_rig(memory, checksum=True) as rig:
        error = await rig.fail(guest)
        assert "knows no checksums" in str(error)
        assert rig.dest.heard == []


async def test_one_channel_has_one_end(memory: GuestMemory, guest: FakeGuest) -> None:
    """A policy without a postcopy channel sends everything, and its End, over the other."""
    async with make_rig(memory, policy=preset("vanilla")) as rig:
        await rig.transfer(guest)
        assert bytes_of(rig.dest.memory) == bytes_of(memory)
        assert list(rig.dest.peers) == [PRE]


async def test_precopy_that_does_not_converge_is_given_up(
    memory: GuestMemory, guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that stays dirty is not migrated for ever."""
    monkeypatch.setattr("source.convergence.PASS_COUNT_MAX", 3)
    rule = replace(PRECOPY_ONLY, downtime_ms_max=-1)
    async with make_rig(memory, rule=rule) as rig:
        error = await rig.fail(guest)
        assert isinstance(error, GaveUp)
        assert "given up after" in str(error)
        assert "in pass 4, with 0 B left to send; the guest runs on at the source" in str(error)
        assert guest.calls == []


Deviation = Callable[[HandDest, Message], Awaitable[None]]


async def ack_another_pass(dest: HandDest, message: Message) -> None:
    """Acknowledge what was not sent."""
    assert isinstance(message, PassEnd)
    await dest.main.send(PassAck(index=message.index + 1))


async def be_ready_twice(dest: HandDest, _: Message) -> None:
    """Say Ready where an acknowledgement is due."""
    await dest.main.send(Ready())


async def ask_for_a_page(dest: HandDest, _: Message) -> None:
    """Have a vCPU fault that does not run."""
    await dest.main.send(PageRequest(block=0, page=0, target_page=0))


async def ask_for_nothing(dest: HandDest, _: Message) -> None:
    """Ask for a page that no guest of that size has."""
    await dest.main.send(PageRequest(block=0, page=4, target_page=0))


@pytest.mark.parametrize(
    ("at", "deviation", "rule", "reason"),
    [
        (PassEnd, ack_another_pass, PRECOPY_ONLY, "pass 1 was acknowledged, not pass 0"),
        (PassEnd, be_ready_twice, PRECOPY_ONLY, "Ready came where PassAck was due"),
        (Setup, ask_for_a_page, PRECOPY_ONLY, "PageRequest came in state setup"),
        (PassEnd, ask_for_a_page, PRECOPY_ONLY, "PageRequest came in state active"),
        (SwitchOver, ask_for_nothing, AFTER_ONE_PASS, "page 4 of block 0 is outside the guest"),
        (SwitchOver, be_ready_twice, AFTER_ONE_PASS, "Ready came where Running was due"),
    ],
)
async def test_a_destination_out_of_step_is_refused(
    memory: GuestMemory,
    guest: FakeGuest,
    at: type[Message],
    deviation: Deviation,
    rule: SwitchRule,
    reason: str,
) -> None:
    """An answer that no correct destination gives at that point ends the migration."""
    async with make_rig(memory, rule=rule) as rig:

        async def deviate(message: Message) -> None:
            await deviation(rig.dest, message)

        rig.dest.instead[at] = deviate
        error = await rig.fail(guest)
        assert isinstance(error, RemoteProtocolError)
        assert reason in str(error)


async def test_the_precopy_limit_holds_until_the_guest_stops(
    memory: GuestMemory, guest: FakeGuest, autojump_clock: MockClock
) -> None:
    """A pass keeps to its bandwidth; what is sent while the guest stands still does not."""
    autojump_clock.autojump_threshold = 0.03
    pause = guest.pause
    stopped_at: list[float] = []

    async def write_and_pause(*, anywhere: bool = False) -> GuestSnapshot:
        stopped_at.append(trio.current_time())
        for target_page in range(512):
            write(memory, guest, 0, target_page)
        return await pause(anywhere=anywhere)

    rate = 8 * memory.geometry.length_bytes
    guest.pause = write_and_pause  # type: ignore[method-assign]
    async with make_rig(memory, rule=PRECOPY_ONLY, bandwidth=rate) as rig:
        await rig.transfer(guest)
        # The first burst is free.
        assert stopped_at == [pytest.approx(0.125, abs=0.03)]
        assert trio.current_time() == stopped_at[0]
