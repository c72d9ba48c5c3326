"""A session's monitor: its user's commands while it runs, and what he is told of its pauses.

The commands come over the control socket, as those of QEMU's monitor over its own.  What each does
is done elsewhere; here each has its name, its argument and its answer.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from protocol import events
from protocol.addresses import host_port, parse_host_port
from protocol.errors import ConnectionLost, MigrationError
from protocol.events import Emit
from protocol.states import Lifecycle
from source.control import Commands, ControlSocket, control_socket
from source.endings import Endings, PausedByHand
from source.reconnect import Reconnector
from source.steering import Steering


class Monitor:
    """What a session and its user tell each other; `listen` while the session runs."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        reconnector: Reconnector,
        endings: Endings,
        steering: Steering,
        emit: Emit,
        tell: Callable[[str], None] = lambda _: None,
        tell_more: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare; nobody is heard before `listen`.

        Args:
            lifecycle: Where the migration is.
            reconnector: Takes another address.
            endings: Says whether it may be paused, and when that ends an epoch.
            steering: Takes limits, and the order to switch over.
            emit: Takes the event of how the session is reached.
            tell: Takes a line about each pause and its end, and about precopy that does not
                converge.
            tell_more: Takes a line about how the session is reached.
        """
        self._lifecycle = lifecycle
        self._reconnector = reconnector
        self._endings = endings
        # The user wants a pause; and the epoch in which he said so is over.
        self._pause_wanted = trio.Event()
        self._epoch_over = trio.Event()
        self._emit = emit
        self._tell = tell
        self._tell_more = tell_more
        self._control = ControlSocket(None)
        self._commands: Commands = {
            "pause": self._pause_by_hand,
            "resume": self._resume_at,
            "set": steering.set_limits,
            "status": self._tell_status,
            "switch-over": steering.switch_over,
        }

    @property
    def session(self) -> str:
        """The session's name, for whoever has something to tell it."""
        return self._reconnector.session.hex()

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[None]:
        """Take commands until the block is left; without a control socket it goes on, too."""
        async with control_socket(self.session, self._commands) as self._control:
            self._introduce()
            yield

    def warn(self, line: str) -> None:
        """Tell the user that precopy does not converge, and what can be done about it."""
        self._tell(
            f"{line}; to end it: midstream switch-over --session {self.session}, or Ctrl-C; the "
            "next time --postcopy-after-time or --give-up-after"
        )

    async def heed_pause(self) -> None:
        """Wait for the user's word that one epoch is to end (QEMU's `migrate-pause`).

        It is a break that nobody mends by himself: the connections are closed, the destination
        pauses, too, and the source waits for an address from its user.

        Raises:
            PausedByHand: It came in time.
        """
        await self._pause_wanted.wait()
        self._endings.pause()
        # Who ordered it hears of that at the end of the epoch.
        await trio.sleep_forever()

    def epoch_over(self) -> None:
        """Say that an epoch is over, and the state that of what follows."""
        self._epoch_over.set()
        self._pause_wanted, self._epoch_over = trio.Event(), trio.Event()

    def paused(self, loss: ConnectionLost) -> None:
        """Tell the user of a pause, and how he can end it."""
        if isinstance(loss, PausedByHand):
            self._tell(f"paused: {loss}; {self._by_hand}")
            return
        if self._control.path is None:
            by_hand = f"not at all, {self._control.problem}"
        else:
            by_hand = _resume_line(self.session)
        self._tell(f"paused: {loss}; trying to resume; by hand: {by_hand}")

    def resumed(self) -> None:
        """Tell the user that a pause is over, and where it goes on."""
        self._tell(f"resumed at {host_port(*self._reconnector.attempts.address)}")

    def _introduce(self) -> None:
        """Tell how this session can be told something."""
        control = self._control
        path = str(control.path) if control.path is not None else ""
        self._emit(events.Session(session=self.session, control=path))
        where = f"control socket {path}" if path else "no control socket"
        problem = f" ({control.problem})" if control.problem else ""
        self._tell_more(f"session {self.session}, {where}{problem}")

    async def _resume_at(self, address: str) -> str:
        """Try another address, at once and from now on; return how the first attempt went."""
        try:
            host, port = parse_host_port(address, port_min=1)
        except ValueError as error:
            raise MigrationError("that is no HOST:PORT") from error
        if not self._reconnector.attempts.trying:
            raise MigrationError(f"it is not paused, its state is {self._lifecycle.state.value}")
        return await self._reconnector.try_at(host, port)

    async def _pause_by_hand(self, _: str) -> str:
        """Pause a running postcopy until its user says where it is to go on."""
        self._endings.check_pause()
        over = self._epoch_over
        self._pause_wanted.set()
        await over.wait()
        self._endings.check_paused()
        return f"paused; {self._by_hand}"

    @property
    def _by_hand(self) -> str:
        """What a user who has paused it is to do, and what happens if he does not."""
        reconnector = self._reconnector
        return (
            f"by hand: {_resume_line(self.session)}, in {reconnector.seconds_left():.0f} s; then "
            f"{host_port(*reconnector.attempts.address)} is tried once more"
        )

    async def _tell_status(self, _: str) -> str:
        address = host_port(*self._reconnector.attempts.address)
        return f"{self._lifecycle.state.value}, to {address}, process {os.getpid()}"


def _resume_line(session: str) -> str:
    """Return the command that resumes a session."""
    return f"midstream source --resume {session} --connect HOST:PORT"
