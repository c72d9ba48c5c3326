"""What passes in either direction of a connection: followed, told, and stopped where steps say so.

The role of a connection stands in its first bytes.  Until it is known its bytes pass unread, and
those few are read again when it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from protocol.channels import Channel
from protocol.qemu.following import Follower
from protocol.qemu.known import channel_of
from protocol.qemu.pieces import Piece
from protocol.qemu.returned import PageAsked, ReturnDecoder, Returned
from scripts.relay.director import Director
from scripts.relay.pump import Stop
from scripts.relay.telling import BACKWARD
from scripts.relay.tracker import Tracker

# As many bytes tell a connection's role.
_ROLE_BYTES = 4


class _Then(Stop):
    """A stop at which something is done."""

    __slots__ = ("_act",)

    def __init__(self, at: int, act: Callable[[int], None], *, held: bool = False) -> None:
        super().__init__(at, held=held)
        self._act = act

    def then(self, now_ns: int) -> None:  # type: ignore[explicit-override]
        """Take that the bytes before it have passed."""
        self._act(now_ns)


class Forward:
    """The direction from the source."""

    def __init__(
        self,
        connection: int,
        tracker: Tracker,
        director: Director,
        on_role: Callable[[Channel | str], None],
    ) -> None:
        """Start at the beginning of a connection.

        Args:
            connection: Its number.
            tracker: What is known of the migration.
            director: Where to stop, and what to do there.
            on_role: Called with the connection's role when it is known.
        """
        self._number = connection
        self._tracker = tracker
        self._director = director
        self._on_role = on_role
        self._first = b""
        self._is_known = False
        self._follower: Follower | None = None
        self._channel = Channel.PRECOPY

    def feed(self, data: memoryview) -> Iterator[Stop]:
        """Yield where to stop."""
        ahead = b""
        if not self._is_known:
            ahead = self._first
            self._recognise(ahead + bytes(data[:_ROLE_BYTES]))
        if self._follower is None:
            yield Stop(len(data))
            return
        # What had passed before the role was known is shorter than anything is that is stopped at.
        for piece in self._follower.feed(ahead) if ahead else ():
            self._tracker.passed(self._number, self._channel, piece, 0)
        base = self._follower.position
        waiting: list[Piece] = []
        for piece in self._follower.feed(data):
            if not self._director.is_about(self._channel, piece):
                waiting.append(piece)
                continue
            if waiting:
                yield _Then(waiting[-1].stop - base, self._passing(waiting))
                waiting = []
            yield from self._stops(piece, data, base)
        if waiting:
            yield _Then(len(data), self._passing(waiting))

    def _stops(self, piece: Piece, data: memoryview, base: int) -> Iterator[Stop]:
        """Yield where to stop in a piece that steps are about."""
        at = piece.start
        while True:
            limit = self._director.limit(self._channel, piece, at)
            for position, bit in self._director.flips(self._channel, piece, at, limit):
                data[position - base - 1] ^= bit
            is_held = limit == at and at < piece.stop
            if limit == piece.stop:
                yield _Then(limit - base, self._passing([piece]))
            else:
                yield Stop(limit - base, held=is_held)
            at = limit
            self._director.passed(self._channel, piece, at)
            if at == piece.stop:
                return

    def _passing(self, pieces: list[Piece]) -> Callable[[int], None]:
        def told(now_ns: int) -> None:
            for piece in pieces:
                self._tracker.passed(self._number, self._channel, piece, now_ns)

        return told

    def _recognise(self, first: bytes) -> None:
        role = channel_of(first[:_ROLE_BYTES])
        if role is None:
            self._first = first
            return
        self._is_known, self._first = True, b""
        if isinstance(role, Channel):
            resumed = role is Channel.PRECOPY and self._tracker.breaks > 0
            self._channel = role
            self._follower = Follower(role, self._tracker.known, resumed=resumed)
            self._tracker.recognised(self._number, role, resumed=resumed)
        else:
            self._tracker.recognised(self._number, role, resumed=False)
        self._on_role(role)


class Backward:
    """The direction from the destination: requests, and the rest of the return path."""

    def __init__(
        self,
        connection: int,
        tracker: Tracker,
        director: Director,
        role: Callable[[], Channel | str | None],
    ) -> None:
        """Start at the beginning of a connection.

        Args:
            connection: Its number.
            tracker: What is known of the migration.
            director: What to do at a word.
            role: Returns the connection's role, None while it is not known.
        """
        self._number = connection
        self._tracker = tracker
        self._director = director
        self._role = role
        self._decoder = ReturnDecoder()
        self._fed_bytes = 0
        self._is_told = False

    def feed(self, data: memoryview) -> Iterator[Stop]:
        """Yield where to stop."""
        if self._role() is Channel.PRECOPY:
            done = 0
            for at, message in self._decoder.feed(data):
                if isinstance(message, PageAsked):
                    # What is to be done about a request is done before the source has it.
                    yield _Then(done, partial(self._ask, message))
                else:
                    yield _Then(at, partial(self._return, message))
                done = at
            self._tell_lost()
        self._fed_bytes += len(data)
        yield Stop(len(data))

    def _ask(self, message: PageAsked, now_ns: int) -> None:
        self._tracker.asked(self._number, message, now_ns)
        self._director.asked(message)

    def _return(self, message: Returned, _now_ns: int) -> None:
        self._tracker.returned(self._number, message)
        self._director.said(message)

    def _tell_lost(self) -> None:
        if self._decoder.lost is not None and not self._is_told:
            self._is_told = True
            self._tracker.unread(self._number, BACKWARD, self._fed_bytes, self._decoder.lost)
