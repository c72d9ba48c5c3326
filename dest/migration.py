"""Does what a migration's phases say, over one set of connections after the other.

Nothing is decided here: each step of `dest.phases` is one call, and what came of it goes back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from dest.connection import DRAIN_SECONDS_MAX
from dest.hosted import HostedGuest, Room
from dest.peer import Peer, Plan
from dest.phases import Phases
from dest.script import Step as ScriptStep
from dest.steps import (
    Discard,
    HearVerdict,
    Keep,
    Leave,
    Receive,
    Say,
    Step,
    Steps,
    Stood,
    Stop,
    TakeOver,
)
from guest import clock
from guest.digest import digest
from guest.programs import Program
from guest.replay import Written, count_written
from guest.slices import in_thread
from guest.states import decode_states, encode_states
from guest.streams.exchange import patience
from protocol.channels import Channel
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.events import Emit
from protocol.messages import Account
from protocol.pageset import PageSet
from protocol.records import pack_record
from protocol.report import AccountRecord
from protocol.states import Lifecycle

_DRAIN_POLL_SECONDS = 0.002


class Migration:
    """One migration: `run` it, and `watch` its guest all the time.

    Attributes:
        hosted: The guest.
        phases: What is done next, and how far it is.
        written: Of a guest with an image, what it has changed in the end; None for others.
    """

    def __init__(
        self,
        peer: Peer,
        plan: Plan,
        room: Room,
        lifecycle: Lifecycle,
        emit: Emit,
        steps: tuple[ScriptStep, ...],
        *,
        wait_seconds: float,
    ) -> None:
        """Prepare; nothing is received yet.

        Args:
            peer: Whom the guest comes from; its first connections are there.
            plan: What comes.
            room: Where to.
            lifecycle: The migration's state.
            emit: Takes events.
            steps: Scripted faults.
            wait_seconds: How long the peer is waited for after breaks; 0 for not at all.
        """
        self.written: Written | None = None
        self.hosted = HostedGuest(room, plan, emit, steps)
        self.phases = Phases(
            plan.geometry, self.hosted.engine, lifecycle, emit, peer.terms(), wait_seconds
        )
        self._peer = peer
        self._room = room
        self._lifecycle = lifecycle
        # Since when a connection is gone, None while all are there.
        self._lost_ns: int | None = None

    @property
    def paused(self) -> bool:
        """Whether the peer is waited for."""
        return self.phases.is_paused

    @property
    def handed_over(self) -> bool:
        """Whether the guest is this side's."""
        return self.phases.handed_over

    @property
    def missing(self) -> PageSet:
        """What of the guest's memory has not come."""
        return self.phases.missing

    def forget_frames(self) -> None:
        """Count what is half-received as missing: no more of it will come."""
        self.hosted.executor.interrupt()

    def stop_watching(self) -> None:
        """Hear no more of the guest."""
        self.hosted.stop_watching()

    async def watch(self, touches: Path | None = None) -> None:
        """Serve the guest, over all epochs, until it stands for good or this is cancelled.

        Args:
            touches: A pipe through which pages to touch come; None for none.
        """
        await self.hosted.watch(touches)

    async def run(self) -> None:
        """Migrate; return when the peer has the last word, or was given the time to hear it.

        Raises:
            ConnectionLost: A connection is lost, and no other came in its place.
            PeerAborted, RemoteProtocolError, GuestFailed: The migration failed.
        """
        self.hosted.tell_run()
        steps = self.phases.begin()
        while True:
            try:
                await self._epoch(steps)
            except BaseException as error:  # noqa: BLE001 - raised again, if that is the end
                self.phases.broke(error)
            else:
                return
            self._peer.hang_up()
            self.hosted.executor.interrupt(self._lost_ns)
            self._lost_ns = None
            with trio.move_on_after(self.phases.pause(trio.current_time())) as waiting:
                await self._peer.come_back(self.phases.missing)
            if waiting.cancelled_caught:
                self.phases.gave_up()
                return
            steps = self.phases.resume(trio.current_time())

    async def stopping(self) -> None:
        """See `dest.peer.Turns`."""
        await self._perform(self.phases.stopping(clock.now_ns()))

    async def switch_over(self, device_state: bytes | None, *, postcopy: bool) -> None:
        """See `dest.peer.Turns`."""
        vcpu_count = self._room.guest.spec.vcpu_count
        states = () if device_state is None else decode_states(device_state, vcpu_count)
        await self._perform(self.phases.switch_over(states, postcopy=postcopy))

    async def _epoch(self, steps: Steps) -> None:
        """Do steps over the connections of an epoch."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._peer.tend)
            await self._perform(steps)
            nursery.cancel_scope.cancel()

    async def _perform(self, steps: Steps) -> None:
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                return
            answer = await self._do(step)

    async def _do(self, step: Step) -> Any:  # noqa: ANN401 - each step says what it is answered with
        """Do a step."""
        match step:
            case Say(word, payload):
                await self._peer.path.send(word, payload)
            case Discard():
                self.hosted.executor.start_postcopy()
            case TakeOver(states):
                return await self.hosted.take_over(states)
            case Receive():
                await self._receive(step)
            case Stop(accounted):
                return await self._stop(accounted=accounted)
            case HearVerdict(account, seconds):
                with patience(seconds, "no verdict", RemoteProtocolError):
                    word = Account(payload_bytes=len(account))
                    await self._peer.path.send(word, account)
                    return await self._peer.hear_verdict()
            case Keep():
                await self._room.keeper.save()
            case Leave(seconds):
                with trio.move_on_after(seconds):
                    return await self._peer.channels[Channel.PRECOPY].wait_closed()
                return True
        return None

    async def _receive(self, step: Receive) -> None:
        executor, path = self.hosted.executor, self._peer.path
        readers = self._peer.readers(executor, self, self._lifecycle)
        ended = {name: trio.Event() for name in readers}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._over, None, partial(executor.converse, path))
            nursery.start_soon(self._peer.channels[Channel.PRECOPY].send_rests)
            for name, read in readers.items():
                nursery.start_soon(self._over, name, read, ended[name])
            for name in step.ending:
                await ended[name].wait()
            with trio.move_on_after(step.rest_seconds):
                await executor.wait_complete()
            nursery.cancel_scope.cancel()

    async def _over(
        self,
        name: Channel | None,
        task: Callable[[], Awaitable[None]],
        ended: trio.Event | None = None,
    ) -> None:
        """Use one connection; when it breaks, have what lies here of the others read."""
        try:
            await task()
        except ConnectionLost:
            self._lost_ns = self._lost_ns or clock.now_ns()
            others = [each for other, each in self._peer.channels.items() if other is not name]
            for each in others:
                each.stop_gathering()
            with trio.move_on_after(DRAIN_SECONDS_MAX):
                # The kernel tells nobody when a buffer has run empty.
                while any(each.has_unread for each in others):  # noqa: ASYNC110
                    await trio.sleep(_DRAIN_POLL_SECONDS)
            raise
        if ended is not None:
            ended.set()

    async def _stop(self, *, accounted: bool) -> Stood:
        """Bring the guest to a stand for good, and make an account of it, if one is wanted."""
        snapshot = await self.hosted.stop()
        if not accounted:
            return Stood(self.hosted.part(), b"")
        memory, spec = self._room.memory, self._room.guest.spec
        digests = await in_thread(digest(memory))
        if spec.image:
            program = Program(spec, memory.geometry)
            counting = count_written(program, memory.geometry, snapshot.states)
            self.written = await in_thread(counting)
        part = self.hosted.part()
        record = AccountRecord(
            states=encode_states(snapshot.states),
            digests=tuple(digests),
            first_mismatch=self.hosted.first_mismatch,
            part=part,
        )
        return Stood(part, pack_record(record))
