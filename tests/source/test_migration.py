"""The steps of a migration, carried out over sockets, against a destination played by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from guest.dirty_log import SoftwareDirtyLog
from guest.interface import GuestSnapshot
from guest.memory import GuestMemory
from protocol import events
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, PageId
from protocol.messages import Discard, Message, PageData, PageRequest, Ready, Running, SwitchOver
from protocol.policy import PRESETS
from protocol.states import Event, Lifecycle
from source.buffering import Buffering
from source.config import SourceConfig
from source.connect import Connections, connect
from source.migration import Migration
from source.steering import Steering
from tests.bounds import BOUND_SECONDS
from tests.clocks import trio_ns
from tests.guests import KIB, FakeGuest, bytes_of
from tests.sides import HandDest, hand_dest, source_config
from tests.source.playbook import AFTER_ONE_PASS, PRECOPY_ONLY
from tests.stories import Recorder

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY


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

    def connect(self) -> AbstractAsyncContextManager[Connections]:
        """Connect."""
        return connect(self.config.host, self.config.port, self.config.policy)

    async def transfer(self, guest: FakeGuest) -> None:
        """Connect and migrate."""
        async with self.connect() as connections, trio.open_nursery() as nursery:
            self.lifecycle.fire(Event.CONNECTED)
            migration = self.migration = Migration(
                self.config, self.memory, guest.handle, self.lifecycle, self.events,
                SoftwareDirtyLog(guest.board), self.steering,
                connect_again=self.connect, now_ns=trio_ns,
            )  # fmt: skip
            migration.attach(connections)
            for connection in connections.values():
                nursery.start_soon(migration.listen, connection)
            await migration.carry_out(migration.phases.transfer())
            nursery.cancel_scope.cancel()


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


async def test_precopy_alone(
    memory: GuestMemory, guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest is stopped, what it wrote last goes before it, and the marks are in their order."""
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
        assert rig.dest.heard_types(POST) == ["End"]
        assert rig.migration.snapshot is not None
        assert rig.migration.snapshot.states == guest.states
        assert guest.calls == ["pause"]
        meter = rig.migration.phases.meter
        marks = (meter.prepared_ns, meter.stopped_ns, meter.running_ns)
        assert list(marks) == sorted(filter(None, marks))


async def test_postcopy_with_requests(memory: GuestMemory, guest: FakeGuest) -> None:
    """A page asked for comes over the postcopy channel, though Running is not yet said."""
    async with make_rig(memory, rule=AFTER_ONE_PASS) as rig:

        async def fault_first(_: Message) -> None:
            await rig.dest.main.send(PageRequest(block=0, page=3, target_page=5))
            await rig.dest.main.send(Running())

        def write_all() -> None:
            for target_page in range(4 * 512):
                write(memory, guest, 0, target_page)

        rig.dest.instead[SwitchOver] = fault_first
        rig.events.on(events.PassEnd, write_all)
        await rig.transfer(guest)
        assert bytes_of(rig.dest.memory) == bytes_of(memory)
        assert any(isinstance(message, Discard) for _, message in rig.dest.heard)
        urgent = {
            memory.geometry.page_of(message.block, message.offset // TARGET_PAGE_BYTES)
            for name, message in rig.dest.heard
            if name is POST and isinstance(message, PageData) and message.urgent
        }
        # It may have been on its way already, and then it came over the other.
        assert urgent <= {PageId(0, 3)}
        assert rig.migration.phases.scheduler.counts.received == 1


@pytest.mark.parametrize("heeds", [False, True])
@pytest.mark.parametrize("name", ["ordered", "vanilla"])
async def test_more_may_lie_in_the_kernel_where_urgent_pages_overtake_it(
    memory: GuestMemory, guest: FakeGuest, monkeypatch: pytest.MonkeyPatch, name: str, heeds: bool
) -> None:
    """Where they have a connection of their own, and this host's queues heed its priority."""
    said: list[bool] = []

    class Asked(Buffering):
        def __init__(self, *, is_overtaken: bool) -> None:
            super().__init__(is_overtaken=is_overtaken)
            said.append(is_overtaken)

    monkeypatch.setattr("source.channel.Buffering", Asked)
    monkeypatch.setattr("guest.streams.tcp.heed_priority", lambda _: heeds)
    async with make_rig(memory, rule=AFTER_ONE_PASS, policy=PRESETS[name]) as rig:
        write(memory, guest, 0, 3)
        await rig.transfer(guest)
    assert said == [heeds and name == "ordered"]


async def test_a_destination_out_of_step_ends_it(memory: GuestMemory, guest: FakeGuest) -> None:
    """What a phase raises is what the caller gets."""
    async with make_rig(memory) as rig:

        async def be_ready_twice(_: Message) -> None:
            await rig.dest.main.send(Ready())

        rig.dest.instead[SwitchOver] = be_ready_twice
        with pytest.raises(BaseExceptionGroup) as caught:
            await rig.transfer(guest)
        error = bare_of(caught.value)
        assert isinstance(error, RemoteProtocolError)
        assert "Ready came where Running was due" in str(error)


def bare_of(group: BaseException) -> BaseException:
    """Return the one error of a group."""
    while isinstance(group, BaseExceptionGroup):
        (group,) = group.exceptions
    return group


async def test_a_new_limit_holds_at_once(
    memory: GuestMemory, guest: FakeGuest, autojump_clock: MockClock
) -> None:
    """What waits for its bandwidth does not wait at the old one; and the limit may be lifted."""
    autojump_clock.autojump_threshold = 0.03
    # A frame takes an hour.
    async with make_rig(
        memory, seconds=1e6, rule=AFTER_ONE_PASS, bandwidth=64 * KIB // 3600, chunk_bytes=64 * KIB
    ) as rig:

        async def lift() -> None:
            await trio.sleep(10)
            await rig.steering.set_limits("max-bandwidth=0")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lift)
            await rig.transfer(guest)
        assert trio.current_time() < 100
