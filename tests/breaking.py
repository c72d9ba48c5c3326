"""A whole source and a whole destination in this process, and a proxy between them that breaks.

The guest is a fake one (tests/guests.py): no vCPU runs, but pages can be touched, so that requests
are open.  Everything else is as it is: sockets, handshakes, memory, both sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from dest.config import DestConfig
from dest.midstream import MidstreamPeer
from dest.session import DestSession
from protocol import events
from protocol.channels import Channel
from protocol.errors import ConnectionLost, MidstreamError, PeerAborted
from protocol.geometry import Geometry
from protocol.messages import PROTOCOL_VERSION, Hello, Message
from protocol.session_messages import offer
from protocol.wire import encode
from scripts.injection.actions import NetworkAction
from scripts.injection.marks import BytesMark, Direction, Mark, Marks
from scripts.injection.proxy import Proxy
from scripts.injection.tap import Tap
from source.convergence import SwitchRule
from source.session import SourceSession
from tests.bounds import bare
from tests.guests import KIB, FakeGuests
from tests.sides import source_config
from tests.stories import Recorder

# How a guest is handed over.
RULES = {
    "postcopy": SwitchRule(postcopy_after=0, downtime_ms_max=300),
    "a pass first": SwitchRule(postcopy_after=1, downtime_ms_max=0),
    "precopy": SwitchRule(postcopy_after=None, downtime_ms_max=300),
}


@dataclass(frozen=True)
class Place:
    """A place in what is said, wherever among the bytes that turns out to be.

    Attributes:
        channel: Where it is said.
        direction: Which way.
        kind: The message.
        nth: Which one of that kind there.
        behind: How many bytes behind the last one of its head; 0 is the last byte of the head.
        urgent: If only such pages are counted.
    """

    channel: Channel
    direction: Direction
    kind: type[Message]
    nth: int = 1
    behind: int = 0
    urgent: bool | None = None

    def is_of(self, channel: Channel | None, direction: Direction, message: Message) -> bool:
        """Tell whether a message counts."""
        return (
            (channel, direction) == (self.channel, self.direction)
            and type(message) is self.kind
            and self.urgent in (None, getattr(message, "urgent", None))
        )


Breaks = dict[Mark | Place, NetworkAction]


class PlacedMarks(Marks):
    """Marks that are found while messages go by.

    Attributes:
        found: What to do at each mark by now.
        unreached: Places that have not come.
    """

    def __init__(self, geometry: Geometry, breaks: Breaks) -> None:
        """Start with no message seen."""
        self.found = {mark: do for mark, do in breaks.items() if not isinstance(mark, Place)}
        super().__init__(geometry, self.found)
        self._actions = {place: do for place, do in breaks.items() if isinstance(place, Place)}
        self._left = {place: place.nth for place in self._actions}

    @property
    def unreached(self) -> list[Place]:
        """Places that have not come."""
        return list(self._left)

    def look(
        self, channel: Channel, direction: Direction, message: Message, end: int
    ) -> list[Mark]:
        """Take a message whose head is so many bytes down its way; return what it reaches."""
        reached: list[Mark] = []
        for place in [each for each in self._left if each.is_of(channel, direction, message)]:
            self._left[place] -= 1
            if self._left[place]:
                continue
            del self._left[place]
            mark = BytesMark(end + place.behind, channel, direction)
            self.found[mark] = self._actions[place]
            if place.behind:
                self._counts.append(mark)
            else:
                reached.append(mark)
        return reached


def take_head(tap: Tap, data: memoryview) -> list[Mark]:
    """Have a tap take a part of a head, and look for places when it is whole."""
    seen: list[Message] = []
    begin = tap._begin

    def look_and_begin(message: Message) -> list[Mark]:
        seen.append(message)
        return begin(message)

    setattr(tap, "_begin", look_and_begin)  # noqa: B010 - a method
    try:
        reached = _TAKE_HEAD(tap, data)
    finally:
        del tap._begin
    marks, channel = tap._marks, tap.channel
    if isinstance(marks, PlacedMarks) and channel is not None:
        for message in seen:
            passed = marks._passed.get((channel, tap._direction), 0) + tap._uncounted
            reached += marks.look(channel, tap._direction, message, passed + len(data))
    return reached


_TAKE_HEAD = Tap._take_head

# What the postcopy channel has carried by then.
HELLO = encode(
    Hello(version=PROTOCOL_VERSION, session=bytes(16), role="postcopy", capabilities=offer())
)


@dataclass
class Run:
    """How a run ended.

    Attributes:
        reports: By side, of those that ended well.
        errors: By side, of the others, and of those that found wrong memory.
        events: By side.
        passed: How many bytes passed on each channel, each way.
        unreached: Places that never came.
    """

    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, MidstreamError] = field(default_factory=dict)
    events: dict[str, Recorder] = field(default_factory=dict)
    passed: dict[Any, int] = field(default_factory=dict)
    unreached: list[Place] = field(default_factory=list)

    def states(self, side: str) -> list[str]:
        """Return the states that a side went through."""
        return self.events[side].states

    @property
    def last_byte_of_switch_over(self) -> int:
        """How many bytes had gone over the precopy channel when the guest was handed over."""
        ram = self.reports["source"]["ram"]
        return int(ram["precopy-bytes"] + ram["downtime-bytes"]) - len(HELLO)


class Breaking:
    """Runs migrations over a proxy.

    Attributes:
        guests: By side, the guests of all runs, the last one last.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have both sessions use fake guests."""
        self.guests = {"source": FakeGuests(), "dest": FakeGuests()}
        for side, guests in self.guests.items():
            monkeypatch.setattr(f"{side}.session.open_guest", guests.open)
            monkeypatch.setattr(f"{side}.session.start_process", guests.start)
        monkeypatch.setattr(Tap, "_take_head", take_head)

    async def run(
        self,
        geometry: Geometry,
        breaks: Breaks,
        *,
        touch: Iterable[int] = (),
        dest: dict[str, Any] | None = None,
        **source: Any,  # noqa: ANN401 - of the configuration
    ) -> Run:
        """Migrate to the end, however that is.

        Args:
            geometry: The guest.
            breaks: What to do to the network, and at which byte.
            touch: Flat target pages that vCPUs touch as soon as the guest runs there.
            dest: Of the destination's configuration.
            **source: Of the source's configuration.
        """
        run = Run(events={"source": Recorder(), "dest": Recorder()})
        marks = PlacedMarks(geometry, breaks)
        proxy = Proxy(marks, lambda mark: proxy.act(marks.found[mark]))
        settings: dict[str, Any] = {"backing": "base", "wait_seconds": 20.0} | (dest or {})
        listening = trio.Event()
        address = ""

        def listens(where: str) -> None:
            nonlocal address
            address = where
            listening.set()

        untouched = list(enumerate(touch))

        def touched() -> None:
            guest = self.guests["dest"].made[-1]
            for vcpu, flat in untouched:
                guest.fault(vcpu, flat)
            untouched.clear()

        run.events["dest"].on(events.State, touched, state="postcopy-active")
        dest_config = DestConfig(host="127.0.0.1", port=0, **settings)
        taker = DestSession(
            dest_config, MidstreamPeer(dest_config), run.events["dest"], listens, lambda _: None,
        )  # fmt: skip

        async def give() -> None:
            await listening.wait()
            host, _, port = address.rpartition(":")
            near = await nursery.start(proxy.serve, host, int(port))
            config = source_config(
                geometry, int(near.rpartition(":")[2]),
                **({"reconnect_seconds": 15.0, "chunk_bytes": 64 * KIB} | source),
            )  # fmt: skip
            await self._end(run, "source", SourceSession(config, run.events["source"]).run)

        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as sides:
                sides.start_soon(give)
                await self._end(run, "dest", taker.run)
            run.passed, run.unreached = marks.passages, marks.unreached
            nursery.cancel_scope.cancel()
        return run

    async def _end(self, run: Run, side: str, session: Callable[[], Any]) -> None:
        try:
            result = await session()
            run.reports[side] = result.report
            if result.problem is not None:
                run.errors[side] = result.problem
        except MidstreamError as error:
            run.errors[side] = bare(error)


def judge(run: Run) -> str:
    """Return what is wrong with how a run ended, empty if nothing."""
    if not run.errors:
        sides = [report["midstream"]["verified"]["digest-equal"] for report in run.reports.values()]
        return "" if sides == [True, True] else "wrong memory"
    # What nobody heard can only be the last word; the guest is whole over there.
    if list(run.errors) == ["source"] and run.states("dest")[-1] == "completed":
        return "" if run.states("source")[-1] == "completed" else f"{run.errors}"
    early = "postcopy-paused" not in run.states("source")
    ran = "postcopy-active" in run.states("dest") or "completed" in run.states("dest")
    if early and not ran and _says_why(run.errors):
        return ""
    return f"{run.errors} {run.states('source')} {run.states('dest')}"


def _says_why(errors: Mapping[str, MidstreamError]) -> bool:
    """Tell whether both sides know that a connection was lost, by themselves or by the other."""
    source, dest = errors.get("source"), errors.get("dest")
    # A source that still has the guest comes back to say so to who waits for it.
    told = isinstance(dest, PeerAborted) and str(source) in str(dest)
    return isinstance(source, ConnectionLost) and (told or isinstance(dest, ConnectionLost))
