"""Carries out the phases of a migration: streams, guest, dirty log, and the time.

Every step is: do it, say what came of it and what time it is.  What is done when, and what follows
from what happens, is decided in `phases`, `verification` and `endings`.
"""

from __future__ import annotations

import resource
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import TypeVar

import trio

from guest import clock
from guest.busy_poll import BusyPoll
from guest.dirty_log import DirtyLog
from guest.interface import Guest, GuestSnapshot
from guest.memory import GuestMemory
from guest.processor import ProcessorUse
from guest.states import encode_states
from guest.streams.keepalive import keep_alive
from guest.streams.stream import NOT_ASKED
from protocol.channels import Channel
from protocol.errors import MidstreamError, PeerAborted
from protocol.events import Emit
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.messages import Abort, Message, PageRequest
from protocol.report import SourcePart
from protocol.states import Lifecycle
from source.carrying import carry_out
from source.closing import compare
from source.config import SourceConfig
from source.connect import Connection, Connections
from source.phases import Phases
from source.reporting import Surroundings, source_part
from source.sender import Sender
from source.steering import Steering
from source.steps import (
    Compare,
    Comparison,
    Do,
    Drain,
    Farewell,
    Received,
    Report,
    Say,
    Step,
    Steps,
)

T = TypeVar("T")

# How long the peer is given to take the reason why a session ends, or to say its own.
FAREWELL_SECONDS_MAX = 1.0


class Migration:
    """The hands of one migration; it goes from one set of connections to the next.

    `attach` those, have a task `listen` to each, and `carry_out` phases.

    Attributes:
        phases: Decides.
        epochs: The connections of all epochs, the present ones last.
        memory: The guest's.
        snapshot: The guest as it was when it stopped here; None before.
        busy_poll: Keeps the event loop awake while requests come.
        processor: This thread's use of processors, while pages are sent.
        paused_ns: How long a connection was gone so far, over all breaks.
    """

    def __init__(  # noqa: PLR0913 - the clock is the tests' alone
        self,
        config: SourceConfig,
        memory: GuestMemory,
        guest: Guest,
        lifecycle: Lifecycle,
        emit: Emit,
        dirty_log: DirtyLog,
        steering: Steering,
        *,
        connect_again: Callable[[], AbstractAsyncContextManager[Connections]],
        guest_reason: str = "",
        now_ns: Callable[[], int] = clock.now_ns,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            config: What the user said at the start.
            memory: The guest's.
            guest: Runs it.
            lifecycle: Where the migration is.
            emit: Takes events.
            dirty_log: Knows what the guest writes.
            steering: What the user says while it goes on.
            connect_again: Opens connections that resume the session, once.
            guest_reason: Why the guest is of no better kind, for the report.
            now_ns: Tells the time, by a clock that goes as fast as trio's.
        """
        self.phases = Phases(config, memory, lifecycle, emit, steering, now_ns())
        self.epochs: list[Connections] = []
        self.memory = memory
        self.snapshot: GuestSnapshot | None = None
        self.busy_poll = BusyPoll(yields=False)
        self.processor = ProcessorUse()
        self.paused_ns = 0
        self._steering = steering
        self._config = config
        self._guest = guest
        self._guest_reason = guest_reason
        self._dirty_log = dirty_log
        self._connect_again = connect_again
        self._now_ns = now_ns
        self._keeps_alive = trio.Event()
        # Here a phase waits for a message.
        self._mail = trio.lowlevel.ParkingLot()
        self._by_word: dict[Do, Callable[[], Awaitable[object]]] = {
            Do.HEAR: self._hear,
            Do.STOP_GUEST: self._stop_guest,
            Do.RUN_GUEST: guest.run,
            Do.START_LOG: _at_once(dirty_log.start),
            Do.HARVEST: _at_once(dirty_log.harvest),
            Do.STOP_LOG: _at_once(dirty_log.stop),
            Do.KEEP_LITTLE: self._keep_little,
            Do.KEEP_ALIVE: _at_once(self._keeps_alive.set),
            Do.READ_ON: self._read_on,
        }
        steering.on_change = self._heed_limits

    def attach(self, connections: Connections) -> None:
        """Take the connections of a new epoch."""
        self.epochs.append(connections)
        self._outs = {name: connection.out for name, connection in connections.items()}
        main = connections[Channel.PRECOPY]
        self.phases.attach(self._outs, main.capabilities, self._now_ns())
        self._sender = Sender(self.phases.epoch.sending, self._outs, self._now_ns)
        # The digests in the account are in proportion to the guest: 16 bytes for 2 MiB.
        room_bytes = self._config.geometry.length_bytes // TARGET_PAGE_BYTES
        main.returns.payload_bytes_max += room_bytes

    def part(self, comparison: Comparison | None = None) -> SourcePart:
        """Return this side's part of the report as it is by now.

        Args:
            comparison: How the memory compared with the destination's; None if it was not.
        """
        counters = self.snapshot.counters if self.snapshot is not None else ()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        urgent = self.epochs[-1].get(Channel.POSTCOPY) if self.epochs else None
        around = Surroundings(
            self.memory.backing,
            self._dirty_log.name,
            sum(each[Channel.PRECOPY].returns.bytes_received for each in self.epochs),
            sum(each.reads_checked for each in counters),
            sum(each.mismatches for each in counters),
            usage.ru_utime + usage.ru_stime,
            urgent.priority if urgent is not None else NOT_ASKED,
            trace_left=self._trace_left(),
            paused_ms=self.paused_ns / 1e6,
            limits=(self._steering.bandwidth, self._steering.postcopy_bandwidth),
            processor=self.processor.share(self.busy_poll.polled_ns),
            guest_kind=self._guest.spec.kind,
            guest_reason=self._guest_reason,
        )
        return source_part(self._config, self.phases, around, self._now_ns(), comparison)

    def _trace_left(self) -> int | None:
        trace = self._config.spec.trace
        if trace is None or self.snapshot is None:
            return None
        return trace.left_after([state.step for state in self.snapshot.states])

    async def carry_out(self, steps: Steps[T]) -> T:
        """Carry a phase out over the present connections; return what it comes to."""
        return await carry_out(steps, self._do, self.phases.now, self._now_ns)

    async def recover(self, connections: Connections, steps: Steps[T]) -> T:
        """Carry a phase out over connections that are not attached yet, by reading on."""

        async def do(step: Step) -> object:
            if isinstance(step, Farewell):
                await _say_farewell(connections, step)
                return None
            message, payload = await connections[Channel.PRECOPY].returns.receive()
            return Received(message, payload, self._now_ns())

        return await carry_out(steps, do, self.phases.now, self._now_ns)

    async def listen(self, connection: Connection) -> None:
        """Hand on what comes back over a connection, until cancelled.

        Raises:
            ConnectionLost, PeerAborted, RemoteProtocolError: As `ReturnPath.receive`.
        """
        returns = connection.returns
        returns.on_idle = self._serve
        while True:
            message, payload = await returns.receive()
            if isinstance(message, PageRequest):
                self._on_request(message)
            else:
                self.phases.hear(connection.name, Received(message, payload, self._now_ns()))
                self._mail.unpark_all()

    async def tell_answers(self) -> None:
        """Tell the destination what became of its requests, until cancelled; once an epoch.

        Raises:
            ConnectionLost: The connection is broken.
        """
        await self._sender.tell()

    async def keep_alive(self, connection: Connection) -> None:
        """Give signs of life over a connection, and heed its own, until cancelled.

        Raises:
            ConnectionLost: The destination has been silent for too long.
        """
        await self._keeps_alive.wait()
        await keep_alive(connection, "destination", self._config.silence_seconds_max)

    def _on_request(self, request: PageRequest) -> None:
        self.busy_poll.prolong()
        while (look := self.phases.request(request, self._now_ns())) is not None:
            self._sender.look(look)
        self._sender.note_untold()

    def _serve(self) -> None:
        self._sender.serve()

    def _heed_limits(self) -> None:
        self.phases.limits_changed(self._now_ns())
        self._sender.rouse()

    async def _do(self, step: Step) -> object:
        """Do a step; return what came of it."""
        match step:
            case Do():
                return await self._by_word[step]()
            case Say(message, payload, channel):
                await self._outs[channel].send(message, payload)
            case Drain(until):
                await self._sender.drain(until=until)
            case Compare(account):
                assert self.snapshot is not None, "what is compared was handed over"
                return await compare(
                    account, self.memory, self._config.spec, self.snapshot,
                    wants_accessed=self.phases.scheduler.prefetched is not None,
                )  # fmt: skip
            case Report(comparison):
                return self.part(comparison)
            case Farewell(anew=False):
                await _say_farewell(self.epochs[-1], step)
            case Farewell():
                await self._say_farewell_anew(step)
        return None

    async def _stop_guest(self) -> bytes:
        self.snapshot = await self._guest.pause(anywhere=True)
        return encode_states(self.snapshot.states)

    async def _keep_little(self) -> None:
        urgent = self._outs.get(Channel.POSTCOPY)
        is_overtaken = urgent is not None and urgent.overtakes()
        self._outs[Channel.PRECOPY].keep_little_in_the_kernel(is_overtaken=is_overtaken)

    async def _hear(self) -> Received[Message]:
        while (received := self.phases.epoch.heard()) is None:
            await self._mail.park()
        return received

    async def _read_on(self) -> PeerAborted | None:
        """Return why the destination ended it, if that comes within a moment."""
        with trio.move_on_after(FAREWELL_SECONDS_MAX):
            try:
                while True:
                    await self.epochs[-1][Channel.PRECOPY].returns.receive()
            except PeerAborted as abort:
                return abort
            except MidstreamError:
                return None
        return None

    async def _say_farewell_anew(self, farewell: Farewell) -> None:
        with trio.move_on_after(FAREWELL_SECONDS_MAX), suppress(MidstreamError):
            async with self._connect_again() as connections:
                await _say_farewell(connections, farewell)


async def _say_farewell(connections: Connections, farewell: Farewell) -> None:
    """Tell the destination that this ends, for as long as it may take; cannot be cancelled."""
    connection = connections[Channel.PRECOPY]
    with trio.move_on_after(FAREWELL_SECONDS_MAX) as scope, suppress(MidstreamError):
        scope.shield = True
        # A page that was broken off ends first, or the reason would land in its bytes.
        await connection.out.finish_open_frame()
        await connection.out.send(Abort(reason=farewell.reason, cancelled=farewell.cancelled))
        # To close a connection whose bytes were not all read is to throw away what is still on its
        # way to the other side; so the destination closes first.
        await connection.returns.wait_closed()


def _at_once(call: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    """Return what does something that takes no time, for who awaits it."""

    async def do() -> object:
        return call()

    return do
