"""A stage for playbooks of the sending engine: what happened goes in, commands come out.

No socket, no task and no clock: streams take what there is room for, and the tasks of the lanes are
as many waits, each of which is over when what it waits for has come, or when the engine says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial

from guest.streams.stream import Delivery
from protocol.channels import Channel
from protocol.events import Emit
from protocol.geometry import Geometry, PageId, Span
from protocol.messages import PageData, RequestAnswer, RunData
from protocol.pageset import PageSet
from protocol.policy import Policy, preset
from protocol.runs import Stretch, unpack_runs
from protocol.wire import Decoder
from source.commands import Command, Look, Room, Tell, Turn, Until, Wait, Write
from source.engine import SendEngine
from source.framing import frame_of
from source.jobs import Answer, Lane
from source.outlet import Outlet
from source.pacing import Pacer
from source.scheduler import Scheduler
from source.tracking import RequestTracker
from tests.guests import KIB, small_geometry
from tests.stories import Recorder

CHUNK = 64 * KIB
MS = 1_000_000
PLENTY = 1 << 40

# Far more than any playbook needs.
_COMMANDS_MAX = 100_000


class Bytes:
    """Guest memory that is no more than its bytes, none of them zero; nobody writes to it."""

    def __init__(self, geometry: Geometry) -> None:
        """Fill it: each target page has bytes of its own."""
        self.geometry = geometry
        self.views = [
            memoryview(bytearray(b"".join(
                bytes([1 + number % 251]) * 4096 for number in range(block.target_page_count)
            ))) for block in geometry.blocks
        ]  # fmt: skip


@cache
def small_memory() -> Bytes:
    """Return four huge pages and 32 base pages."""
    return Bytes(small_geometry())


@dataclass
class Pipe:
    """What a stream took, and what it still takes."""

    room: int = PLENTY
    taken: bytearray = field(default_factory=bytearray)
    answers: list[RequestAnswer] = field(default_factory=list)
    refuses_short: bool = False

    def frames(self) -> list[PageData | RunData]:
        """Return the heads of the whole frames that it took."""
        decoder = Decoder()
        decoder.receive_data(bytes(self.taken))
        found: list[PageData | RunData] = []
        while isinstance(message := decoder.next_message(), (PageData, RunData)):
            payload = memoryview(bytearray(message.payload_bytes))
            if decoder.take_payload(payload) < len(payload):
                break
            found.append(message)
        return found

    def spans(self) -> list[Stretch]:
        """Return what those frames are about."""
        return [
            unpack_runs(each.block, each.offset, each.runs)[0] if isinstance(each, RunData)
            else Span(each.block, each.offset, each.payload_bytes)
            for each in self.frames()
        ]  # fmt: skip


class Stage:
    """An engine, and by its hands everything that it touches.

    Attributes:
        story: Every command that was carried out, as a word.
        waits: What the task of each lane waits for; a lane whose task has ended is not in it.
        delivery: How the channels deliver, but for those in `deliveries`.
    """

    def __init__(
        self,
        policy: str | Policy = "ordered",
        *,
        rate: int = 0,
        tracks: bool = False,
        yields: bool = False,
        keeps_behind: bool = False,
        chunk_bytes: int = CHUNK,
        emit: Emit | None = None,
        postcopy: bool = False,
    ) -> None:
        """Have all of a small guest to send, with the streams open and the tasks not begun."""
        self.memory = small_memory()
        geometry = self.memory.geometry
        self.events = Recorder()
        self.policy = preset(policy) if isinstance(policy, str) else policy
        self.scheduler = Scheduler(geometry, self.policy, chunk_bytes)
        self.outlets = {channel: Outlet(channel) for channel in Channel}
        self.pipes = {channel: Pipe() for channel in Channel}
        self.tracker = RequestTracker(geometry, critical=self.policy.critical) if tracks else None
        self.engine = SendEngine(
            self.scheduler, partial(frame_of, self.memory), self.outlets,
            emit or self.events,
            pacer=Pacer(rate), tracker=self.tracker, yields=yields,
        )  # fmt: skip
        if keeps_behind:
            self.engine.gate.keep_behind()
        self.now_ns = 1000
        self.delivery = Delivery()
        self.deliveries: dict[Channel, Delivery] = {}
        self.story: list[str] = []
        self.waits: dict[Lane, Wait] = {}
        pages = PageSet(geometry)
        pages.fill()
        self.scheduler.add(pages, postcopy=postcopy)
        self.engine.start()

    @property
    def wait(self) -> Wait | None:
        """What the task of the lane that serves requests waits for."""
        return self.waits.get(self.engine.serving_lane)

    def run(self, lane: Lane = Lane.ALL, *, most: int = _COMMANDS_MAX) -> list[str]:
        """Have the task of a lane go on until it waits or ends; return what it did."""
        before = len(self.story)
        self.waits.pop(lane, None)
        for _ in range(most):
            command = self.engine.next(lane, self.now_ns)
            if command is None:
                self.story.append("end")
                break
            self._carry_out(lane, command)
            if lane in self.waits:
                break
        else:
            assert most < _COMMANDS_MAX, "it neither waits nor ends"
        return self.story[before:]

    def request(self, *indices: int, block: int = 0, target_page: int = 0) -> list[Answer]:
        """Have pages requested at once, and served; return what that leads to."""
        answers = [self.ask(PageId(block, index), target_page) for index in indices]
        self.serve()
        return answers

    def ask(self, page: PageId, target_page: int) -> Answer:
        """Have a page requested beside others, which are served together."""
        while isinstance(answer := self.engine.request(page, target_page, self.now_ns), Look):
            self._carry_out(self.engine.serving_lane, answer)
        return answer

    def serve(self) -> None:
        """Do what the engine wants done for requests."""
        while (command := self.engine.serve(self.now_ns)) is not None:
            self._carry_out(self.engine.serving_lane, command)

    def rouse(self) -> list[Lane]:
        """Return the lanes whose tasks need not wait any more for what they wait for."""
        return [lane for lane, wait in self.waits.items() if self.engine.wait_of(lane) is not wait]

    def over(self, lane: Lane = Lane.ALL) -> list[str]:
        """End the wait of a lane's task, have it go on, and return what it did."""
        self.engine.wait_over(lane, self.waits[lane])
        return self.run(lane)

    def give_room(self, channel: Channel, count: int) -> None:
        """Let a stream take so many bytes more."""
        self.pipes[channel].room += count

    def is_over(self, wait: Wait) -> bool:
        """Tell whether what a task waits for has come."""
        if isinstance(wait, Room):
            return self.pipes[wait.channel].room > 0
        return isinstance(wait, Until) and wait.at_ns <= self.now_ns

    def _carry_out(self, lane: Lane, command: Command) -> None:
        if isinstance(command, Write):
            pipe = self.pipes[command.outlet.name]
            count = min(command.limit, command.frame.length - command.frame.sent, pipe.room)
            rest = b"".join(command.frame.rest(command.limit))
            pipe.taken += rest[:count]
            pipe.room -= count
            command.outlet.took(command.frame, count)
            way = "background" if command.paced else "urgent"
            self.story.append(f"{way} {command.outlet.name.value} {count}")
            self.engine.took(lane, count, self.now_ns)
        elif isinstance(command, Tell):
            takers = [name for name in command.channels if not self.pipes[name].refuses_short]
            if takers:
                self.pipes[takers[0]].answers += command.answers
            where = takers[0].value if takers else "nowhere"
            self.story.append(f"tell {where} {len(command.answers)}")
            self.engine.told(went=bool(takers))
        elif isinstance(command, Look):
            self.story.append(f"look {command.channel.value}")
            self.engine.gate.delivers(self.deliveries.get(command.channel, self.delivery))
        elif isinstance(command, Turn):
            self.story.append("turn")
        else:
            self.waits[lane] = command
            self.story.append(_told(command))


def _told(wait: Wait) -> str:
    if isinstance(wait, Room):
        return f"room {wait.channel.value}"
    return f"until {wait.at_ns}" if isinstance(wait, Until) else "request"


def waiting(
    policy: str = "ordered", *, took: int = 1000, tracks: bool = False, keeps_behind: bool = False
) -> Stage:
    """Return a stage whose background waits for room, with so many bytes of page 0 gone."""
    stage = Stage(policy, tracks=tracks, keeps_behind=keeps_behind)
    stage.pipes[Channel.PRECOPY].room = took
    stage.run()
    assert stage.wait == Room(Channel.PRECOPY)
    return stage
