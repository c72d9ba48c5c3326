"""The destination's side of a migration, step by step: receive, take over the guest, close.

Reads like the sequence diagram in `protocol/README.md`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import trio

from dest.channel import InChannel
from dest.hosted import HostedGuest
from dest.receiver import Receiver
from dest.script import Step
from dest.setup import Plan
from guest import clock
from guest.digest import digest
from guest.interface import Guest
from guest.memory import GuestMemory
from guest.programs import Program
from guest.replay import Written, count_written
from guest.slices import in_thread
from guest.states import decode_states, encode_states
from protocol import events
from protocol.channels import Channel
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.events import Emit
from protocol.limits import CLOSING_SECONDS_MAX
from protocol.messages import (
    Account,
    Bye,
    Finished,
    Ready,
    Running,
    Standing,
    SwitchOver,
    Verdict,
)
from protocol.missing import held_parts, missing_maps
from protocol.records import pack_record, unpack_record
from protocol.report import AccountRecord, DestPart, SourcePart
from protocol.states import Event, Lifecycle, State

# How long the source is given to close first, once it has the last word.
_LINGER_SECONDS_MAX = 2.0

# How long what arrived before a break is read on, once the break is known.
DRAIN_SECONDS_MAX = 0.5
_DRAIN_POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Closing:
    """What both sides said at the end."""

    part: DestPart
    verdict: Verdict
    source: SourcePart


class Migration:
    """One migration; it goes from one *epoch*, a set of connections, to the next.

    `begin` over the first connections and `resume` over the others, and after either `receive` and
    `close`.  The guest is watched all the time, in `watch`.

    Attributes:
        hosted: The guest.
        closing: How it ended, once it has.
        written: Of a guest with an image, what it has changed in the end; None for others.
    """

    def __init__(
        self,
        channels: Mapping[Channel, InChannel],
        plan: Plan,
        memory: GuestMemory,
        guest: Guest,
        lifecycle: Lifecycle,
        emit: Emit,
        steps: tuple[Step, ...],
    ) -> None:
        """Prepare; nothing is received yet."""
        self.closing: Closing | None = None
        self.written: Written | None = None
        self.hosted = HostedGuest(memory, guest, plan, lifecycle, emit, steps)
        self._channels = dict(channels)
        self._plan = plan
        self._memory = memory
        self._guest = guest
        self._lifecycle = lifecycle
        self._emit = emit
        self._keep: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self._touches: Path | None = None
        # Since when a connection is gone, None while all are there.
        self._lost_ns: int | None = None
        self._part: DestPart | None = None
        self._account = b""

    def listen_to(self, touches: Path | None) -> None:
        """Have pages touched that are named in a pipe, too; call it before `watch`."""
        self._touches = touches

    def keep_with(self, keep: Callable[[], Awaitable[None]]) -> None:
        """Have the guest's memory kept before the source is told that it may go."""
        self._keep = keep

    @property
    def channels(self) -> Mapping[Channel, InChannel]:
        """The connections of this epoch."""
        return self._channels

    @property
    def _main(self) -> InChannel:
        return self._channels[Channel.PRECOPY]

    async def watch(self) -> None:
        """Serve the guest, over all epochs, until `close` or a cancellation ends it."""
        await self.hosted.watch(self._touches)

    async def begin(self) -> None:
        """Say ready: pages may come.

        Raises:
            ConnectionLost: The source is gone.
        """
        self.hosted.tell_run()
        await self._main.send(Ready())
        self._lifecycle.fire(Event.PREPARED)

    def interrupt(self) -> None:
        """Take notice that the connections are gone: nothing more comes over them."""
        self._lifecycle.interrupt()
        for channel in self._channels.values():
            channel.close()
        self.hosted.forget_frames(self._lost_ns)

    async def resume(self, channels: Mapping[Channel, InChannel]) -> None:
        """Say over new connections what is here and what is missing, and ask for pages again.

        Raises:
            ConnectionLost: They broke, too.
        """
        self._channels = dict(channels)
        self._lost_ns = None
        self._lifecycle.go_on(Event.RECONNECTED)
        hosted, assembly = self.hosted, self.hosted.engine.assembly
        missing = hosted.missing
        for message, payload in missing_maps(missing) if hosted.handed_over else ():
            await self._main.send(message, payload)
        for part in held_parts(assembly.held_parts):
            await self._main.send(part)
        standing = Standing(
            running=hosted.handed_over,
            target_pages=len(missing) if hosted.handed_over else 0,
            dropped_bytes=assembly.dropped_bytes,
            run_ns=hosted.run_ns,
        )
        await self._main.send(standing)
        hosted.engine.resumed()
        self._lifecycle.go_on(Event.RECOVERED if hosted.handed_over else Event.SWITCH_OVER_AGAIN)
        self._emit(events.Recovered(missing_bytes=missing.length_bytes, running=hosted.handed_over))

    async def receive(self) -> None:
        """Receive everything, run the guest; return when every page is placed.

        Raises:
            ConnectionLost, PeerAborted, RemoteProtocolError, GuestFailed: The migration failed.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.hosted.executor.converse, self._main)
            nursery.start_soon(self._main.send_rests)
            async with trio.open_nursery() as receivers:
                for channel in self._channels.values():
                    receiver = Receiver(
                        channel, self._main, self._plan, self.hosted.executor, self._lifecycle,
                        self._switch_over,
                    )  # fmt: skip
                    receivers.start_soon(self._receive_over, channel, receiver)
            nursery.cancel_scope.cancel()
        await self._finish()

    async def _receive_over(self, channel: InChannel, receiver: Receiver) -> None:
        """Receive over one connection; when it breaks, have the others read what lies here."""
        try:
            await receiver.run()
        except ConnectionLost:
            self._lost_ns = self._lost_ns or clock.now_ns()
            others = [each for each in self._channels.values() if each is not channel]
            for each in others:
                each.stop_gathering()
            with trio.move_on_after(DRAIN_SECONDS_MAX):
                # The kernel tells nobody when a buffer has run empty.
                while any(each.has_unread for each in others):  # noqa: ASYNC110
                    await trio.sleep(_DRAIN_POLL_SECONDS)
            raise

    async def close(self) -> None:
        """Give account of the memory, hear the verdict, keep the guest, say goodbye.

        Raises:
            GuestFailed: It cannot be kept; the source is to hear of that, and not that all is well.
            ConnectionLost, PeerAborted, RemoteProtocolError: The source did not see it through.
        """
        if self._part is None:
            self._part = await self._settle()
        with trio.move_on_after(CLOSING_SECONDS_MAX) as patience:
            await self._main.send(Account(payload_bytes=len(self._account)), self._account)
            verdict = await self._main.receive()
            if not isinstance(verdict, Verdict):
                raise RemoteProtocolError(f"{type(verdict).__name__} came where Verdict was due")
            payload = bytearray(verdict.payload_bytes)
            await self._main.receive_payload(memoryview(payload), lambda _: None)
            source = unpack_record(SourcePart, bytes(payload))
            self.closing = Closing(self._part, verdict, source)
        if patience.cancelled_caught:
            raise RemoteProtocolError(f"no verdict in {CLOSING_SECONDS_MAX:g} s")
        await self._keep()
        await self._main.send(Bye())
        # The source closes first, so that it cannot take our closing for a lost connection.
        orderly = True
        with trio.move_on_after(_LINGER_SECONDS_MAX):
            orderly = await self._main.wait_closed()
        if not orderly:
            raise ConnectionLost("the source may not have heard the last word")

    async def _settle(self) -> DestPart:
        """Bring the guest to a stand for good and make the account of it."""
        snapshot = await self.hosted.stop()
        digests = await in_thread(digest(self._memory))
        spec = self._guest.spec
        if spec.image:
            program = Program(spec, self._memory.geometry)
            counting = count_written(program, self._memory.geometry, snapshot.states)
            self.written = await in_thread(counting)
        part = self.hosted.part()
        self._account = pack_record(
            AccountRecord(
                states=encode_states(snapshot.states),
                digests=tuple(digests),
                first_mismatch=self.hosted.first_mismatch,
                part=part,
            )
        )
        return part

    async def _switch_over(self, message: SwitchOver, device_state: bytes) -> None:
        """Take the guest over: from here on it runs on this side."""
        hosted = self.hosted
        if hosted.handed_over:
            raise RemoteProtocolError("SwitchOver came again")
        states = decode_states(device_state, self._guest.spec.vcpu_count)
        if self._lifecycle.state is State.ACTIVE:
            self._lifecycle.fire(Event.GUEST_STOPPED)
        await hosted.take_over(postcopy=message.postcopy, states=states)
        await self._main.send(Running(run_ns=hosted.run_ns))
        if message.postcopy:
            hosted.tell_missing()

    async def _finish(self) -> None:
        assembly = self.hosted.engine.assembly
        if not self.hosted.handed_over:
            raise RemoteProtocolError("the source has ended without a switch-over")
        if not assembly.complete:
            raise RemoteProtocolError(
                f"the source has ended, {assembly.missing_bytes} bytes are missing"
            )
        finished = Finished(
            pages=self._memory.geometry.page_count,
            target_pages=sum(counts.target_pages for counts in assembly.counts.values()),
            data_bytes=sum(counts.data_bytes for counts in assembly.counts.values()),
        )
        await self._main.send(finished)
        self._lifecycle.go_on(Event.ALL_PLACED)
