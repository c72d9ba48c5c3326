"""A pause by hand: the user takes a running postcopy to `postcopy-paused` (QEMU's `migrate-pause`).

It is a break that nobody mends by himself: the connections are closed, the destination pauses, too,
and the source waits for an address from its user.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from protocol.errors import ConnectionLost, MigrationError
from protocol.states import Lifecycle, State


class PausedByHand(ConnectionLost):
    """The user has paused the migration."""


class Pause:
    """What a user says about pausing, and what becomes of it.

    `heed` it in each epoch, and say when one is `over`.
    """

    def __init__(self, lifecycle: Lifecycle, can_resume: Callable[[], bool]) -> None:
        """Prepare.

        Args:
            lifecycle: The migration's.
            can_resume: Whether a migration in postcopy could be resumed.
        """
        self._lifecycle = lifecycle
        self._can_resume = can_resume
        self._wanted = trio.Event()
        self._over = trio.Event()

    async def order(self) -> None:
        """Pause; return when that is so.

        Raises:
            MigrationError: It cannot be paused now.
        """
        state = self._lifecycle.state
        if state is not State.POSTCOPY_ACTIVE:
            raise MigrationError(
                f"only a migration that is postcopy-active can be paused, this one is {state.value}"
            )
        if not self._can_resume():
            raise MigrationError(
                "it could not be resumed: --reconnect-for is 0, or the destination cannot do it"
            )
        over = self._over
        self._wanted.set()
        await over.wait()
        if self._lifecycle.state is not State.POSTCOPY_PAUSED:
            raise MigrationError(f"it came too late: the state is {self._lifecycle.state.value}")

    async def heed(self) -> None:
        """Wait for the user's word in one epoch.

        Raises:
            PausedByHand: It came in time.
        """
        await self._wanted.wait()
        if self._lifecycle.state is State.POSTCOPY_ACTIVE:
            raise PausedByHand("its user has paused it")
        # Who ordered it hears of that at the end of the epoch.
        await trio.sleep_forever()

    def over(self) -> None:
        """Say that an epoch is over, and the state that of what follows."""
        self._over.set()
        self._wanted, self._over = trio.Event(), trio.Event()
