"""A TCP proxy between the two sides that can stop, spoil or end a connection at an exact byte.

It passes on what comes and keeps almost nothing: its sockets' buffers are small, so that what the
source believes to have sent and what the destination has stay close to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio

from protocol.channels import Channel
from protocol.geometry import PageId
from scripts.injection.actions import NetworkAction
from scripts.injection.gates import Gate
from scripts.injection.marks import Direction, Mark, Marks
from scripts.injection.pipes import Pipe, is_left, reset_on_close, unacknowledged_bytes
from scripts.links.throttle import Bucket, keep_little

# What went before a cut must arrive before it; the receiver reads at once, or is stopped.
_DRAIN_SECONDS_MAX = 1.0
_DRAIN_POLL_SECONDS = 0.0005


class Proxy:
    """Stands between a source and a destination; `serve` it, and `act` at any time."""

    def __init__(
        self,
        marks: Marks,
        on_reached: Callable[[Mark], None],
        on_request: Callable[[PageId], None] = lambda _: None,
        *,
        link_rate: int = 0,
        seed: int = 0,
    ) -> None:
        """Prepare; nothing listens yet.

        Args:
            marks: What to stop at.
            on_reached: Called with each mark when the byte that reaches it has been passed on, and
                before the next one is.  It may `act`.
            on_request: Called with the page of each page request when that has come, and before it
                is passed on.  It may `act`.
            link_rate: Bytes a second of all connections together, each direction for itself; 0 for
                no limit.
            seed: What decides which bits a corruption flips.
        """
        self._marks = marks
        self._link_rate = link_rate
        self._on_reached = on_reached
        self._on_request = on_request
        self._standing: frozenset[Direction] = frozenset()
        self._connections: set[_Connection] = set()
        # Channels that are unplugged, by the action that did it.
        self._unplugged: dict[Channel, NetworkAction] = {}
        links = {way: Bucket(link_rate) if link_rate else None for way in Direction}
        # A connection of which no role is known has a gate too: it goes over the same link.
        self._gates = {
            (channel, direction): Gate(seed, links[direction])
            for channel in (None, *Channel)
            for direction in Direction
        }
        self._nursery: trio.Nursery | None = None

    async def serve(
        self, host: str, port: int, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Pass connections on to a destination until cancelled; starts with its own HOST:PORT.

        Args:
            host: Where the destination listens.
            port: On which port.
            task_status: For `nursery.start`.
        """
        with trio.socket.socket() as listener:
            keep_little(listener, self._link_rate)
            await listener.bind(("127.0.0.1", 0))
            listener.listen()
            async with trio.open_nursery() as self._nursery:
                own_host, own_port = listener.getsockname()
                task_status.started(f"{own_host}:{own_port}")
                while True:
                    near, _ = await listener.accept()
                    self._nursery.start_soon(self._connect, near, host, port)

    def act(self, action: NetworkAction) -> None:
        """Do something to the network, from the next byte on."""
        # One rate for all that an action slows down, as if it were one link; each way for itself.
        buckets = {way: Bucket(action.rate) if action.rate else None for way in Direction}
        if action.page is not None:
            self._hold_or_release(action, action.page)
            return
        for channel in action.channels:
            for direction in action.directions:
                self._gates[channel, direction].apply(action, buckets[direction])
            if action.do == "heal":
                self._unplugged.pop(channel, None)
            if action.do == "cut" and action.for_ms is not None:
                self._unplugged[channel] = action
        for connection in list(self._connections):
            if connection.channel in action.channels:
                connection.act(action)
        if action.for_ms is not None and self._nursery is not None:
            self._nursery.start_soon(self._undo_later, action, action.for_ms / 1000)
        self._let_stand()

    def stand_still(self, ways: Collection[Direction]) -> None:
        """Let nothing pass in these directions, beside whatever else is done to them.

        With only the way forward it is until the source has heard what goes back; where that is
        itself stalled it is not waited for.
        """
        self._standing = frozenset(ways)
        self._let_stand()

    def _let_stand(self) -> None:
        back = self._gates[Channel.PRECOPY, Direction.BACKWARD]
        in_vain = self._standing == {Direction.FORWARD} and back.stalled
        for (_, direction), gate in self._gates.items():
            gate.stand(direction in self._standing and not in_vain)

    def _hold_or_release(self, action: NetworkAction, page: PageId) -> None:
        if action.do == "hold":
            self._marks.hold(page, action.share, action.channels)
            return
        self._marks.release(page)
        for gate in self._gates.values():
            gate.changed.unpark_all()

    def gate(self, channel: Channel | None, direction: Direction) -> Gate:
        """Return what is done to a channel's bytes in a direction; None for a role not known."""
        return self._gates[channel, direction]

    def greeted(self, connection: _Connection, channel: Channel) -> None:
        """Note the role of a connection."""
        if channel in self._unplugged:
            connection.reset()

    def reached(self, mark: Mark) -> None:
        """Report a mark."""
        self._on_reached(mark)

    def requested(self, page: PageId) -> None:
        """Report a page request that has come."""
        self._on_request(page)

    async def _undo_later(self, action: NetworkAction, seconds: float) -> None:
        await trio.sleep(seconds)
        for gate in self._gates.values():
            gate.undo(action)
        self._let_stand()
        for channel in [each for each, by in self._unplugged.items() if by is action]:
            del self._unplugged[channel]

    async def _connect(self, near: trio.socket.SocketType, host: str, port: int) -> None:
        with near, trio.socket.socket() as far:
            keep_little(near, self._link_rate)
            keep_little(far, self._link_rate)
            try:
                await far.connect((host, port))
            except OSError:
                # Nobody is there any more: the source hears it as if it had asked itself.
                reset_on_close(near)
                return
            connection = _Connection(self, near, far, self._marks)
            self._connections.add(connection)
            try:
                await connection.run()
            finally:
                self._connections.discard(connection)


class _Connection:
    """Two sockets and the pipes between them."""

    def __init__(
        self, proxy: Proxy, near: trio.socket.SocketType, far: trio.socket.SocketType, marks: Marks
    ) -> None:
        self.channel: Channel | None = None
        self._proxy = proxy
        self._sockets = (near, far)
        self._cutting = trio.Event()
        self._pipes = {
            Direction.FORWARD: Pipe(self, Direction.FORWARD, near, far, marks),
            Direction.BACKWARD: Pipe(self, Direction.BACKWARD, far, near, marks),
        }

    @property
    def cut(self) -> bool:
        """Whether nothing more may pass."""
        return self._cutting.is_set()

    @property
    def deserted(self) -> bool:
        """Whether nobody is at either end."""
        return all(map(is_left, self._sockets))

    async def run(self) -> None:
        """Pass on until both ways have ended, or the connection is reset."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reset_when_cut, nursery.cancel_scope)
            try:
                async with trio.open_nursery() as pipes:
                    for pipe in self._pipes.values():
                        pipes.start_soon(pipe.run)
            except* OSError:
                # One end is gone without a goodbye; so is the other, then.
                self._reset_both()
            if not self.cut:
                nursery.cancel_scope.cancel()

    def greeted(self, channel: Channel) -> None:
        """Learn the role, from the Hello that went by."""
        self.channel = channel
        for pipe in self._pipes.values():
            pipe.learn(channel)
        self._proxy.greeted(self, channel)

    def gate(self, channel: Channel | None, direction: Direction) -> Gate:
        """Return what is done to a channel's bytes in a direction."""
        return self._proxy.gate(channel, direction)

    def reached(self, mark: Mark) -> None:
        """Report a mark."""
        self._proxy.reached(mark)

    def requested(self, page: PageId) -> None:
        """Report a page request that has come."""
        self._proxy.requested(page)

    def act(self, action: NetworkAction) -> None:
        """Do what an action does to a connection as a whole."""
        if action.do == "cut":
            self.reset()
        elif action.do == "half-close":
            for direction in action.directions:
                self._pipes[direction].half_close()

    def reset(self) -> None:
        """End it at both ends, as soon as what went before has arrived."""
        self._cutting.set()
        for pipe in self._pipes.values():
            pipe.wake()

    async def _reset_when_cut(self, scope: trio.CancelScope) -> None:
        await self._cutting.wait()
        with trio.move_on_after(_DRAIN_SECONDS_MAX):
            # The kernel tells nobody when a buffer has run empty.
            while any(unacknowledged_bytes(sock) for sock in self._sockets):  # noqa: ASYNC110
                await trio.sleep(_DRAIN_POLL_SECONDS)
        self._reset_both()
        scope.cancel()

    def _reset_both(self) -> None:
        for sock in self._sockets:
            reset_on_close(sock)
