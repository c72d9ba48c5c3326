"""A connection that is waited for, and those that may be it: the first that proves itself is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from dest.qemu.channel import QemuChannel
from protocol.errors import ConnectionLost, RemoteProtocolError

T = TypeVar("T")

Prove = Callable[[QemuChannel], Awaitable[T]]


class Trial(Generic[T]):
    """One of a migration's connections.

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
        self.winner: QemuChannel | None = None
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

    async def judge(self, prove: Prove[T]) -> tuple[QemuChannel, T]:
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

    async def stand(self, candidate: QemuChannel, host: str) -> None:
        """Have a connection prove itself, beside others.

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
