"""Accepts QEMU's connections and tells them apart.

The main one begins with a magic number.  The one for urgent pages, with the capability
postcopy-preempt, says nothing before the first of them.  Before QEMU 8.0 it comes with the main
one, later at the switch-over (migration/postcopy-ram.c, postcopy_preempt_new_channel).
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from dest.pending import Complaints, Newcomers
from dest.qemu.channel import QemuChannel
from dest.qemu.trial import Prove, Trial
from guest.streams.binding import accept, address_text, host_text, is_loopback, listen_on, places_of
from protocol.addresses import host_port
from protocol.errors import MigrationError, RemoteProtocolError
from protocol.limits import HELLO_CONNECTIONS_MAX, HELLO_SECONDS_MAX
from protocol.qemu.constants import FILE_MAGIC, MULTIFD_MAGIC, TLS_HANDSHAKE, Section

Log = Callable[[str], None]

T = TypeVar("T")

_MAGIC_BYTES = 4
# What Ethernet carries.
_SHORT_SEGMENT_BYTES = 1448
# The first two bytes of a RAM record are of its address: no block reaches so far.
_RECORD_BEGINS = b"\0\0"

_TAKEN = "a migration is under way here already"
_PREEMPT_TAKEN = "the connection for urgent pages is here already"


class _Silent(Exception):
    """A connection was closed before it said anything."""


class QemuListener:
    """Listening sockets and QEMU's connections; made by `open_qemu_listener`.

    Attributes:
        address: Of the first socket, as HOST:PORT.
    """

    def __init__(
        self,
        socks: Sequence[trio.socket.SocketType],
        log: Log,
        only_from: str | None = None,
    ) -> None:
        """Take sockets that listen, at least one."""
        self.address = address_text(socks[0].getsockname())
        self._socks = socks
        self._only_from = only_from
        self._complaints = Complaints(log)
        self._newcomers = Newcomers[trio.CancelScope](HELLO_CONNECTIONS_MAX)
        self._resuming = False
        self._open: set[trio.socket.SocketType] = set()
        self._main: Trial[Any] = Trial(_TAKEN)
        self._preempt: Trial[None] = Trial(_PREEMPT_TAKEN)

    @property
    def preempt(self) -> QemuChannel | None:
        """The second connection; None until one has proved to be it."""
        return self._preempt.winner

    async def accept_main(self, prove: Prove[T]) -> tuple[QemuChannel, T]:
        """Wait for the first main connection that proves itself; return it, and what that told.

        Args:
            prove: See `Trial.judge`.
        """
        return await self._main.judge(prove)

    async def accept_preempt(self, prove: Prove[None]) -> QemuChannel:
        """Wait for the first connection for urgent pages that proves itself.

        Args:
            prove: See `Trial.judge`.
        """
        channel, _ = await self._preempt.judge(prove)
        return channel

    def expect_again(self) -> None:
        """Take the connections with which a migration that broke is resumed, in place of the first.

        The main one then begins with a command and no magic number.
        """
        self._resuming = True
        self._main = Trial(_TAKEN, self._main.host)
        self._preempt = Trial(_PREEMPT_TAKEN)

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
                trial, label = self._admit(sock, host, await self._first_bytes(sock))
                await trial.stand(QemuChannel(sock, label), host)
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
        if self._preempt.winner is not None or not (
            self._main.winner is not None or self._main.is_under_way
        ):
            raise RemoteProtocolError(f"it said nothing in {HELLO_SECONDS_MAX:g} s")
        return await _peek(sock)

    def _admit(
        self, sock: trio.socket.SocketType, host: str, first: bytes
    ) -> tuple[Trial[Any], str]:
        """Take a connection for what its first bytes say that it is.

        Returns:
            Where it may prove itself, and what it is called in errors.

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
        if is_new or (self._resuming and self._main.winner is None and first[0] == Section.COMMAND):
            self._main.check_open()
            if self._resuming and is_new:
                raise RemoteProtocolError(_TAKEN)
            if self._resuming and host != self._main.host:
                raise RemoteProtocolError("it is not from where the migration came")
            return self._main, "main"
        if self._main.winner is None or first[:2] != _RECORD_BEGINS:
            raise RemoteProtocolError("this is not the beginning of a QEMU stream")
        self._preempt.check_open()
        if host != self._main.host:
            raise RemoteProtocolError("it is not from where the migration comes")
        return self._preempt, "preempt"


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
