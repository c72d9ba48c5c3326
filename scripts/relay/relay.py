"""Stands between a source and a destination that are both QEMUs, for one migration.

Connections are passed on in the order in which they come: a QEMU of before 8.0 tells them apart by
nothing else.  Each has a pump for either direction; what the four of a migration have in common is
a `Tracker`, a `Director` and a gate for each channel and direction.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Sequence

import trio

from protocol import events
from protocol.addresses import host_port
from protocol.channels import Channel
from protocol.errors import MidstreamError, MigrationError, root_cause
from protocol.events import Emit
from protocol.states import State
from scripts.injection.actions import NetworkAction
from scripts.injection.gates import Gate
from scripts.injection.marks import Direction
from scripts.injection.pipes import reset_on_close, unacknowledged_bytes
from scripts.links.throttle import Bucket
from scripts.relay.courses import Backward, Forward
from scripts.relay.director import Director
from scripts.relay.pump import Pump
from scripts.relay.steps import NamedPage, Step, Touch
from scripts.relay.tracker import Tracker

# What went before a cut arrives before it, if the other end reads it.
_DRAIN_SECONDS_MAX = 1.0
_DRAIN_POLL_SECONDS = 0.0005

_CONNECT_SECONDS_MAX = 10.0
_PROGRESS_SECONDS = 0.25

# A migration has two; the rest is room for those that have not closed yet.
_CONNECTIONS_MAX = 64

Address = tuple[str, int]


class Relay:
    """One migration between two QEMUs; `run` it."""

    def __init__(
        self,
        far: Sequence[Address],
        emit: Emit,
        steps: Sequence[Step] = (),
        window_bytes: int = 0,
        touch: Callable[[Touch], None] = lambda _: None,
    ) -> None:
        """Prepare; nothing listens yet.

        Args:
            far: Where the destination listens; each is tried in turn, for a destination that
                recovers may listen elsewhere.
            emit: Takes events.
            steps: What is done to the connections.
            window_bytes: What each connection's sockets may hold, about; 0 for what the kernel
                lets them.
            touch: Has the destination's pages touched, for who has that in its hands.
        """
        self._touch = touch
        self.tracker = Tracker(self._heard)
        self.far = list(far)
        self._emit = emit
        self._window_bytes = window_bytes
        self._director = Director(steps, emit, self._act, self._wake)
        self._gates = {
            (channel, direction): Gate(0) for channel in (None, *Channel) for direction in Direction
        }
        self._connections: set[_Connection] = set()
        self._nursery: trio.Nursery | None = None
        self._changed = trio.lowlevel.ParkingLot()
        self.carried = dict.fromkeys(Channel, 0)
        self.returned_bytes = 0

    @property
    def undone(self) -> list[Step]:
        """The steps that have not happened."""
        return self._director.pending

    async def run(self, host: str, port: int, on_listening: Callable[[str], None]) -> None:
        """Pass one migration on, to its end; cancelling resets what is open.

        Args:
            host: Where to listen.
            port: On which port, 0 for any.
            on_listening: Called with HOST:PORT when connections may come.

        Raises:
            MidstreamError: Nobody can listen there, or the migration failed as it was seen here.
        """
        with self._listen(host, port) as listener:
            on_listening(host_port(*listener.getsockname()[:2]))
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._accept, listener)
                self._nursery.start_soon(self._tell_progress)
                while not self._is_over:
                    await self._changed.park()
                self._nursery.cancel_scope.cancel()
        self.tracker.tell_progress()
        if self.tracker.state is State.FAILED:
            raise MigrationError(f"the migration failed: {self.tracker.reason}")

    @property
    def _is_over(self) -> bool:
        return not self._connections and self.tracker.state in {State.COMPLETED, State.FAILED}

    def _listen(self, host: str, port: int) -> trio.socket.SocketType:
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._shorten(listener)
                listener.bind(address)
                listener.listen()
            except BaseException:
                listener.close()
                raise
        except OSError as error:
            reason = error.strerror or error
            raise MidstreamError(f"cannot listen on {host_port(host, port)}: {reason}") from error
        return trio.socket.from_stdlib_socket(listener)

    def _shorten(self, sock: socket.socket | trio.socket.SocketType) -> None:
        if self._window_bytes:
            # The kernel doubles it, for what it needs beside the bytes.
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, self._window_bytes // 2)

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        assert self._nursery is not None
        for number in itertools.count(1):
            try:
                near, _ = await listener.accept()
            except OSError:
                # It was gone before it was taken, or there is no descriptor left for it.
                await trio.sleep(_DRAIN_POLL_SECONDS)
                continue
            with near:
                if len(self._connections) >= _CONNECTIONS_MAX:
                    reset_on_close(near)
                    continue
                # One after the other, so that they arrive in their order.
                far = await self._reach()
                if far is None:
                    reset_on_close(near)
                    continue
                kept = trio.socket.from_stdlib_socket(socket.socket(fileno=near.detach()))
            connection = _Connection(self, number, kept, far)
            self._connections.add(connection)
            self.settle_gates()
            self._nursery.start_soon(self._serve, connection)

    async def _reach(self) -> trio.socket.SocketType | None:
        """Return a connection to the destination, None if it is not there."""
        reason = ""
        for host, port in self.far:
            try:
                with trio.fail_after(_CONNECT_SECONDS_MAX):
                    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                    family, *_, address = found[0]
                    far = trio.socket.socket(family)
                    try:
                        self._shorten(far)
                        await far.connect(address)
                    except BaseException:
                        far.close()
                        raise
            except (OSError, trio.TooSlowError) as error:
                reason = _reason(error)
            else:
                return far
        self._emit(events.ChannelLost(channel="", reason=f"the destination: {reason}"))
        return None

    async def _serve(self, connection: _Connection) -> None:
        reason = ""
        self.tracker.opened(connection.number)
        try:
            with connection.near, connection.far:
                reason = await connection.run()
        finally:
            self._connections.discard(connection)
            self.settle_gates()
            forward, backward = connection.carried
            if isinstance(connection.role, Channel):
                self.carried[connection.role] += forward
            self.returned_bytes += backward
            self.tracker.closed(connection.number, connection.role, (forward, backward), reason)
            self._changed.unpark_all()

    async def _tell_progress(self) -> None:
        while True:
            await trio.sleep(_PROGRESS_SECONDS)
            self.tracker.tell_progress()

    def settle_gates(self) -> None:
        """Give each connection the gates of its channel.

        Beside a main connection, one over which nothing has come yet is the preempt channel: what
        is done to that has to meet its first byte.
        """
        has_main = any(each.role is Channel.PRECOPY for each in self._connections)
        for connection in self._connections:
            silent = Channel.POSTCOPY if has_main else None
            role = connection.role if connection.role is not None else silent
            connection.take_gates(role if isinstance(role, Channel) else None)

    def gate(self, channel: Channel | None, direction: Direction) -> Gate:
        """Return what is done to a channel's bytes in a direction; None for a role not known."""
        return self._gates[channel, direction]

    @property
    def director(self) -> Director:
        """Who does the steps."""
        return self._director

    def _heard(self, event: events.Event, /) -> None:
        """Tell an event, and do what hangs on it."""
        self._emit(event)
        if isinstance(event, events.State):
            self._director.entered(event.state)
            self._changed.unpark_all()
        elif isinstance(event, events.RequestServed):
            assert self.tracker.geometry is not None
            block = self.tracker.geometry.blocks[event.block]
            self._director.served(NamedPage(block.name, event.page))

    def _wake(self) -> None:
        for gate in self._gates.values():
            gate.changed.unpark_all()

    def _act(self, action: NetworkAction | Touch) -> None:
        """Do something to the network, from the next byte on, or to the destination."""
        if isinstance(action, Touch):
            self._touch(action)
            return
        # One rate for all that an action slows down, as if it were one link; each way for itself.
        buckets = {way: Bucket(action.rate) if action.rate else None for way in Direction}
        for channel in action.channels:
            for direction in action.directions:
                self._gates[channel, direction].apply(action, buckets[direction])
        for connection in self._connections:
            # A connection that has said nothing yet is the preempt channel.
            if (connection.role or Channel.POSTCOPY) in action.channels:
                connection.act(action)
        if action.for_ms is not None and self._nursery is not None:
            self._nursery.start_soon(self._undo_later, action, action.for_ms / 1000)

    async def _undo_later(self, action: NetworkAction, seconds: float) -> None:
        await trio.sleep(seconds)
        for gate in self._gates.values():
            gate.undo(action)


def _reason(error: OSError | trio.TooSlowError) -> str:
    if isinstance(error, trio.TooSlowError):
        return "it does not answer"
    # Of a name that cannot be resolved the number is none of the kernel's.
    number = error.errno or 0
    return os.strerror(number) if number > 0 else str(error.strerror)


class _Connection:
    """Two sockets and the pumps between them."""

    def __init__(
        self,
        relay: Relay,
        number: int,
        near: trio.socket.SocketType,
        far: trio.socket.SocketType,
    ) -> None:
        self.number = number
        self.near, self.far = near, far
        self.role: Channel | str | None = None
        self._relay = relay
        self._cutting = trio.Event()
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tracker, director = relay.tracker, relay.director
        self._pumps = {
            Direction.FORWARD: Pump(
                near, far, Forward(number, tracker, director, self._recognised),
                relay.gate(None, Direction.FORWARD),
            ),
            Direction.BACKWARD: Pump(
                far, near, Backward(number, tracker, director, lambda: self.role),
                relay.gate(None, Direction.BACKWARD),
            ),
        }  # fmt: skip

    @property
    def carried(self) -> tuple[int, int]:
        """How many bytes have passed, forward and back."""
        forward, backward = self._pumps.values()
        return forward.passed_bytes, backward.passed_bytes

    def take_gates(self, channel: Channel | None) -> None:
        """Do to its bytes what is done to those of a channel; None for a role not known."""
        for direction, pump in self._pumps.items():
            before, pump.gate = pump.gate, self._relay.gate(channel, direction)
            if pump.gate is not before:
                before.changed.unpark_all()

    def act(self, action: NetworkAction) -> None:
        """Do what an action does to a connection as a whole, at that very byte."""
        if action.do == "cut":
            # It is ended at both ends, as soon as what went before has arrived.
            self._cutting.set()
            for pump in self._pumps.values():
                pump.stopped = True
        elif action.do == "half-close":
            for direction in action.directions:
                self._pumps[direction].half_close()

    async def run(self) -> str:
        """Pass on until both ways have ended; return why it broke, empty if it did not.

        Cancelling breaks it at both ends.
        """
        is_broken = True
        try:
            reason = await self._pass_on()
            is_broken = bool(reason)
        finally:
            if is_broken:
                for sock in (self.near, self.far):
                    reset_on_close(sock)
        return reason

    async def _pass_on(self) -> str:
        reason = ""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_cut, nursery.cancel_scope)
            try:
                async with trio.open_nursery() as pumps:
                    for pump in self._pumps.values():
                        pumps.start_soon(pump.run)
            except* OSError as errors:
                # One end is gone without a goodbye; so is the other, then.
                error = root_cause(errors)
                reason = getattr(error, "strerror", None) or str(error)
            nursery.cancel_scope.cancel()
        if self._cutting.is_set():
            reason = "it was cut by a step"
            with trio.move_on_after(_DRAIN_SECONDS_MAX):
                # The kernel tells nobody when a buffer has run empty.
                while any(unacknowledged_bytes(sock) for sock in (self.near, self.far)):  # noqa: ASYNC110
                    await trio.sleep(_DRAIN_POLL_SECONDS)
        return reason

    async def _stop_when_cut(self, scope: trio.CancelScope) -> None:
        await self._cutting.wait()
        scope.cancel()

    def _recognised(self, role: Channel | str) -> None:
        self.role = role
        self._relay.settle_gates()
