"""A stage for playbooks of a whole source: what happened goes in, steps come out.

No socket, no task and no clock.  The destination is played by hand: correct where `instead` has
nothing, and connections carry as many bytes as they are told to before they break.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np

from guest.streams.stream import Delivery
from protocol.channels import Channel
from protocol.errors import ConnectionLost, MidstreamError, PeerAborted
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from protocol.messages import (
    Discard,
    End,
    Finished,
    Message,
    PageData,
    PageRequest,
    PageRest,
    PassAck,
    PassEnd,
    Ready,
    RunData,
    Running,
    Setup,
    Standing,
    SwitchOver,
    SwitchOverAck,
    SwitchOverAhead,
    ZeroData,
)
from protocol.missing import HeldParts, held_parts, missing_maps
from protocol.pageset import PageSet
from protocol.runs import unpack_runs
from protocol.states import Event, Lifecycle
from protocol.wire import Decoder
from source.commands import Look, Tell, Turn, Until, Write
from source.convergence import SwitchRule
from source.endings import Break, Endings
from source.jobs import Lane
from source.outlet import Frame, Outlet
from source.phases import Phases
from source.resumption import Lacking
from source.steering import Steering
from source.steps import LATE, Do, Drain, Farewell, Received, Say, Step, Steps, Within
from source.verification import Verification
from tests.guests import KIB
from tests.sides import source_config
from tests.source.stage import Bytes
from tests.stories import Recorder

T = TypeVar("T")

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
SMALL = Geometry((RamBlock("ram", 256 * KIB, 4 * KIB),))
ALL_CAPABILITIES = ("recover", "keepalive", "checksum", "answers")

PRECOPY_ONLY = SwitchRule(postcopy_after=None, downtime_ms_max=300)
AFTER_ONE_PASS = SwitchRule(postcopy_after=1, downtime_ms_max=0)
AT_ONCE = SwitchRule(postcopy_after=0, downtime_ms_max=300)

STATE = b"the device state"
# Far more than any playbook needs.
_TURNS_MAX = 100_000
_NEVER_NS = 1 << 62
_LONG_SECONDS = 1e9

Instead = Callable[[Message], list[Message]]


class _Wire:
    """One direction of a connection, byte by byte."""

    def __init__(self, take: Callable[[Message, bytes], None]) -> None:
        """Begin between two frames."""
        self._take = take
        self._decoder = Decoder()
        self.message: Message | None = None
        self.payload = memoryview(bytearray())
        self.have = 0

    def feed(self, data: bytes) -> None:
        """Take bytes, and hand on what is whole with them."""
        rest = memoryview(data)
        while True:
            if self.message is not None:
                count = min(len(rest), len(self.payload) - self.have)
                self.payload[self.have : self.have + count] = rest[:count]
                rest = rest[count:]
                self.have += count
                if self.have < len(self.payload):
                    return
                message, self.message = self.message, None
                self._take(message, bytes(self.payload))
            if rest:
                self._decoder.receive_data(rest)
                rest = rest[:0]
            self.message = self._decoder.next_message()
            if self.message is None:
                return
            self.payload = memoryview(bytearray(self.message.payload_bytes))
            self.have = self._decoder.take_payload(self.payload)


class Dest:
    """A destination that is played by hand.

    Attributes:
        views: What it has received.
        heard: (channel, message) of everything that came, in order.
        instead: What it answers to a message, by its type, in the place of the right answer.
        on_state: Called with the device state.
        replies: What it has said and the source not read yet.
        missing: The target pages that it lacks, since the last Discard; only while it knows that.
        held: Of which of these it has how many bytes.
        running: The guest runs here.
    """

    def __init__(self, geometry: Geometry, channels: int) -> None:
        """Begin with nothing."""
        self.geometry = geometry
        self.views = [bytearray(block.length_bytes) for block in geometry.blocks]
        self.heard: list[tuple[Channel, Message]] = []
        self.instead: dict[type[Message], Instead] = {}
        self.on_state: Callable[[bytes], object] = lambda _: None
        self.replies: deque[Message] = deque()
        self.missing = PageSet(geometry)
        self.held: HeldParts = {}
        self.running = False
        self._channels = channels
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Take new connections; what the old ones had under way is what it holds in part."""
        self.wires = {name: _Wire(partial(self._take, name)) for name in Channel}
        self.replies.clear()
        self._ends = self._target_pages = self._data_bytes = 0

    def break_off(self) -> None:
        """Lose the connections; whole target pages of a frame under way are kept, and a part."""
        for wire in self.wires.values():
            message = wire.message
            if isinstance(message, PageData) and self.running:
                whole = wire.have // TARGET_PAGE_BYTES * TARGET_PAGE_BYTES
                self._write(message.block, message.offset, bytes(wire.payload[:whole]))
                part = bytes(wire.payload[whole : wire.have])
                target_page = (message.offset + whole) // TARGET_PAGE_BYTES
                span = Span(message.block, message.offset + whole, TARGET_PAGE_BYTES)
                if part and self.missing.holds_any(span):
                    view = self.views[message.block]
                    view[span.offset : span.offset + len(part)] = part
                    self.held[message.block, target_page] = len(part)
        self.begin_epoch()

    def standing(self) -> list[tuple[Message, bytes]]:
        """Return what it says of itself after a break."""
        said: list[tuple[Message, bytes]] = []
        if self.running:
            said += missing_maps(self.missing)
            said += [(part, b"") for part in held_parts(self.held)]
        count = len(self.missing) if self.running else 0
        return [*said, (Standing(running=self.running, target_pages=count, dropped_bytes=0), b"")]

    def heard_types(self, name: Channel) -> list[str]:
        """Return the names of the messages of a channel in order, repetitions left out."""
        names: list[str] = []
        for channel, message in self.heard:
            kind = type(message).__name__
            if channel is name and kind not in {*names[-1:], "Checksum"}:
                names.append(kind)
        return names

    def finished(self) -> Finished:
        """Return what a correct destination counts."""
        return Finished(
            pages=self.geometry.page_count, target_pages=self._target_pages,
            data_bytes=self._data_bytes,
        )  # fmt: skip

    def _take(self, channel: Channel, message: Message, payload: bytes) -> None:
        self.heard.append((channel, message))
        match message:
            case PageData():
                self._write(message.block, message.offset, payload)
            case PageRest():
                self._write_rest(message, payload)
            case ZeroData():
                self._write(message.block, message.offset, bytes(message.length), is_zero=True)
            case RunData():
                self._take_runs(message, payload)
            case Discard():
                bits = np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little")
                for index in np.flatnonzero(bits[: message.count]).tolist():
                    offset = (message.first + index) * TARGET_PAGE_BYTES
                    self.missing.add(Span(message.block, offset, TARGET_PAGE_BYTES))
            case SwitchOver():
                self.on_state(payload)
                self.running = True
            case SwitchOverAhead():
                self.missing = PageSet(self.geometry)
        answer = self.instead.get(type(message), self._answer)
        self.replies.extend(answer(message))

    def _answer(self, message: Message) -> list[Message]:
        match message:
            case Setup():
                return [Ready()]
            case PassEnd():
                # Over each channel in postcopy; the source counts.
                return [PassAck(index=message.index)]
            case SwitchOverAhead():
                return [SwitchOverAck(clock_ns=0)]
            case SwitchOver():
                return [Running()]
            case End():
                self._ends += 1
                return [self.finished()] if self._ends == self._channels else []
        return []

    def _write(self, block: int, offset: int, data: bytes, *, is_zero: bool = False) -> None:
        """Write a stretch of whole target pages."""
        self.views[block][offset : offset + len(data)] = data
        self._data_bytes += 0 if is_zero else len(data)
        self._target_pages += len(data) // TARGET_PAGE_BYTES
        if data:
            self.missing.remove(Span(block, offset, len(data)))
        for start in range(offset, offset + len(data), TARGET_PAGE_BYTES):
            self.held.pop((block, start // TARGET_PAGE_BYTES), None)

    def _write_rest(self, message: PageRest, payload: bytes) -> None:
        target_page = message.offset // TARGET_PAGE_BYTES
        held_bytes = self.held.pop((message.block, target_page))
        assert held_bytes + len(payload) == TARGET_PAGE_BYTES
        self.views[message.block][message.offset : message.offset + len(payload)] = payload
        self._data_bytes += len(payload)
        self._target_pages += 1
        self.missing.remove(Span(message.block, target_page * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))

    def _take_runs(self, message: RunData, payload: bytes) -> None:
        """Write scattered runs, one after the other."""
        runs, is_zero = unpack_runs(message.block, message.offset, message.runs)
        at = 0
        for span, zero in zip(runs.spans(), is_zero.tolist(), strict=True):
            part = bytes(span.length) if zero else payload[at : at + span.length]
            self._write(span.block, span.offset, part, is_zero=zero)
            at += 0 if zero else span.length


class Play:
    """The source's phases, and by hand everything that they touch.

    Attributes:
        story: Every step that was taken, as a word.
        at: What is to happen before a step, by its word; it may raise what goes wrong.
        dest: The other side.
        dirty: What the guest writes to, by flat target page; harvested as it is.
        bytes_left: How many bytes the connections carry before they break; None for any number.
        on_write: Called when a connection has taken bytes.
        farewells: What was said at ends.
        last_word: Why the destination ended it, where that is read behind a break.
        now_ns: The time, which only waiting takes.
    """

    def __init__(
        self,
        geometry: Geometry = SMALL,
        capabilities: tuple[str, ...] = ("recover",),
        **changes: Any,  # noqa: ANN401 - any field of the configuration
    ) -> None:
        """Connect; nothing was said yet."""
        self.config = source_config(geometry, 1, **changes)
        self.memory = Bytes(geometry)
        self.events = Recorder()
        self.lifecycle = Lifecycle(self.events)
        self.steering = Steering(self.config, self.lifecycle, self.events)
        self.now_ns = 1_000_000_000
        self.phases = Phases(
            self.config, self.memory, self.lifecycle, self.events, self.steering, self.now_ns
        )
        self.verification = Verification(self.lifecycle, self.events)
        self.endings = Endings(self.config, self.verification, self.lifecycle, self.events)
        self.endings.phases = self.phases
        self.channels = list(Channel) if self.config.policy.own_channel else [PRE]
        self.dest = Dest(geometry, len(self.channels))
        self.capabilities = capabilities
        self.story: list[str] = []
        self.at: dict[str, Callable[[], object]] = {}
        self.dirty: set[int] = set()
        self.bytes_left: int | None = None
        self.on_write: Callable[[], object] = lambda: None
        self.farewells: list[Farewell] = []
        self.last_word: PeerAborted | None = None
        self._by_word: dict[Do, Callable[[int], object]] = {
            **dict.fromkeys(Do, lambda _: None),
            Do.HEAR: self._hear,
            Do.STOP_GUEST: lambda _: STATE,
            Do.START_LOG: lambda _: self.dirty.clear(),
            Do.HARVEST: lambda _: self._harvest(),
            Do.READ_ON: lambda _: self.last_word,
        }
        self.steering.on_change = lambda: self.phases.limits_changed(self.now_ns)
        self.lifecycle.fire(Event.CONNECTED)
        self.attach()

    def attach(self) -> None:
        """Have new connections."""
        self.outlets = {name: Outlet(name) for name in self.channels}
        self.phases.attach(self.outlets, self.capabilities, self.now_ns)

    def write(self, *flat: int) -> None:
        """Have the guest write to target pages of the first block."""
        for page in flat:
            self.memory.views[0][page * TARGET_PAGE_BYTES] ^= 0xFF
        self.dirty.update(flat)

    @property
    def is_equal(self) -> bool:
        """Whether the destination has what the guest has."""
        return [bytes(view) for view in self.memory.views] == [*map(bytes, self.dest.views)]

    def carry_out(self, steps: Steps[T]) -> T:
        """Take every step; return what the phase came to."""
        go_on: Callable[[], Step] = partial(steps.send, None)
        for _ in range(_TURNS_MAX):
            self.phases.now.ns = self.now_ns
            try:
                step = go_on()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                go_on = partial(steps.send, self._do(step))
            except (MidstreamError, KeyboardInterrupt) as error:
                go_on = partial(steps.throw, error)
        raise AssertionError("it does not end")

    def transfer(self) -> None:
        """Migrate in one go."""
        self.carry_out(self.phases.transfer())

    def end_epoch(self, error: BaseException) -> Break:
        """Have an epoch end by an error, and lose its connections."""
        broken = self.carry_out(self.endings.end_epoch(error))
        self.dest.break_off()
        self.bytes_left = None
        return broken

    def recover(self, messages_max: int | None = None) -> tuple[Standing, Lacking]:
        """Meet the destination again.

        Args:
            messages_max: After so many messages the connection breaks; None for never.
        """
        waiting = deque(self.dest.standing()[:messages_max])

        def hear() -> Received[Message]:
            if not waiting:
                raise ConnectionLost("the connection broke", "precopy")
            return Received(*waiting.popleft(), self.now_ns)

        return self.carry_out(_with_hearing(self.endings.recover(lambda: False), hear))

    def resume(self) -> None:
        """Recover over new connections, and go on to the end."""
        standing, lacking = self.recover()
        self.attach()
        self.carry_out(self.phases.resume(standing, lacking))

    def _do(self, step: Step, until_ns: int = _NEVER_NS) -> object:
        if isinstance(step, Within):
            until_ns = self.now_ns + round(min(max(step.seconds, 0.0), _LONG_SECONDS) * 1e9)
            answer = self._do(step.step, until_ns)
            if answer is LATE:
                self.now_ns = until_ns
                self.story[-1] += ", late"
            return answer
        word = _word(step)
        self.story.append(word)
        if word in self.at:
            self.at[word]()
        match step:
            case Do():
                return self._by_word[step](until_ns)
            case Drain(until):
                return self._drain(until, until_ns)
            case Say(message, payload, channel):
                outlet = self.outlets[channel]
                assert outlet.open_frame is None
                outlet.open_frame = frame = Frame(message, payload)
                while not frame.done:
                    self._carry(outlet, frame, frame.length)
                outlet.open_frame = None
            case Farewell():
                self.farewells.append(step)
        return None

    def _hear(self, until_ns: int) -> object:
        """Read what has come back until a message waits for a phase."""
        while (received := self.phases.epoch.heard()) is None:
            if self.bytes_left == 0:
                raise ConnectionLost("the connection broke", "precopy")
            if not self.dest.replies:
                assert until_ns < _NEVER_NS, "a phase waits for ever"
                return LATE
            self._read()
        return received

    def _harvest(self) -> object:
        harvested, self.dirty = sorted(self.dirty), set()
        return np.array(harvested, np.intp)

    def hear(self, channel: Channel, message: Message) -> None:
        """Have a message come over a channel."""
        self.phases.hear(channel, Received(message, b"", self.now_ns))

    def _read(self) -> None:
        """Read the next thing that came back."""
        message = self.dest.replies.popleft()
        if isinstance(message, PageRequest):
            self.phases.request(message, self.now_ns)
            self._serve()
        else:
            self.hear(PRE, message)

    def _carry(self, outlet: Outlet, frame: Frame, limit: int) -> int:
        """Carry bytes of a frame as far as the connection does; return how many."""
        count = min(limit, frame.length - frame.sent)
        if self.bytes_left is not None:
            count = min(count, self.bytes_left)
            if not count:
                raise ConnectionLost("the connection broke", outlet.name.value)
            self.bytes_left -= count
        data = b"".join(frame.rest(limit))[:count]
        outlet.took(frame, count)
        self.on_write()
        self.dest.wires[outlet.name].feed(data)
        return count

    def _drain(self, until: Callable[[int], bool] | None, until_ns: int) -> object:
        engine = self.phases.epoch.sending
        engine.start(until)
        lanes = deque(self.phases.scheduler.lanes)
        try:
            for _ in range(_TURNS_MAX):
                if not lanes:
                    return None
                while self.dest.replies:
                    self._read()
                command = engine.next(lanes[0], self.now_ns)
                if command is None:
                    lanes.popleft()
                elif isinstance(command, (Write, Tell, Look)):
                    self._carry_out(lanes[0], command)
                elif isinstance(command, Until):
                    if command.at_ns > until_ns:
                        return LATE
                    self.now_ns = max(self.now_ns, command.at_ns)
                    engine.wait_over(lanes[0], command)
                elif not isinstance(command, Turn):
                    lanes.rotate()
        finally:
            engine.stop()
        raise AssertionError("it does not drain")

    def _carry_out(self, lane: Lane, command: Write | Tell | Look) -> None:
        engine = self.phases.epoch.sending
        if isinstance(command, Write):
            count = self._carry(command.outlet, command.frame, command.limit)
            engine.took(lane, count, self.now_ns)
        elif isinstance(command, Tell):
            frame = Frame(command.answers[-1], before=command.answers[:-1])
            outlet = self.outlets[command.channels[0]]
            while not frame.done:
                self._carry(outlet, frame, frame.length)
            engine.told(went=True)
        else:
            engine.gate.delivers(Delivery())

    def _serve(self) -> None:
        engine = self.phases.epoch.sending
        while (command := engine.serve(self.now_ns)) is not None:
            self._carry_out(engine.serving_lane, command)


def _with_hearing(steps: Steps[T], hear: Callable[[], Received[Message]]) -> Steps[T]:
    """Answer what a phase hears, and hand all else on."""
    go_on: Callable[[], Step] = partial(steps.send, None)
    while True:
        try:
            step = go_on()
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            is_hearing = isinstance(step, Within) and step.step is Do.HEAR
            go_on = partial(steps.send, hear() if is_hearing else (yield step))
        except MidstreamError as error:
            go_on = partial(steps.throw, error)


def _word(step: Step) -> str:
    """Return what a step is called in a story."""
    match step:
        case Say():
            name = type(step.message).__name__
            return name if step.channel is PRE else f"{name} over {step.channel.value}"
        case Do():
            return step.name.lower().replace("_", " ")
        case _:
            return type(step).__name__.lower()
