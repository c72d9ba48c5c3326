"""Accepts QEMU's connections and tells them apart.

The main one begins with a magic number.  The one for urgent pages, with the capability
postcopy-preempt, says nothing before the first of them.  Before QEMU 8.0 it comes with the main
one, later at the switch-over (migration/postcopy-ram.c, postcopy_preempt_new_channel).
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from dest.accepting import accept
from dest.addresses import address_text, host_text, is_loopback
from dest.binding import listen_on, places_of
from dest.complaints import Complaints
from dest.newcomers import Newcomers
from dest.qemu.channel import QemuChannel
from protocol.addresses import host_port
from protocol.errors import ConnectionLost, MigrationError, RemoteProtocolError
from protocol.limits import HELLO_CONNECTIONS_MAX, HELLO_SECONDS_MAX
from protocol.qemu.constants import FILE_MAGIC, MULTIFD_MAGIC, TLS_HANDSHAKE, Section

Log = Callable[[str], None]
Prove = Callable[[QemuChannel], Awaitable[None]]

T = TypeVar("T")

_MAGIC_BYTES = 4
# What Ethernet carries.
_SHORT_SEGMENT_BYTES = 1448
# The first two bytes of a RAM record are of its address: no block reaches so far.
_RECORD_BEGINS = b"\0\0"


class _Silent(Exception):
    """A connection was closed before it said anything."""


class QemuListener:
    """Listening sockets and QEMU's connections; made by `open_qemu_listener`.

    Attributes:
        address: Of the first socket, as HOST:PORT.
        preempt: The second connection; None until it has said something.
        preempt_came: Set when that is.
    """

    def __init__(
        self,
        socks: Sequence[trio.socket.SocketType],
        log: Log,
        only_from: str | None = None,
    ) -> None:
        """Take sockets that listen, at least one."""
        self.address = address_text(socks[0].getsockname())
        self.preempt: QemuChannel | None = None
        self.preempt_came = trio.Event()
        self._main: QemuChannel | None = None
        self._main_came = trio.Event()
        # Somebody waits for a main connection, which has to prove itself so; those that are at it.
        self._wanted = trio.Event()
        self._prove: Prove | None = None
        self._trials: set[trio.CancelScope] = set()
        self._socks = socks
        self._only_from = only_from
        self._complaints = Complaints(log)
        self._newcomers = Newcomers[trio.CancelScope](HELLO_CONNECTIONS_MAX)
        self._main_host = ""
        self._resuming = False
        self._open: set[trio.socket.SocketType] = set()

    async def accept_main(self) -> QemuChannel:
        """Wait for what begins as a main connection does; there is one migration."""
        return await self._accept_main(None)

    async def accept_proved(
        self, prove: Callable[[QemuChannel], Awaitable[T]]
    ) -> tuple[QemuChannel, T]:
        """Wait for the first main connection that proves itself; return it, and what that told.

        Until then none holds the place: whoever begins well and says nothing more keeps nobody out.

        Args:
            prove: Hears what a connection has to say; raises a ConnectionLost or a
                RemoteProtocolError for one that is not the peer's.
        """
        proved: dict[QemuChannel, T] = {}

        async def note(channel: QemuChannel) -> None:
            proved[channel] = await prove(channel)

        main = await self._accept_main(note)
        return main, proved[main]

    async def _accept_main(self, prove: Prove | None) -> QemuChannel:
        self._prove = prove
        self._wanted.set()
        await self._main_came.wait()
        assert self._main is not None
        return self._main

    def expect_again(self) -> None:
        """Take the connections with which a migration that broke is resumed, in place of the first.

        The main one then begins with a command and no magic number.
        """
        self._resuming = True
        self._main, self.preempt = None, None
        self._main_came, self.preempt_came = trio.Event(), trio.Event()
        self._wanted = trio.Event()

    async def run(self) -> None:
        """Accept until cancelled."""
        async with trio.open_nursery() as nursery:
            for sock in self._socks:
                nursery.start_soon(self._accept, sock, nursery)

    def close(self) -> None:
        """Close the listening socket and every connection it brought."""
        for sock in (*self._socks, *self._open):
            sock.close()

    async def _accept(self, listening: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            sock, name = await accept(listening, self._complain)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(sock)
            scope = trio.CancelScope()
            loser = self._newcomers.enter(scope, host_text(name))
            if loser is not None:
                loser.cancel()
            nursery.start_soon(self._receive, sock, name, scope)

    async def _receive(
        self, sock: trio.socket.SocketType, name: tuple[Any, ...], scope: trio.CancelScope
    ) -> None:
        """See a connection to its place in the migration, or turn it away."""
        host = host_text(name)
        with scope:
            try:
                self._check_host(host)
                candidate = self._admit(sock, host, await self._first_bytes(sock))
                if candidate is not None:
                    await self._try(candidate, host)
            except _Silent:
                self._forget(sock)
            except RemoteProtocolError as error:
                self._complain(f"refused a connection from {address_text(name)}: {error}")
                self._forget(sock)
            finally:
                self._newcomers.leave(scope)
        if scope.cancelled_caught:
            self._complain(
                f"gave up a connection from {address_text(name)}, too many came after it"
            )
            self._forget(sock)

    async def _try(self, candidate: QemuChannel, host: str) -> None:
        """Have a main connection prove itself, beside others; the first that does is the one.

        Raises:
            RemoteProtocolError: It does not, or another was first.
        """
        await self._wanted.wait()
        with trio.CancelScope() as trial:
            self._trials.add(trial)
            try:
                if self._prove is not None:
                    await self._prove(candidate)
            except ConnectionLost as error:
                raise RemoteProtocolError(str(error)) from error
            finally:
                self._trials.discard(trial)
        if trial.cancelled_caught or self._main is not None:
            raise RemoteProtocolError("a migration is under way here already")
        self._main, self._main_host = candidate, host
        self._main_came.set()
        for other in self._trials:
            other.cancel()

    def _check_host(self, host: str) -> None:
        if self._only_from not in (None, host):
            raise RemoteProtocolError(f"it is not from {self._only_from}")

    def _complain(self, line: str) -> None:
        self._complaints.say(line, trio.current_time())

    def _forget(self, sock: trio.socket.SocketType) -> None:
        self._open.discard(sock)
        sock.close()

    async def _first_bytes(self, sock: trio.socket.SocketType) -> bytes:
        """Wait for a connection's first bytes, and leave them where they are.

        Raises:
            RemoteProtocolError: None came, and there is no migration that it could belong to.
        """
        # Fewer bytes than these wake nobody, but the end of file does.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _MAGIC_BYTES)
        with trio.move_on_after(HELLO_SECONDS_MAX):
            return await _peek(sock)
        if (self._main is None and not self._trials) or self.preempt is not None:
            raise RemoteProtocolError(f"it said nothing in {HELLO_SECONDS_MAX:g} s")
        return await _peek(sock)

    def _admit(self, sock: trio.socket.SocketType, host: str, first: bytes) -> QemuChannel | None:
        """Take a connection for what its first bytes say that it is.

        Returns:
            One that may be the main one, if it proves itself; None for the other.

        Raises:
            RemoteProtocolError: It is none that can be had now.
        """
        if not first:
            # Where no vCPU waited for a page, QEMU's second connection ends like that.
            raise _Silent
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        if first.startswith(TLS_HANDSHAKE):
            raise RemoteProtocolError("it speaks TLS; switch tls-creds off in QEMU")
        if first == MULTIFD_MAGIC.to_bytes(_MAGIC_BYTES, "big"):
            raise RemoteProtocolError("it is one of multifd's; switch that capability off in QEMU")
        is_new = first == FILE_MAGIC.to_bytes(_MAGIC_BYTES, "big")
        if is_new or (self._resuming and self._main is None and first[0] == Section.COMMAND):
            if self._main is not None or (self._resuming and is_new):
                raise RemoteProtocolError("a migration is under way here already")
            if self._resuming and host != self._main_host:
                raise RemoteProtocolError("it is not from where the migration came")
            return QemuChannel(sock, "main")
        if self._main is None or self.preempt is not None or first[:2] != _RECORD_BEGINS:
            raise RemoteProtocolError("this is not the beginning of a QEMU stream")
        if host != self._main_host:
            raise RemoteProtocolError("it is not from where the migration comes")
        self.preempt = QemuChannel(sock, "preempt")
        self.preempt_came.set()
        return None


async def _peek(sock: trio.socket.SocketType) -> bytes:
    await trio.lowlevel.wait_readable(sock)
    try:
        return await sock.recv(_MAGIC_BYTES, socket.MSG_PEEK)
    except OSError as error:
        raise RemoteProtocolError(f"it broke: {error.strerror or error}") from error


def _keep_short(sock: trio.socket.SocketType, window_bytes: int) -> None:
    """Have the connections of a listening socket hold little, at QEMU's end, too.

    What QEMU has written it cannot call back, and its own buffer is the kernel's to size: twice its
    congestion window, of at least ten segments (net/ipv4/tcp_input.c, tcp_sndbuf_expand).  On
    loopback ten segments are most of a megabyte; they are as small as this side says.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes // 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SHORT_SEGMENT_BYTES)


@asynccontextmanager
async def open_qemu_listener(
    host: str, port: int, log: Log, window_bytes: int = 0, only_from: str | None = None
) -> AsyncIterator[QemuListener]:
    """Listen on all addresses of a name; everything is closed when the block is left.

    Args:
        host: A name or address; `::` is every address of this machine, of IPv4 too.
        port: A TCP port; 0 picks one that is free at all addresses.
        log: Takes a line about each connection that is refused, and about further addresses.
        window_bytes: What may lie in each connection's sockets, about; 0 for what the kernel lets.
        only_from: The address that connections must be from; None for any.

    Raises:
        MigrationError: The address cannot be listened on, or only for somebody.
    """
    places = await places_of(host, port)
    typed = host_port(host, port)
    if only_from is None and not all(is_loopback(place.name) for place in places):
        raise MigrationError(
            f"{typed} is not on loopback: listening there needs --only-from, for a QEMU cannot "
            "prove who it is"
        )
    socks = listen_on(places, typed, log)
    # Nothing has been accepted yet.
    for sock in socks if window_bytes else ():
        _keep_short(sock, window_bytes)
    result = QemuListener(socks, log, only_from)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(result.run)
            yield result
            nursery.cancel_scope.cancel()
    finally:
        result.close()
