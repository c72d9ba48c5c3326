"""The destination in virtual time: the same phases, engine and executor, over bytes that come.

`dest.migration`, `dest.receiver` and `dest.vcpus` do this over sockets.  What comes is told to the
executor when this side's processor has come to it; what the executor places, vCPUs may touch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from types import SimpleNamespace
from typing import Any, cast

from dest.engine import Engine
from dest.executor import Executor
from dest.phases import Phases
from dest.placement import Placement
from dest.steps import Discard, Receive, Say, Step, Stop, TakeOver, Terms
from dest.words import Word
from guest.memory import GuestMemory
from guest.programs import Program
from protocol.channels import Channel
from protocol.errors import MigrationError
from protocol.events import Emit, tell_run
from protocol.messages import Discard as DiscardWord
from protocol.messages import (
    End,
    Message,
    PassAck,
    PassEnd,
    RequestAnswer,
    Setup,
    SourceTime,
    SwitchOver,
    SwitchOverAhead,
)
from protocol.report import DestPart
from protocol.states import Event, Lifecycle, check_receivable
from scripts.simulate.agenda import Host
from scripts.simulate.kernel import ModelFrame
from scripts.simulate.link import Link
from scripts.simulate.presence import MODELLED, Bytes, Presence
from scripts.simulate.reader import Incoming, Reader
from scripts.simulate.vcpus import Latencies, Vcpu, vcpus_of
from source.config import SourceConfig

Reply = Callable[[Channel, Message, bytes], None]


class ReturnPath:
    """The way back to the source, as the executor knows it."""

    can_send_now = True

    def __init__(self, reply: Reply) -> None:
        """Hand words on."""
        self._reply = reply

    def send_now(self, *words: Word) -> bool:
        """Send words."""
        for word in words:
            self._reply(Channel.PRECOPY, word, b"")
        return True

    async def send(self, word: Word) -> None:
        """Send a word."""
        self.send_now(word)


class DestSide:
    """The destination of one run; it begins with the source's Setup.

    Attributes:
        engine: Decides.
        executor: Does what it says.
        presence: What vCPUs may touch.
        reader: Reads what comes.
        is_done: All is there, and was said to be.
    """

    def __init__(
        self,
        config: SourceConfig,
        host: Host,
        link: Link,
        program: Program,
        steps: Sequence[int],
        emit: Emit,
        reply: Reply,
    ) -> None:
        """Prepare; nothing has come.

        Args:
            config: What the source says in its Setup, too.
            host: What this side runs on.
            link: What the bytes come over.
            program: What vCPUs do.
            steps: Where each stands, when they come here.
            emit: Takes events.
            reply: Takes what is said to the source.
        """
        policy, geometry = config.policy, config.geometry
        self.is_done = False
        self._lifecycle = Lifecycle(emit)
        self._lifecycle.fire(Event.CONNECTED)
        self.engine = Engine(
            geometry,
            policy,
            emit,
            vcpu_count=program.spec.vcpu_count,
            overtaking=True,
            is_told=True,
        )
        self._config = config
        self._agenda, self._model, self._processor = host.agenda, host.model, host.processor
        self._link = link
        self._program = program
        self._emit = emit
        self._reply = reply
        self.presence = Presence(self.engine.assembly.units, host.model, host.processor)
        self.presence.on_wake = self._wakes
        memory = SimpleNamespace(
            geometry=geometry, views=[Bytes() for _ in geometry.blocks], words=self._no_words
        )
        self.executor = Executor(
            self.engine,
            cast(GuestMemory, memory),
            cast(Placement, self.presence),
            host.agenda.clock_ns,
        )
        self.executor.use(ReturnPath(reply))
        # The vCPUs of whose faults was just heard.
        self._heard: list[int] = []
        self.executor.on_fault = self._heard.append
        self.reader = Reader(config, host, link, self.executor, self._lifecycle, self._message)
        self.expect = self.reader.expect
        terms = Terms(
            peer="the source", ending=policy.channels, recovers=True, gives_verdict=True,
            rest_seconds=0.0, linger_seconds=0.0,
        )  # fmt: skip
        self.phases = Phases(geometry, self.engine, self._lifecycle, emit, terms, 0.0)
        self._main: Generator[Step, Any, None] | None = None
        self._latencies = Latencies()
        self._vcpus: list[Vcpu] = []
        self._steps = steps

    def part(self, cpu_seconds: float) -> DestPart:
        """Return this side's part of the report."""
        for vcpu in self._vcpus:
            vcpu.stop()
        self.engine.waits.tell_rest()
        latencies = self.engine.waits.latencies
        return DestPart(
            placement=MODELLED, backing="none", faults=latencies.faults, stages=latencies.stages,
            accesses=self._latencies.summary(), latency_ns=latencies.mean_ns,
            latency_bins=latencies.bins, vcpu_latency_ns=latencies.vcpu_mean_ns,
            blocktime_ms=latencies.blocktime_ms, reads=0, reads_unchecked=0, mismatches=0,
            cpu_seconds=cpu_seconds,
        )  # fmt: skip

    @property
    def is_quiet(self) -> bool:
        """Whether no vCPU waits, and nothing is to be said."""
        faults = self.engine.faults
        return not (self.presence.stopped or faults.waiting_vcpus or self.engine.words)

    # Words of the source.

    def _message(self, incoming: Incoming, frame: ModelFrame) -> None:
        """Handle a message that brings no pages."""
        message, name = frame.message, incoming.flow.name
        self.reader.was_read(incoming, frame)
        if isinstance(message, Setup):
            self._begin()
            return
        check_receivable(self._lifecycle.state, name, message)
        match message:
            case RequestAnswer() | SourceTime():
                self.engine.waits.take_word(message, self._agenda.clock_ns())
            case PassEnd():
                self._reply(Channel.PRECOPY, PassAck(index=message.index), b"")
            case DiscardWord():
                self.engine.assembly.discard(
                    message.block, message.first, message.count, frame.payload
                )
            case SwitchOverAhead():
                self._perform(self.phases.stopping(self._agenda.clock_ns()), lambda: None)
            case SwitchOver():
                # Its channel is not read while the guest is made to run.
                self.reader.hold(incoming)
                steps = self.phases.switch_over((), postcopy=message.postcopy)
                self._perform(steps, lambda: self.reader.go_on(incoming))
            case End():
                incoming.has_ended = True
                self._receive_on()

    def _begin(self) -> None:
        config, spec = self._config, self._program.spec
        tell_run(
            self._emit, config.geometry, policy=config.policy.name, chunk_bytes=config.chunk_bytes,
            vcpus=spec.vcpu_count, program=spec.name,
        )  # fmt: skip
        self._main = self.phases.begin()
        self._perform(self._main, lambda: None)

    def _receive_on(self) -> None:
        """Go on when all channels have ended."""
        assert self._main is not None
        if all(incoming.has_ended for incoming in self.reader.channels.values()):
            self._perform(self._main, lambda: None)

    def _perform(
        self, steps: Generator[Step, Any, None], then: Callable[[], None], answer: object = None
    ) -> None:
        """Do steps until one takes its time, or to their end; then do what follows."""
        try:
            while True:
                step = steps.send(answer)
                answer = None
                match step:
                    case Say(word, payload):
                        self._reply(Channel.PRECOPY, word, payload)
                    case Discard():
                        self.executor.start_postcopy()
                    case TakeOver():
                        self._processor.submit(
                            self._model.takeover_ns, self._take_over, steps, then
                        )
                        return
                    case Receive():
                        return
                    case Stop():
                        self.is_done = True
                        return
                    case _:
                        raise MigrationError(f"no {type(step).__name__} is simulated")
        except StopIteration:
            then()

    # vCPUs.

    def _take_over(self, steps: Generator[Step, Any, None], then: Callable[[], None]) -> None:
        model, presence = self._model, self.presence
        self._vcpus = [
            Vcpu(accesses, self._agenda, self._latencies, self._touch, presence, self._is_whole)
            for accesses in vcpus_of(self._steps, self._program, model.access_ns)
        ]  # fmt: skip
        for vcpu in self._vcpus:
            vcpu.begin()
        self._perform(steps, then, self._agenda.clock_ns())

    def _is_whole(self) -> bool:
        return self.engine.assembly.complete

    def _touch(self, vcpu: int, flat: int, unit: int) -> None:
        """Stop a vCPU as the kernel would, and report it."""
        now_ns = self._agenda.now_ns
        self.presence.touch(vcpu, flat, unit, now_ns)
        told_ns = now_ns + self._model.detect_ns
        self._agenda.at(told_ns, self._processor.submit, self._model.fault_ns, self._hear)

    def _hear(self) -> None:
        if not self.reader.places_early:
            self.executor.hear_faults()
            return
        self.reader.catch_up()
        self._heard.clear()
        self.executor.hear_faults()
        waits = self.engine.faults.waiting_vcpus
        self.reader.watch({waits[vcpu].page for vcpu in self._heard if vcpu in waits})

    def _wakes(self, vcpu: int, since_ns: int) -> None:
        woke_ns = self._agenda.clock_ns() + self._model.wake_ns
        self._agenda.at(woke_ns, self._woke, vcpu, since_ns, woke_ns)

    def _woke(self, vcpu: int, fault_ns: int, woke_ns: int) -> None:
        self._processor.submit(self._model.woke_ns, self.engine.woke, vcpu, woke_ns, fault_ns)
        self._vcpus[vcpu].went_on()

    @staticmethod
    def _no_words(_block: int) -> Any:  # noqa: ANN401 - as of a guest's memory
        raise MigrationError("a simulated guest has no zero pages")
