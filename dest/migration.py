"""Does what a migration's phases say, over one set of connections after the other.

Nothing is decided here: each step of `dest.phases` is one call, and what came of it goes back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from dest.connection import DRAIN_SECONDS_MAX
from dest.hosted import HostedGuest, Room
from dest.peer import Peer, Plan
from dest.phases import Phases
from dest.script import Step as ScriptStep
from dest.steps import (
    Discard,
    Forget,
    HearVerdict,
    Keep,
    Leave,
    Receive,
    SaveRest,
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
from guest.states import VcpuState, decode_states, encode_states
from guest.streams.exchange import patience
from protocol.channels import Channel
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.events import Emit
from protocol.messages import Account
from protocol.records import pack_record
from protocol.report import AccountRecord
from protocol.states import Lifecycle

_DRAIN_POLL_SECONDS = 0.002

T = TypeVar("T")


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
        self.hosted.priority = peer.channels[Channel.PRECOPY].priority
        self._peer = peer
        self._room = room
        self._lifecycle = lifecycle
        # Since when a connection is gone, None while all are there.
        self._lost_ns: int | None = None

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
        spec = self._room.guest.spec
        states: tuple[VcpuState, ...] = ()
        if device_state is not None:
            states = decode_states(device_state, spec.vcpu_count, spec.kind)
        await self._perform(self.phases.switch_over(states, postcopy=postcopy))

    async def lose(self, cause: BaseException) -> BaseException:
        """Keep what is here of a guest whose migration has failed; return how that is to be told.

        Args:
            cause: Why it has failed.
        """
        return await self._perform(self.phases.lose(cause))

    async def _epoch(self, steps: Steps) -> None:
        """Do steps over the connections of an epoch."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._peer.tend)
            await self._perform(steps)
            nursery.cancel_scope.cancel()

    async def _perform(self, steps: Generator[Step, Any, T]) -> T:
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as stop:
                result: T = stop.value
                return result
            answer = await self._do(step)

    async def _do(self, step: Step) -> Any:  # noqa: ANN401 - each step says what it is answered with
        """Do a step."""
        peer = self._peer
        answer: Any = None
        match step:
            case Say(word, payload):
                await peer.path.send(word, payload)
            case Discard():
                self.hosted.executor.start_postcopy()
            case TakeOver(states):
                answer = await self.hosted.take_over(states)
            case Receive():
                await self._receive(step)
            case Stop(accounted):
                answer = await self._stop(accounted=accounted)
            case HearVerdict(account, seconds):
                with patience(seconds, "no verdict", RemoteProtocolError):
                    await peer.path.send(Account(payload_bytes=len(account)), account)
                    answer = await peer.hear_verdict()
            case Keep():
                await self._room.keeper.save()
            case Leave(seconds):
                answer = True
                with trio.move_on_after(seconds):
                    answer = await peer.channels[Channel.PRECOPY].wait_closed()
            case Forget():
                self.hosted.executor.interrupt()
            case SaveRest():
                answer = await self._save_rest(step)
        return answer

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

    async def _save_rest(self, step: SaveRest) -> str:
        keeper = self._room.keeper
        if keeper.path is not None:
            # Whoever cancels wants no more waiting, and would want the guest.
            with trio.CancelScope(shield=True):
                self.hosted.stop_watching()
                # It has no future, and a vCPU that waits for what is lost could not be paused.
                await self._room.guest.kill()
        return await keeper.save_rest(step.missing, hurried=step.is_hurried)
