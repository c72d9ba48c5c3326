"""Lets QEMU's connections in and tells them apart.

The main one begins with a magic number.  The one for urgent pages, with the capability
postcopy-preempt, says nothing before the first of them.  Before QEMU 8.0 it comes with the main
one, later at the switch-over (migration/postcopy-ram.c, postcopy_preempt_new_channel).

Nobody proves who it is, so whoever begins well may be it: of several the first that goes on well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import trio

from dest.qemu.handshakes import Line
from guest.streams.exchange import receive_into
from guest.streams.network import Arrival
from guest.streams.stream import Stream
from protocol.channels import Channel
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.limits import HELLO_SECONDS_MAX
from protocol.qemu.constants import FILE_MAGIC, MULTIFD_MAGIC, TLS_HANDSHAKE, Section

T = TypeVar("T")

Prove = Callable[[Line], Awaitable[T]]

_MAGIC_BYTES = 4
# The first two bytes of a RAM record are of its address: no block reaches so far.
_RECORD_BEGINS = b"\0\0"

_TAKEN = "a migration is under way here already"
_PREEMPT_TAKEN = "the connection for urgent pages is here already"


class Trial(Generic[T]):
    """One of a migration's connections that is waited for, and those that may be it.

    Until one has proved itself none holds the place: whoever begins well and says nothing more
    keeps nobody out.

    Attributes:
        winner: The connection that is it; None until one has proved itself.
        host: Where that one came from; of the first epoch's, until there is another.
    """

    def __init__(self, taken: str, host: str = "") -> None:
        """Wait for nobody yet.

        Args:
            taken: What is said to those that come when there is one.
            host: Where it came from before.
        """
        self.winner: Line | None = None
        self.host = host
        self._taken = taken
        self._told: list[T] = []
        self._prove: Prove[T] | None = None
        self._wanted, self._won = trio.Event(), trio.Event()
        self._candidates: set[trio.CancelScope] = set()

    @property
    def is_under_way(self) -> bool:
        """Whether somebody is proving itself."""
        return bool(self._candidates)

    async def judge(self, prove: Prove[T]) -> tuple[Line, T]:
        """Wait for the first that proves itself; return it, and what that told.

        Args:
            prove: Hears what a connection has to say; raises a ConnectionLost or a
                RemoteProtocolError for one that is not the peer's.
        """
        self._prove = prove
        self._wanted.set()
        await self._won.wait()
        assert self.winner is not None
        return self.winner, self._told[0]

    async def stand(self, candidate: Line, host: str) -> None:
        """Prove a connection, beside others.

        Raises:
            RemoteProtocolError: It does not, or another was first.
        """
        self.check_open()
        await self._wanted.wait()
        assert self._prove is not None
        with trio.CancelScope() as scope:
            self._candidates.add(scope)
            try:
                told = await self._prove(candidate)
            except ConnectionLost as error:
                raise RemoteProtocolError(str(error)) from error
            finally:
                self._candidates.discard(scope)
        if scope.cancelled_caught:
            raise RemoteProtocolError(self._taken)
        self.check_open()
        self.winner, self.host = candidate, host
        self._told.append(told)
        self._won.set()
        for other in self._candidates:
            other.cancel()

    def check_open(self) -> None:
        """Refuse when there is one already.

        Raises:
            RemoteProtocolError: There is.
        """
        if self.winner is not None:
            raise RemoteProtocolError(self._taken)


class QemuAdmission:
    """Lets one QEMU in, and after each break once more.

    Attributes:
        needs: See `dest.listening`.
    """

    def __init__(self, only_from: str | None = None) -> None:
        """Wait for nobody yet.

        Args:
            only_from: The address that connections must be from; None for any.
        """
        self.needs = "--allow-from, for a QEMU cannot prove who it is" if only_from is None else ""
        self._only_from = only_from
        self._resuming = False
        self._main: Trial[Any] = Trial(_TAKEN)
        self._preempt: Trial[Any] = Trial(_PREEMPT_TAKEN)

    @property
    def preempt(self) -> Line | None:
        """The second connection; None until one has proved to be it."""
        return self._preempt.winner

    async def accept_main(self, prove: Prove[T]) -> tuple[Line, T]:
        """Wait for the first main connection that proves itself; return it, and what that told.

        Args:
            prove: See `Trial.judge`.
        """
        return await self._main.judge(prove)

    async def accept_preempt(self, prove: Prove[T]) -> tuple[Line, T]:
        """Do as `accept_main`, of connections for urgent pages."""
        return await self._preempt.judge(prove)

    def expect_again(self) -> None:
        """Expect the connections that resume a migration that broke, in place of the first.

        The main one then begins with a command and no magic number.
        """
        self._resuming = True
        self._main = Trial(_TAKEN, self._main.host)
        self._preempt = Trial(_PREEMPT_TAKEN)

    async def welcome(self, arrival: Arrival, _: Callable[[], None]) -> bool:
        """See a connection to its place in the migration.

        Raises:
            RemoteProtocolError: It has none.
        """
        stream = arrival.stream
        if self._only_from not in (None, arrival.host):
            raise RemoteProtocolError(f"it is not from {self._only_from}")
        first = await self._first_bytes(stream)
        if not first:
            # Where no vCPU waited for a page, QEMU's second connection ends like that.
            return False
        trial, name = self._admit(arrival.host, first)
        await trial.stand(Line(stream, name, first), arrival.host)
        return True

    async def turn_away(self, stream: Stream) -> None:
        """Let a connection go at once: QEMU's way of ending one is to close it."""

    async def _first_bytes(self, stream: Stream) -> bytes:
        """Return a connection's first bytes: too few for a magic number where it ends with them.

        Raises:
            RemoteProtocolError: None came, and there is no migration that it could belong to.
        """
        first = bytearray()
        with trio.move_on_after(HELLO_SECONDS_MAX):
            await _read_magic(stream, first)
            return bytes(first)
        if self._preempt.winner is not None or not (
            self._main.winner is not None or self._main.is_under_way
        ):
            raise RemoteProtocolError(f"it said nothing in {HELLO_SECONDS_MAX:g} s")
        await _read_magic(stream, first)
        return bytes(first)

    def _admit(self, host: str, first: bytes) -> tuple[Trial[Any], Channel]:
        """Return which connection this is, by its first bytes.

        Returns:
            Where it may prove itself, and which of the two it may be.

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
            return self._main, Channel.PRECOPY
        if self._main.winner is None or first[:2] != _RECORD_BEGINS:
            raise RemoteProtocolError("this is not the beginning of a QEMU stream")
        self._preempt.check_open()
        if host != self._main.host:
            raise RemoteProtocolError("it is not from where the migration comes")
        return self._preempt, Channel.POSTCOPY


async def _read_magic(stream: Stream, first: bytearray) -> None:
    """Add to what has come until a magic number is there, or the end of the stream."""
    place = memoryview(bytearray(_MAGIC_BYTES))
    try:
        while count := await receive_into(stream, [place[len(first) :]]):
            first += place[len(first) : len(first) + count]
            if len(first) == _MAGIC_BYTES:
                return
    except OSError as error:
        raise RemoteProtocolError(f"it broke: {error.strerror or error}") from error
