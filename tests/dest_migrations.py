"""Migrations of a destination, against a source that is played by hand and may lie."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from dest.admission import Session
from dest.channel import InChannel
from dest.config import DestConfig
from dest.hosted import Room
from dest.keeping import Keeper
from dest.midstream import MidstreamPeer
from dest.migration import Migration
from dest.peer import Plan
from dest.script import Step
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from guest.streams.tcp import TcpStream
from protocol.channels import Channel
from protocol.errors import root_cause
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.messages import Ready
from protocol.policy import preset
from protocol.states import Event, Lifecycle
from tests.bounds import BOUND_SECONDS
from tests.guests import HUGE, FakeGuest, fake_guest, patterned_memory, small_geometry
from tests.sides import SESSION, HandSource
from tests.sockets import Peer, tcp_pair
from tests.stories import Recorder

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY


PER_PAGE = HUGE // TARGET_PAGE_BYTES


class Rig:
    """A destination's migration in its surroundings, and the source that speaks to it."""

    def __init__(
        self, source: HandSource, memory: GuestMemory, guest: FakeGuest, steps: tuple[Step, ...]
    ) -> None:
        """Put what does not need connections together."""
        self.source = source
        self.memory = memory
        self.guest = guest
        self.events = Recorder()
        self.lifecycle = Lifecycle(self.events)
        self.lifecycle.fire(Event.CONNECTED)
        self.session = Session(SESSION)
        self.plan = Plan(memory.geometry, preset(source.policy), source.chunk_bytes, source.spec)
        self.steps = steps
        self.migration: Migration
        self.cause: BaseException | None = None

    def connect(
        self, name: Channel, sockets: tuple[trio.socket.SocketType, trio.socket.SocketType]
    ) -> None:
        """Have a connection that has said hello."""
        channel = self.session.channels[name] = InChannel(TcpStream(sockets[0]))
        channel.name = name
        self.source.peers[name] = Peer(sockets[1])

    async def run(self) -> None:
        """Receive and close; keep why that fails, and end the connections as a session does."""
        try:
            peer = MidstreamPeer(DestConfig(host="", port=0))
            peer.begin(self.session, self.plan)
            room = Room(self.memory, self.guest.handle, Keeper(self.memory, None), "")
            self.migration = Migration(
                peer, self.plan, room, self.lifecycle, self.events, self.steps, wait_seconds=0.0
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.migration.watch)
                await self.migration.run()
                nursery.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - kept for the test
            self.cause = root_cause(error)
        for channel in self.session.channels.values():
            channel.close()


@asynccontextmanager
async def make_rig(
    policy: str = "ordered",
    steps: tuple[Step, ...] = (),
    vcpu_count: int = 4,
    seconds: float = BOUND_SECONDS,
    *,
    both: bool = False,
) -> AsyncIterator[Rig]:
    """Run a migration that a test is the source of; the block is bounded."""
    geometry = small_geometry()
    with (
        patterned_memory(geometry) as theirs,
        GuestMemory.create(geometry, "base") as memory,
        fake_guest(geometry, ProgramSpec(vcpu_count=vcpu_count)) as guest,
        tcp_pair(seconds=seconds) as first,
        tcp_pair(seconds=seconds) as second,
    ):
        source = HandSource(theirs, policy)
        source.spec = guest.spec
        rig = Rig(source, memory, guest, steps)
        rig.connect(PRE, first)
        if both or policy != "vanilla":
            rig.connect(POST, second)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.run)
            await source.main.expect(Ready)
            yield rig


Lie = Callable[[HandSource], Awaitable[None]]
