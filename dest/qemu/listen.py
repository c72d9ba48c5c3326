"""Accepts QEMU's connections and tells them apart.

The main one begins with a magic number.  The one for urgent pages, with the capability
postcopy-preempt, says nothing before the first of them.  Before QEMU 8.0 it comes with the main
one, later at the switch-over (migration/postcopy-ram.c, postcopy_preempt_new_channel).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import trio

from dest.listening import Listening, Log, accepting
from dest.qemu.channel import QemuChannel
from dest.qemu.trial import Prove, Trial
from guest.streams.network import Arrival, Door, TcpNetwork
from guest.streams.tcp import TcpStream
from protocol.addresses import host_port
from protocol.errors import MigrationError, RemoteProtocolError
from protocol.limits import HELLO_SECONDS_MAX
from protocol.qemu.constants import FILE_MAGIC, MULTIFD_MAGIC, TLS_HANDSHAKE, Section

T = TypeVar("T")

_MAGIC_BYTES = 4
# The first two bytes of a RAM record are of its address: no block reaches so far.
_RECORD_BEGINS = b"\0\0"

_TAKEN = "a migration is under way here already"
_PREEMPT_TAKEN = "the connection for urgent pages is here already"


class QemuListener(Listening):
    """Listens for QEMU's connections; made by `open_qemu_listener`."""

    def __init__(self, doors: Sequence[Door], log: Log, only_from: str | None = None) -> None:
        """Take doors, at least one."""
        super().__init__(doors, log, self._look_at)
        self._only_from = only_from
        self._resuming = False
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

    async def _look_at(self, arrival: Arrival, scope: trio.CancelScope) -> None:
        """See a connection to its place in the migration."""
        del scope
        # Only a socket lets its first bytes lie.
        stream = cast("TcpStream", arrival.stream)
        if self._only_from not in (None, arrival.host):
            raise RemoteProtocolError(f"it is not from {self._only_from}")
        first = await self._first_bytes(stream)
        if not first:
            # Where no vCPU waited for a page, QEMU's second connection ends like that.
            self.forget(stream)
            return
        stream.wake_at(1)
        trial, label = self._admit(arrival.host, first)
        await trial.stand(QemuChannel(stream, label), arrival.host)

    async def _first_bytes(self, stream: TcpStream) -> bytes:
        """Wait for a connection's first bytes, and leave them where they are.

        Raises:
            RemoteProtocolError: None came, and there is no migration that it could belong to.
        """
        # Fewer bytes than these wake nobody, but the end of file does.
        stream.wake_at(_MAGIC_BYTES)
        with trio.move_on_after(HELLO_SECONDS_MAX):
            return await _peek(stream)
        if self._preempt.winner is not None or not (
            self._main.winner is not None or self._main.is_under_way
        ):
            raise RemoteProtocolError(f"it said nothing in {HELLO_SECONDS_MAX:g} s")
        return await _peek(stream)

    def _admit(self, host: str, first: bytes) -> tuple[Trial[Any], str]:
        """Take a connection for what its first bytes say that it is.

        Returns:
            Where it may prove itself, and what it is called in errors.

        Raises:
            RemoteProtocolError: It is none that can be had now.
        """
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


async def _peek(stream: TcpStream) -> bytes:
    try:
        return await stream.peek(_MAGIC_BYTES)
    except OSError as error:
        raise RemoteProtocolError(f"it broke: {error.strerror or error}") from error


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
    # How long what is sent may go unacknowledged is left to the kernel.
    network = TcpNetwork(silence_seconds_max=0, window_bytes=window_bytes)
    doors = await network.listen(host, port, log, loopback_only=only_from is None)
    if doors is None:
        raise MigrationError(
            f"{host_port(host, port)} is not on loopback: listening there needs --only-from, for a "
            "QEMU cannot prove who it is"
        )
    async with accepting(QemuListener(doors, log, only_from)) as listener:
        yield listener
