"""The source in virtual time: the same phases and the same engine, their steps carried out here.

`source.migration` and `source.sender` do this over sockets.  Nothing is decided here either: each
step and each command is one call, and what came of it goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guest.streams.stream import NOT_ASKED
from protocol.channels import Channel
from protocol.errors import MigrationError
from protocol.events import Emit
from protocol.messages import Message, PageRequest
from protocol.report import SourcePart
from protocol.session_messages import ANSWERS, RECOVER
from protocol.states import Event, Lifecycle
from protocol.wire import encode
from scripts.simulate.agenda import Host
from scripts.simulate.kernel import ModelFrame, ModelOutlet, model_frame
from scripts.simulate.link import Flow
from scripts.simulate.sender import Sender
from scripts.simulate.vcpus import SourceVcpus
from source.config import SourceConfig
from source.phases import Phases
from source.reporting import Surroundings, source_part
from source.steering import Steering
from source.steps import LATE, Do, Drain, Received, Say, Step, Within

# What both sides of a simulated migration can do.
CAPABILITIES = (ANSWERS, RECOVER)

Hear = Callable[[Flow, ModelFrame], None]


class NoMemory:
    """A guest's memory of which nobody looks at a byte."""

    def __init__(self, config: SourceConfig) -> None:
        """Be as large as the guest."""
        self.geometry = config.geometry
        self.views: tuple[memoryview, ...] = tuple(memoryview(b"") for _ in config.geometry.blocks)


class SourceSide:
    """The source of one run; `start` it.

    Attributes:
        phases: Decide.
        is_done: The destination has said that all is there.
        priority: What became of the postcopy connection's going first.
        sender: Sends, once this was started.
        on_frame: See `Sender`.
        heard_bytes: What the destination has said so far.
    """

    def __init__(
        self,
        config: SourceConfig,
        host: Host,
        vcpus: SourceVcpus,
        emit: Emit,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            config: What the user said.
            host: What this side runs on.
            vcpus: The guest, as long as it is here.
            emit: Takes events.
        """
        self.is_done = False
        self.priority = NOT_ASKED
        self._agenda, self._model, self._processor = host.agenda, host.model, host.processor
        self._host = host
        self._lifecycle = Lifecycle(emit)
        steering = Steering(config, self._lifecycle, emit)
        self.phases = Phases(
            config, NoMemory(config), self._lifecycle, emit, steering, host.agenda.clock_ns(),
            make_frame=model_frame,
        )  # fmt: skip
        self._config = config
        self._vcpus = vcpus
        self._outlets: Mapping[Channel, ModelOutlet] = {}
        self.sender: Sender
        self.on_frame: Callable[[], None] | None = None
        self._steps: Any = None
        # What a step waits for, and until which number of a timer that counts.
        self._hears = False
        self._timer = 0
        self.heard_bytes = 0

    def start(self, outlets: Mapping[Channel, ModelOutlet]) -> None:
        """Begin with the migration, over these channels.

        Args:
            outlets: By their names; each frame's first byte is told where they were made.
        """
        self._outlets = outlets
        if self._config.policy.prioritizes:
            self.priority = outlets[Channel.POSTCOPY].prioritize()
        if not self._config.hold:
            self._vcpus.run(self._agenda.clock_ns())
        self._lifecycle.fire(Event.CONNECTED)
        self.phases.attach(outlets, CAPABILITIES, self._agenda.clock_ns())
        engine = self.phases.epoch.sending
        self.sender = Sender(engine, outlets, self._host, self._go_on)
        self.sender.on_frame = self.on_frame
        self._steps = self.phases.transfer()
        self._go_on(None)

    def expect(self, message: Message, payload: bytes = b"") -> None:
        """Say that a message of the destination is on its way: it is here when `hear` is called."""
        self.heard_bytes += len(encode(message)) + len(payload)

    def hear(self, channel: Channel, message: Message, payload: bytes) -> None:
        """Handle a message of the destination."""
        model = self._model
        cost_ns = model.request_ns if isinstance(message, PageRequest) else model.message_ns
        self._processor.submit(cost_ns, self._take, channel, message, payload)

    def part(self) -> SourcePart:
        """Return this side's part of the report; nothing was compared."""
        around = Surroundings(
            backing="none", dirty_log="modelled", return_path_bytes=self.heard_bytes,
            cpu_seconds=self._processor.busy_ns / 1e9, priority=self.priority,
            trace_left=self._vcpus.trace_left, guest_kind="modelled",
        )  # fmt: skip
        return source_part(self._config, self.phases, around, self._agenda.clock_ns())

    def _take(self, channel: Channel, message: Message, payload: bytes) -> None:
        now_ns = self._agenda.clock_ns()
        self.sender.settle()
        if isinstance(message, PageRequest):
            while (look := self.phases.request(message, now_ns)) is not None:
                self.sender.look(look)
            self.sender.serve()
            return
        self.phases.hear(channel, Received(message, payload, now_ns))
        self.sender.serve()
        if self._hears and (received := self.phases.epoch.heard()) is not None:
            self._hears = False
            self._go_on(received)

    def _go_on(self, answer: object) -> None:
        """Go on with what came of a step, until one takes its time."""
        self._timer += 1
        try:
            while True:
                self.phases.now.ns = self._agenda.clock_ns()
                step = self._steps.send(answer)
                is_done, answer = self._do(step)
                if not is_done:
                    return
        except StopIteration:
            self.is_done = True

    def _do(self, step: Step) -> tuple[bool, object]:
        """Begin a step; return whether it is done, and then what came of it."""
        match step:
            case Within(inner, seconds):
                is_done, answer = self._do(inner)
                # What is never late needs no timer; nobody here cancels what is being sent.
                if not is_done and inner is Do.HEAR:
                    until_ns = self._agenda.clock_ns() + int(max(seconds, 0) * 1e9)
                    self._agenda.at(until_ns, self._late, self._timer)
                return is_done, answer
            case Say(message, payload, channel):
                return self._say(self._outlets[channel], ModelFrame(message, payload))
            case Drain(until):
                self.sender.drain(until)
                return False, None
            case Do():
                return self._do_word(step)
        raise MigrationError(f"a simulated migration has no {type(step).__name__}")

    def _do_word(self, step: Do) -> tuple[bool, object]:
        match step:
            case Do.HEAR:
                received = self.phases.epoch.heard()
                self._hears = received is None
                return received is not None, received
            case Do.STOP_GUEST:
                state = self._vcpus.stop(self._agenda.clock_ns())
                self._processor.submit(self._model.stop_ns, self._go_on, state)
                return False, None
            case Do.HARVEST:
                dirty: NDArray[np.intp] = self._vcpus.harvest(self._agenda.clock_ns())
                return True, dirty
            case Do.KEEP_LITTLE:
                urgent = self._outlets.get(Channel.POSTCOPY)
                is_overtaken = urgent is not None and urgent.overtakes()
                precopy = self._outlets[Channel.PRECOPY]
                precopy.keep_little_in_the_kernel(is_overtaken=is_overtaken)
            case Do.START_LOG:
                self._vcpus.harvest(self._agenda.clock_ns())
            case Do.KEEP_ALIVE | Do.STOP_LOG:
                pass
            case _:
                raise MigrationError(f"a simulated migration does not {step.value}")
        return True, None

    def _say(self, outlet: ModelOutlet, frame: ModelFrame) -> tuple[bool, object]:
        """Send a message behind what is under way, which is as long as the kernel takes it."""
        self._processor.use(self._model.message_ns + frame.length * self._model.copy_ns_per_byte)
        outlet.send(frame, frame.length)
        outlet.open_frame = None if frame.done else frame
        if frame.done:
            return True, None
        outlet.wait_room(self._say_on, outlet, frame)
        return False, None

    def _say_on(self, outlet: ModelOutlet, frame: ModelFrame) -> None:
        is_done, _ = self._say(outlet, frame)
        if is_done:
            self._go_on(None)

    def _late(self, timer: int) -> None:
        if timer == self._timer and self._hears:
            self._hears = False
            self._go_on(LATE)
