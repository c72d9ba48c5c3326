"""Carries out what the sending engine decides, over the channels of one migration.

One task sends, or one a lane; whoever has told the engine of requests calls `note_untold` and
`serve`.  What is sent, what waits and what is broken off is `source.engine`'s to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from guest import clock
from protocol.channels import Channel
from source.channel import OutChannel
from source.commands import Look, Room, Tell, Turn, Until, Wait, Write
from source.engine import SendEngine
from source.jobs import Lane


class Sender:
    """Sends what a scheduler has, over the channels of one migration.

    Attributes:
        engine: Decides; the sender's tasks do what it says.
    """

    def __init__(
        self,
        engine: SendEngine,
        channels: Mapping[Channel, OutChannel],
        now_ns: Callable[[], int] = clock.now_ns,
    ) -> None:
        """Send nothing yet; `drain` does.

        Args:
            engine: With the channels for its outlets.
            channels: Where it goes.
            now_ns: Tells the time, by a clock that goes as fast as trio's.
        """
        self.engine = engine
        self._channels = channels
        self._now_ns = now_ns
        # Where a lane's task waits, and for what.
        self._waiting: dict[Lane, tuple[trio.CancelScope, Wait]] = {}
        # Here somebody waits for requests that there is something to tell of.
        self._untold = trio.lowlevel.ParkingLot()

    async def drain(self, *, until: Callable[[int], bool] | None = None) -> None:
        """Send until the scheduler has nothing left.

        Cancelling may leave a half-sent frame as a channel's `open_frame`.

        Args:
            until: Asked with the time before each frame of the background: true to leave the rest.

        Raises:
            ConnectionLost: A connection is broken; in a group where the policy has two lanes.
        """
        self.engine.start(until)
        try:
            if self.engine.serving_lane is Lane.ALL:
                await self._send(Lane.ALL)
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, Lane.BACKGROUND)
                    # Begins first: what is requested already is not left to the background.
                    await self._send(Lane.URGENT)
        finally:
            self.engine.stop()

    def serve(self) -> None:
        """Send what is asked for, as far as the sockets take it, if the lane's task waits.

        Else that does, when it comes to it.

        Raises:
            ConnectionLost: The connection is broken.
        """
        engine = self.engine
        while (command := engine.serve(self._now_ns())) is not None:
            self._carry_out(engine.serving_lane, command)
        self.rouse()

    def look(self, command: Look) -> None:
        """Look how a channel delivers, as the engine says, and tell it."""
        self.engine.gate.delivers(self._channels[command.channel].delivery())

    def note_untold(self) -> None:
        """Have `tell` look whether there is something to tell of requests."""
        if self._untold and self.engine.telling.untold_count:
            self._untold.unpark_all()

    def rouse(self) -> None:
        """Wake the tasks that wait for what the engine does not have them wait for any more."""
        for lane, (scope, wait) in self._waiting.items():
            if self.engine.wait_of(lane) is not wait:
                scope.cancel()

    async def tell(self) -> None:
        """Tell the destination of requests that no lane's task comes to, until cancelled.

        Raises:
            ConnectionLost: The connection is broken.
        """
        engine = self.engine
        while True:
            await self._untold.park()
            while (command := engine.tell_by_itself(self._now_ns())) is not None:
                if isinstance(command, Until):
                    await self._sleep_until(command)
                else:
                    self._tell(command)

    async def _send(self, lane: Lane) -> None:
        """Do what the engine says for a lane, until that has sent what it has."""
        while (command := self.engine.next(lane, self._now_ns())) is not None:
            if isinstance(command, (Write, Tell, Look)):
                self._carry_out(lane, command)
            elif isinstance(command, Turn):
                await trio.lowlevel.checkpoint()
            else:
                await self._wait(lane, command)
        self.rouse()
        # With nothing to send there was no checkpoint, and a caller's loop must have one.
        await trio.lowlevel.checkpoint()

    def _carry_out(self, lane: Lane, command: Write | Tell | Look) -> None:
        """Do what needs no wait, and say what came of it."""
        if isinstance(command, Write):
            channel = self._channels[command.outlet.name]
            send = channel.send_in_a_row if command.paced else channel.send_now
            count = send(command.frame, command.limit)
            self.engine.took(lane, count, self._now_ns())
            self.note_untold()
        elif isinstance(command, Tell):
            self._tell(command)
        else:
            self.look(command)

    def _tell(self, command: Tell) -> None:
        channels = (self._channels[name] for name in command.channels)
        went = any(channel.send_short(*command.answers) for channel in channels)
        self.engine.told(went=went)

    async def _wait(self, lane: Lane, wait: Wait) -> None:
        """Wait as the engine says, or until it says otherwise."""
        # A scope is made to wait in, and not for each piece that goes at once: it costs as much as
        # copying a tenth of a huge page.
        with trio.CancelScope() as scope:
            self._waiting[lane] = scope, wait
            try:
                if isinstance(wait, Room):
                    await self._channels[wait.channel].wait_room()
                elif isinstance(wait, Until):
                    await self._sleep_until(wait)
                else:
                    await trio.sleep_forever()
            finally:
                del self._waiting[lane]
        if not scope.cancelled_caught:
            self.engine.wait_over(lane, wait)

    async def _sleep_until(self, wait: Until) -> None:
        await trio.sleep(max(wait.at_ns - self._now_ns(), 0) / 1e9)
