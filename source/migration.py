"""The source's side of a migration, step by step: set up, precopy, switch over, postcopy, close.

Reads like the sequence diagram in `protocol/README.md`.  What to send is decided in `scheduler` and
`convergence`, how it gets onto the wire in `sender`.
"""

from __future__ import annotations

import time

import msgpack

from guest.dirty_log import DirtyLog
from guest.handle import GuestHandle, GuestSnapshot
from guest.memory import GuestMemory
from guest.states import encode_states
from protocol.channels import Channel
from protocol.errors import MigrationError, RemoteProtocolError
from protocol.events import GUEST_STOP, PASS_END, Emit
from protocol.geometry import PageId
from protocol.limits import CLOSING_SECONDS_MAX, DISCARD_BYTES_MAX, SETUP_SECONDS_MAX
from protocol.messages import (
    Discard,
    End,
    Finished,
    PageRequest,
    PassAck,
    PassEnd,
    Ready,
    Running,
    Setup,
    SwitchOver,
)
from protocol.pageset import PageSet
from protocol.states import Event, Lifecycle, State
from source.config import SourceConfig
from source.connect import Connections
from source.convergence import NextStep, expected_downtime_ms
from source.meter import Meter, sent_bytes
from source.pacing import Pacer
from source.returns import Inbox
from source.scheduler import Scheduler
from source.sender import Sender


class Migration:
    """One migration over open connections; `run` once."""

    def __init__(
        self,
        config: SourceConfig,
        memory: GuestMemory,
        guest: GuestHandle,
        connections: Connections,
        lifecycle: Lifecycle,
        emit: Emit,
        dirty_log: DirtyLog,
    ) -> None:
        """Prepare; nothing is sent yet."""
        self.meter = Meter()
        self.scheduler = Scheduler(config.geometry, config.policy, config.chunk_bytes)
        self.inboxes = {
            name: Inbox(connection.returns, self._on_request)
            for name, connection in connections.items()
        }
        self._config = config
        self._memory = memory
        self._guest = guest
        self._connections = connections
        self._lifecycle = lifecycle
        self._emit = emit
        self._dirty_log = dirty_log
        outs = {name: connection.out for name, connection in connections.items()}
        self._sender = Sender(self.scheduler, memory, outs, emit)
        self._main = outs[Channel.PRECOPY]
        self._inbox = self.inboxes[Channel.PRECOPY]

    @property
    def backing(self) -> str:
        """What the guest's memory is made of here."""
        return self._memory.backing

    @property
    def dirty_log(self) -> str:
        """Who logs what the guest writes, "kernel" or "software"."""
        return self._dirty_log.name

    async def transfer(self) -> GuestSnapshot:
        """Bring the guest over; return it as it was when it stopped here.

        Raises:
            ConnectionLost, RemoteProtocolError, GuestFailed: The migration failed.
            MigrationError: Precopy does not converge.
        """
        await self._set_up()
        dirty, step = await self._precopy()
        snapshot = await self._stop_guest(dirty)
        if step is NextStep.POSTCOPY:
            await self._postcopy(snapshot, dirty)
        else:
            await self._finish_precopy(snapshot, dirty)
        await self._end()
        self._dirty_log.stop()
        return snapshot

    async def _set_up(self) -> None:
        blocks = tuple(
            (block.name, block.length_bytes, block.page_bytes)
            for block in self._config.geometry.blocks
        )
        spec = msgpack.packb(self._config.spec.to_plain())
        setup = Setup(
            payload_bytes=len(spec),
            blocks=blocks,
            policy=self._config.policy.name,
            chunk_bytes=self._config.chunk_bytes,
        )
        await self._main.send(setup, spec)
        await self._inbox.expect(Ready, SETUP_SECONDS_MAX)
        self.meter.prepared_ns = time.monotonic_ns()
        self._lifecycle.fire(Event.PREPARED)

    async def _precopy(self) -> tuple[PageSet, NextStep]:
        """Run passes until precopy is over; return what is dirty then, and what comes next."""
        # Everything is dirty at first, so what was written until now says nothing.
        self._dirty_log.start()
        dirty = PageSet(self._config.geometry)
        dirty.fill()
        bytes_per_second = 0.0
        while True:
            step = self._config.rule.decide(
                self.meter.pass_count, dirty.length_bytes, bytes_per_second
            )
            if step is NextStep.GIVE_UP:
                raise MigrationError(
                    f"precopy does not converge: after {self.meter.pass_count} passes "
                    f"{dirty.length_bytes} bytes are dirty"
                )
            if step is not NextStep.ANOTHER_PASS:
                estimate_ms = expected_downtime_ms(dirty.length_bytes, bytes_per_second)
                self.meter.expected_downtime_ms = 0.0 if step is NextStep.POSTCOPY else estimate_ms
                return dirty, step
            bytes_per_second = await self._pass(dirty)
            dirty = PageSet(self._config.geometry)
            self._harvest(dirty)

    async def _pass(self, dirty: PageSet) -> float:
        """Send all that is dirty once; return the bandwidth in bytes a second."""
        self._sender.pacer = Pacer(self._config.bandwidth)
        started_ns = time.monotonic_ns()
        self.scheduler.add(dirty, across_pages=True)
        await self._sender.drain()
        await self._main.send(PassEnd(index=self.meter.pass_count))
        acked = await self._inbox.expect(PassAck, CLOSING_SECONDS_MAX)
        if acked.message.index != self.meter.pass_count:
            raise RemoteProtocolError(
                f"pass {acked.message.index} was acknowledged, not pass {self.meter.pass_count}"
            )
        self.meter.pass_count += 1
        pass_ns = acked.at_ns - started_ns
        self.meter.sending_ns += pass_ns
        self._emit(PASS_END, index=acked.message.index, bytes=dirty.length_bytes, ms=pass_ns / 1e6)
        return dirty.length_bytes / (pass_ns / 1e9)

    async def _stop_guest(self, dirty: PageSet) -> GuestSnapshot:
        """Stop the guest and add its last writes to what is dirty."""
        self.meter.stopped_ns = time.monotonic_ns()
        self._emit(GUEST_STOP)
        self.meter.bytes_at_stop = sent_bytes(self._connections)
        snapshot = await self._guest.pause()
        self._lifecycle.fire(Event.GUEST_STOPPED)
        self._harvest(dirty)
        return snapshot

    def _harvest(self, dirty: PageSet) -> None:
        dirty.add_flat(self._dirty_log.harvest())
        self.meter.dirty_sync_count += 1

    async def _finish_precopy(self, snapshot: GuestSnapshot, dirty: PageSet) -> None:
        """Send the rest while the guest stands still, unpaced, then hand it over."""
        self._sender.pacer = Pacer(0)
        started_ns = time.monotonic_ns()
        self.scheduler.add(dirty, across_pages=True)
        await self._sender.drain()
        await self._switch_over(snapshot, postcopy=False)
        await self._await_running()
        self.meter.sending_ns += self.meter.running_ns - started_ns

    async def _postcopy(self, snapshot: GuestSnapshot, dirty: PageSet) -> None:
        """Hand the guest over, then send what it misses, in the order in which it asks."""
        # Before the guest can run there: a request for a page not yet known here would be taken for
        # one that was sent, and the page would come when the scan gets to it.
        self.scheduler.add(dirty, postcopy=True)
        for block, first, count, bits in dirty.bitmaps(DISCARD_BYTES_MAX * 8):
            discard = Discard(payload_bytes=len(bits), block=block, first=first, count=count)
            await self._main.send(discard, bits)
        await self._switch_over(snapshot, postcopy=True)
        self._lifecycle.fire(Event.POSTCOPY_STARTED)
        self._main.keep_little_in_the_kernel()
        self._sender.pacer = Pacer(self._config.postcopy_bandwidth)
        started_ns = time.monotonic_ns()
        await self._sender.drain()
        self.meter.sending_ns += time.monotonic_ns() - started_ns
        await self._await_running()

    async def _switch_over(self, snapshot: GuestSnapshot, *, postcopy: bool) -> None:
        state = encode_states(snapshot.states)
        await self._main.send(SwitchOver(payload_bytes=len(state), postcopy=postcopy), state)
        self.meter.bytes_at_switch_over = sent_bytes(self._connections)

    async def _await_running(self) -> None:
        running = await self._inbox.expect(Running, CLOSING_SECONDS_MAX)
        self.meter.running_ns = running.at_ns

    async def _end(self) -> None:
        """Say that all was sent; believe that all was placed only when both counted the same."""
        outs = [connection.out for connection in self._connections.values()]
        for out in outs:
            await out.send(End(target_pages=out.target_pages_sent, data_bytes=out.data_bytes_sent))
        finished = await self._inbox.expect(Finished, CLOSING_SECONDS_MAX)
        ours = Finished(
            pages=self._config.geometry.page_count,
            target_pages=sum(out.target_pages_sent for out in outs),
            data_bytes=sum(out.data_bytes_sent for out in outs),
        )
        if finished.message != ours:
            raise RemoteProtocolError(
                f"the destination counted {finished.message}, this side {ours}"
            )
        self.meter.finished_ns = finished.at_ns
        self._lifecycle.fire(Event.ALL_PLACED)

    def _on_request(self, request: PageRequest) -> None:
        # One may come before this side has noted that its SwitchOver is sent.
        if self._lifecycle.state not in (State.DEVICE, State.POSTCOPY_ACTIVE):
            raise RemoteProtocolError(
                f"PageRequest came in state {self._lifecycle.state.value}, no vCPU runs there"
            )
        self._sender.request(PageId(request.block, request.page), request.target_page)
