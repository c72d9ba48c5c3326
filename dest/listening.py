"""Accepts connections, each in its own task, until one is the migration's or is turned away.

What a connection has to say for that is its peer's: midstream's pairs them by session
(`admission`), QEMU's are told apart by their first bytes (`qemu.admission`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from dest.pending import Complaints, Newcomers
from guest.streams.network import TCP, Arrival, Door, Network
from guest.streams.stream import Stream
from protocol.addresses import host_port
from protocol.errors import MidstreamError, MigrationError
from protocol.limits import HELLO_CONNECTIONS_MAX

Log = Callable[[str], None]


class Admission(Protocol):
    """Lets a peer's connections in.

    Attributes:
        needs: What the user has to give before other machines may connect, and why; empty if that
            was given.
    """

    needs: str

    async def welcome(self, arrival: Arrival, make_known: Callable[[], None], /) -> bool:
        """See a connection to its place in the migration, or find out that it has none.

        Args:
            arrival: The connection.
            make_known: Called when it has proved itself: it gives way to no stranger any more.

        Returns:
            Whether it stays; one that does not is closed, untold.

        Raises:
            MidstreamError: Nothing came of it.
        """

    async def turn_away(self, stream: Stream, /) -> None:
        """Let a connection go that nothing came of; it is closed then."""


class Listener:
    """Doors and the connections that come through them; made by `open_listener`.

    Attributes:
        address: Of the first door, as HOST:PORT.
    """

    def __init__(self, doors: Sequence[Door], log: Log, admission: Admission) -> None:
        """Own doors; `close` closes them, and what came through them.

        Args:
            doors: At least one.
            log: Takes a line about each connection that nothing came of.
            admission: Lets connections in.
        """
        self.address = doors[0].address
        self._newcomers = Newcomers[trio.CancelScope](HELLO_CONNECTIONS_MAX)
        self._doors = doors
        self._complaints = Complaints(log)
        self._admission = admission
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
            loser = self._newcomers.enter(scope, arrival.host)
            if loser is not None:
                loser.cancel()
            nursery.start_soon(self._receive, arrival, scope)

    async def _receive(self, arrival: Arrival, scope: trio.CancelScope) -> None:
        """See a connection to its place, or turn it away."""
        stream, _, address = arrival
        refused = stays = False
        with scope:
            try:
                stays = await self._admission.welcome(
                    arrival, lambda: self._newcomers.make_known(scope)
                )
            except MidstreamError as error:
                refused = True
                self._complain(f"refused a connection from {address}: {error}")
                await self._admission.turn_away(stream)
            finally:
                self._newcomers.leave(scope)
        if scope.cancelled_caught and not refused:
            self._complain(f"gave up a connection from {address}, too many came after it")
        if not stays:
            stream.close()
            self._open.discard(stream)

    def _complain(self, line: str) -> None:
        self._complaints.say(line, trio.current_time())


@asynccontextmanager
async def open_listener(
    host: str, port: int, log: Log, admission: Admission, network: Network = TCP
) -> AsyncIterator[Listener]:
    """Listen on all addresses of a name; everything is closed when the block is left.

    Args:
        host: A name or address; `::` is every address of this machine, of IPv4 too.
        port: A TCP port; 0 picks one that is free at all addresses.
        log: Takes a line about each connection that is refused, and about further addresses.
        admission: Lets connections in.
        network: Where it listens.

    Raises:
        MigrationError: The address cannot be listened on, or only with what the admission needs.
    """
    doors = await network.listen(host, port, log, loopback_only=bool(admission.needs))
    if doors is None:
        raise MigrationError(
            f"{host_port(host, port)} is not on loopback: listening there needs {admission.needs}"
        )
    listener = Listener(doors, log, admission)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run)
            yield listener
            nursery.cancel_scope.cancel()
    finally:
        listener.close()
