"""Accepts connections, each in its own task, until one is the migration's or is turned away.

What a connection has to say for that is its peer's: midstream's pairs them by session (`listen`),
QEMU's are told apart by their first bytes (`qemu.listen`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from dest.pending import Complaints, Newcomers
from guest.streams.network import Arrival, Door
from guest.streams.stream import Stream
from protocol.errors import MidstreamError
from protocol.limits import HELLO_CONNECTIONS_MAX

Log = Callable[[str], None]

L = TypeVar("L", bound="Listening")


class Listening:
    """Doors and the connections that come through them.

    Attributes:
        address: Of the first door, as HOST:PORT.
        newcomers: Those that have no place in the migration yet, by their scopes.
    """

    def __init__(
        self,
        doors: Sequence[Door],
        log: Log,
        welcome: Callable[[Arrival, trio.CancelScope], Awaitable[None]],
        turn_away: Callable[[Stream], Awaitable[None]] | None = None,
    ) -> None:
        """Take doors; `close` closes them, and what came through them.

        Args:
            doors: At least one.
            log: Takes a line about each connection that nothing came of.
            welcome: Sees a connection to its place in the migration; its scope is cancelled when it
                has to give way.  Raises a MidstreamError where nothing came of it.
            turn_away: Lets such a connection go; it is closed then.
        """
        self.address = doors[0].address
        self.newcomers = Newcomers[trio.CancelScope](HELLO_CONNECTIONS_MAX)
        self._doors = doors
        self._complaints = Complaints(log)
        self._welcome = welcome
        self._turn_away = turn_away
        self._open: set[Stream] = set()

    async def run(self) -> None:
        """Accept until cancelled."""
        async with trio.open_nursery() as nursery:
            for door in self._doors:
                nursery.start_soon(self._accept, door, nursery)

    def close(self) -> None:
        """Close the doors and every connection that came through them."""
        for door in self._doors:
            door.close()
        for stream in self._open:
            stream.close()

    async def _accept(self, door: Door, nursery: trio.Nursery) -> None:
        while True:
            arrival = await door.accept(self._complain)
            self._open.add(arrival.stream)
            scope = trio.CancelScope()
            loser = self.newcomers.enter(scope, arrival.host)
            if loser is not None:
                loser.cancel()
            nursery.start_soon(self._receive, arrival, scope)

    async def _receive(self, arrival: Arrival, scope: trio.CancelScope) -> None:
        """See a connection to its place, or turn it away."""
        stream, _, address = arrival
        refused = False
        with scope:
            try:
                await self._welcome(arrival, scope)
            except MidstreamError as error:
                refused = True
                self._complain(f"refused a connection from {address}: {error}")
                if self._turn_away is not None:
                    await self._turn_away(stream)
                self.forget(stream)
            finally:
                self.newcomers.leave(scope)
        if scope.cancelled_caught:
            if not refused:
                self._complain(f"gave up a connection from {address}, too many came after it")
            self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """Close a connection."""
        stream.close()
        self._open.discard(stream)

    def _complain(self, line: str) -> None:
        self._complaints.say(line, trio.current_time())


@asynccontextmanager
async def accepting(listener: L) -> AsyncIterator[L]:
    """Accept connections; everything is closed when the block is left."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run)
            yield listener
            nursery.cancel_scope.cancel()
    finally:
        listener.close()
