"""Carries out what the sending engine says, in virtual time, over modelled connections.

The tasks of `source.sender` are chains of events here.  A frame of the background that has to wait
for room goes by itself, in one step, until it is through or somebody interrupts it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping

from protocol.channels import Channel
from protocol.geometry import Span
from scripts.simulate.agenda import Host, goes_on
from scripts.simulate.kernel import ModelFrame, ModelOutlet
from source.commands import Look, Room, Tell, Turn, Until, Wait, Write
from source.engine import SendEngine
from source.jobs import Lane


class Waiting:
    """A wait of a lane; each is another one, however alike they are.

    Attributes:
        lane: Whose.
        wait: For what.
    """

    __slots__ = ("lane", "wait")

    def __init__(self, lane: Lane, wait: Wait) -> None:
        """Begin."""
        self.lane = lane
        self.wait = wait


class Sender:
    """Carries out what the sending engine says, as `source.sender` does with tasks.

    Attributes:
        on_frame: Called when a frame of the background was begun, after all else.
    """

    def __init__(
        self,
        engine: SendEngine,
        outlets: Mapping[Channel, ModelOutlet],
        host: Host,
        drained: Callable[[object], None],
    ) -> None:
        """Send nothing yet; `drain` does.

        Args:
            engine: Decides.
            outlets: Where it goes.
            host: What the source runs on.
            drained: Called with None when all has gone.
        """
        self._engine = engine
        self._outlets = outlets
        self._agenda, self._model, self._processor = host.agenda, host.model, host.processor
        self._drained = drained
        self._begun: Lane | None = None
        self.on_frame: Callable[[], None] | None = None
        self._lanes: set[Lane] = set()
        self._waiting: dict[Lane, Waiting] = {}
        # What each lane was told to write last.
        self._writes: dict[Lane, Write] = {}
        # The lane whose frame goes by itself, and since when.
        self._streams: Lane | None = None
        self._streams_since_ns = 0
        self._tells_at: int | None = None

    def drain(self, until: Callable[[int], bool] | None) -> None:
        """Send until the scheduler has nothing left."""
        engine = self._engine
        engine.start(until)
        lanes = engine.scheduler.lanes
        self._lanes = set(lanes)
        for lane in lanes:
            self._processor.submit(0, self._send, lane)

    def serve(self) -> None:
        """Send what is asked for, as far as the kernel takes it, if the lane waits."""
        engine = self._engine
        while (command := engine.serve(self._agenda.clock_ns())) is not None:
            self._carry_out(engine.serving_lane, command)
        self._rouse()
        self._tell_untold()

    def settle(self) -> None:
        """Inform the engine of what the kernel has taken by now of what goes by itself."""
        lane = self._streams
        if lane is None:
            return
        self._end_stream(lane)
        outlet = self._outlets[self._writes[lane].outlet.name]
        # Whoever waits for room waits on, if it is not called off.
        waiting = self._waiting[lane]
        assert isinstance(waiting.wait, Room)
        outlet.wait_room(self._over, waiting)

    @property
    def begun(self) -> tuple[Lane, Write] | None:
        """The frame of the background that was begun last, and its lane, if it is not done."""
        lane = self._begun
        if lane is None or self._writes[lane].frame.done:
            return None
        return lane, self._writes[lane]

    def ahead(self, lane: Lane, count_max: int) -> list[Span]:
        """See `SendEngine.ahead`."""
        return self._engine.ahead(lane, count_max)

    def run_on(self, lane: Lane, rows: Iterable[Span]) -> Write:
        """See `SendEngine.run_on`: a lane's frame is the last of rows of pages from now on."""
        for row in rows:
            self._writes[lane] = self._engine.run_on(lane, row)
        return self._writes[lane]

    def state(self, now_ns: int) -> Hashable:
        """Return all that matters of it, as seen from now, besides what the engine knows."""
        return (
            self._streams, self._streams_since_ns - now_ns,
            *((lane, type(waiting.wait)) for lane, waiting in self._waiting.items()),
        )  # fmt: skip

    def is_current(self, waiting: Waiting) -> bool:
        """Return whether its lane still waits for that."""
        return self._waiting.get(waiting.lane) is waiting

    def shift(self, passed_ns: int) -> None:
        """Be so much later."""
        self._streams_since_ns += passed_ns

    @goes_on
    def _send(self, lane: Lane) -> None:
        """Do what the engine says for a lane, until it waits, or lets others have their turn."""
        engine = self._engine
        while (command := engine.next(lane, self._agenda.clock_ns())) is not None:
            if isinstance(command, (Write, Tell, Look)):
                self._carry_out(lane, command)
            elif isinstance(command, Turn):
                self._processor.submit(0, self._send, lane)
                return
            else:
                self._wait(lane, command)
                return
        self._lanes.discard(lane)
        self._rouse()
        if not self._lanes:
            engine.stop()
            self._drained(None)

    def _carry_out(self, lane: Lane, command: Write | Tell | Look) -> None:
        model = self._model
        if isinstance(command, Write):
            self._writes[lane] = command
            outlet, frame = self._outlets[command.outlet.name], command.frame
            assert isinstance(frame, ModelFrame)
            is_new = not frame.sent
            count = outlet.send(frame, command.limit)
            cost_ns = model.write_ns + count * model.copy_ns_per_byte
            self._processor.use(cost_ns + (model.frame_ns if is_new else 0))
            self._engine.took(lane, count, self._agenda.clock_ns())
            if is_new and command.paced:
                self._begun, self._agenda.after = lane, self.on_frame
        elif isinstance(command, Tell):
            self._tell(command)
        else:
            self.look(command)

    def look(self, command: Look) -> None:
        """Look how a channel delivers, as the engine says, and tell it."""
        self._engine.gate.delivers(self._outlets[command.channel].delivery())

    def _wait(self, lane: Lane, wait: Wait) -> None:
        """Wait as the engine says, or until it says otherwise."""
        waiting = self._waiting[lane] = Waiting(lane, wait)
        if isinstance(wait, Room):
            outlet, write = self._outlets[wait.channel], self._writes[lane]
            if write.paced and not self._engine.gate.pacer.bytes_per_second:
                self._streams = lane
                self._streams_since_ns = self._agenda.clock_ns()
                assert isinstance(write.frame, ModelFrame)
                outlet.stream(write.frame, self._over, waiting)
            else:
                outlet.wait_room(self._over, waiting)
        elif isinstance(wait, Until):
            self._agenda.at(max(wait.at_ns, self._agenda.clock_ns()), self._over, waiting)

    @goes_on
    def _over(self, waiting: Waiting) -> None:
        """Wake a lane whose wait is over, if it still waits for that."""
        if self.is_current(waiting):
            self._processor.submit(self._model.write_ns, self._go_on, waiting)

    @goes_on
    def _go_on(self, waiting: Waiting) -> None:
        if not self.is_current(waiting):
            return
        lane = waiting.lane
        if self._streams is lane:
            self._end_stream(lane)
        del self._waiting[lane]
        self._engine.wait_over(lane, waiting.wait)
        self._send(lane)

    def _end_stream(self, lane: Lane) -> None:
        """Inform the engine how much was taken of what went by itself."""
        self._streams = None
        write = self._writes[lane]
        assert isinstance(write.frame, ModelFrame)
        if taken := self._outlets[write.outlet.name].settle(write.frame):
            # It was copied as it went, as far as nothing else was to be done.
            cost_ns = taken * self._model.copy_ns_per_byte
            self._processor.use(self._processor.lag_ns(cost_ns, self._streams_since_ns))
            self._engine.took(lane, taken, self._agenda.clock_ns())

    def _rouse(self) -> None:
        """Wake the lanes that wait for what the engine does not have them wait for any more."""
        for lane, waiting in list(self._waiting.items()):
            if self._engine.wait_of(lane) is not waiting.wait:
                if self._streams is lane:
                    self._end_stream(lane)
                del self._waiting[lane]
                self._processor.submit(self._model.write_ns, self._send, lane)

    def _tell_untold(self) -> None:
        """Inform the destination of requests that no lane comes to."""
        if self._tells_at is not None or not self._engine.telling.untold_count:
            return
        while (command := self._engine.tell_by_itself(self._agenda.clock_ns())) is not None:
            if isinstance(command, Until):
                self._tells_at = command.at_ns
                self._agenda.at(command.at_ns, self._tell_later)
                return
            self._tell(command)

    def _tell_later(self) -> None:
        self._tells_at = None
        self._tell_untold()

    def _tell(self, command: Tell) -> None:
        self._processor.use(self._model.write_ns)
        went = any(self._outlets[name].send_short(*command.answers) for name in command.channels)
        self._engine.told(went=went)
