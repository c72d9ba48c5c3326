"""Runs a scenario between two real QEMUs: starts both, has them migrate and recover, compares.

Their memory lies in files of this process's, so it can be compared byte for byte.  Neither guest
runs a step.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import trio

from protocol import events
from protocol.errors import MidstreamError, MigrationError
from protocol.events import Emit
from scripts.configure import parse_address
from scripts.qemu.drive import shorten
from scripts.qemu.machine import MachineSpec
from scripts.relay.relay import Relay
from scripts.relay.scenario import End, PairScenario
from scripts.relay.side import PAUSED, Side, differing_bytes, two_sides
from scripts.relay.steps import NamedPage, Touch

_POLL_SECONDS = 0.05
_TOUCHES_MAX = 256


@dataclass
class PairOutcome:
    """What came of a run.

    Attributes:
        states: What each side says in the end, or how it ended.
        history: All states of each side.
        served: The pages that were asked for and passed whole, in order, each with its channel.
        differing_bytes: Of the two memories.
        breaks: How often the main connection broke in postcopy.
        undone: The numbers of steps that were not due.
        timed_out: It did not come to what is expected.
        trouble: What went wrong on the way, in words.
    """

    states: dict[str, str] = field(default_factory=dict)
    history: dict[str, list[str]] = field(default_factory=dict)
    served: list[tuple[str, str]] = field(default_factory=list)
    differing_bytes: int = 0
    breaks: int = 0
    undone: tuple[int, ...] = ()
    timed_out: bool = False
    trouble: list[str] = field(default_factory=list)


class PairRun:
    """One run of a scenario; `run` it."""

    def __init__(self, scenario: PairScenario, emit: Emit) -> None:
        """Prepare.

        Args:
            scenario: What is run.
            emit: Takes the events of the relay.
        """
        self.outcome = PairOutcome()
        self._scenario = scenario
        self._emit = emit
        self._relay = Relay(
            [], self._heard, scenario.steps, scenario.window_bytes, self._touch_later
        )
        self._to_touch, self._touches = trio.open_memory_channel[Touch](_TOUCHES_MAX)
        self._requests: set[NamedPage] = set()
        self._asked = trio.lowlevel.ParkingLot()
        self._loaded = trio.Event()
        self._last_ping: int | None = None
        self._address = ("", 0)
        self._failure: MidstreamError | None = None

    async def run(self) -> PairOutcome:
        """Run it; nothing of it is left.

        Raises:
            MidstreamError: A QEMU could not be started, or is of another version.
        """
        scenario = self._scenario
        ends = (_spec(end) for end in (scenario.source, scenario.dest))
        async with two_sides(scenario.geometry, scenario.seed, *ends) as (source, dest, nursery):
            self._check_version(source)
            with trio.move_on_after(scenario.timeout_seconds) as patience:
                await self._migrate(source, dest, nursery)
            self.outcome.timed_out = patience.cancelled_caught
            await self._judge(source, dest)
        return self.outcome

    def _check_version(self, source: Side) -> None:
        first, last = self._scenario.versions
        if not first <= source.version[0] <= last:
            about = f"{first}" if first == last else f"{first} and later"
            seen = ".".join(map(str, source.version))
            raise MigrationError(f"this is about QEMU {about}, and the source is {seen}")

    async def _migrate(self, source: Side, dest: Side, nursery: trio.Nursery) -> None:
        scenario = self._scenario
        try:
            await self._begin(source, dest, nursery)
            nursery.start_soon(self._touch_all, dest, nursery)
            nursery.start_soon(self._recover, source, dest)
        except MigrationError as error:
            self.outcome.trouble.append(str(error))
        while True:
            if await self._is_as_expected(source, dest):
                # Who stays in a state for good is in it already.
                await trio.sleep(scenario.settle_seconds)
                if await self._is_as_expected(source, dest):
                    return
            await trio.sleep(_POLL_SECONDS)

    async def _is_as_expected(self, source: Side, dest: Side) -> bool:
        """Tell whether both are in the states that are expected, and every step was done."""
        expect = self._scenario.expect
        for key, side in (("source", source), ("dest", dest)):
            if key in expect and await side.state() != expect[key]:
                return False
        return not self._relay.undone

    async def _begin(self, source: Side, dest: Side, nursery: trio.Nursery) -> None:
        """Have the migration begin, and switch over with nothing in precopy."""
        for side in (source, dest):
            await side.allow(preempt=self._scenario.preempt)
        await self._listen(dest, "migrate-incoming")
        self._address = parse_address(await nursery.start(self._serve), "--listen")
        await source.switch_over(
            self._uri, self._scenario.postcopy_bandwidth, partial(self._shorten, source)
        )

    @property
    def _uri(self) -> str:
        host, port = self._address
        return f"tcp:{host}:{port}"

    async def _serve(self, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        with suppress(MigrationError):
            # That a migration fails is what a scenario may be about.
            await self._relay.run("127.0.0.1", 0, task_status.started)

    def _shorten(self, source: Side) -> None:
        """Have the source hold little that it cannot put off any more."""
        if self._scenario.window_bytes:
            try:
                shorten(source.pid, self._address[1], self._scenario.window_bytes)
            except OSError as error:
                self.outcome.trouble.append(f"QEMU's sockets keep their size: {error.strerror}")

    async def _listen(self, dest: Side, command: str) -> None:
        self._relay.far[:] = [await dest.listen(command)]

    async def _recover(self, source: Side, dest: Side) -> None:
        """Have both go on each time that both have paused."""
        after = [0, 0]
        for _ in range(self._scenario.recover):
            try:
                for side, count in zip((source, dest), after, strict=True):
                    await side.reaches(PAUSED, count)
                after = [len(source.states), len(dest.states)]
                await self._listen(dest, "migrate-recover")
                await source.call("migrate", uri=self._uri, resume=True)
            except MigrationError as error:
                self.outcome.trouble.append(f"recovery: {error}")
                return

    # Page faults.

    def _touch_later(self, touch: Touch) -> None:
        self._to_touch.send_nowait(touch)

    async def _touch_all(self, dest: Side, nursery: trio.Nursery) -> None:
        async for touch in self._touches:
            # Before the devices are loaded a touch would make a page of zeros.
            await self._loaded.wait()
            for page in touch.pages:
                try:
                    address = await dest.address_of(page)
                except MigrationError as error:
                    self.outcome.trouble.append(f"touch: {error}")
                    return
                nursery.start_soon(dest.touch, address)
                while page not in self._requests:
                    await self._asked.park()

    def _heard(self, event: events.Event, /) -> None:
        self._emit(event)
        geometry = self._relay.tracker.geometry
        if isinstance(event, events.PeerMessage):
            if event.name == "package":
                pings = self._relay.tracker.package_pings
                self._last_ping = pings[-1] if pings else None
                if not pings:
                    self._loaded.set()
            elif event.name == "pong" and event.value == self._last_ping:
                self._loaded.set()
        elif isinstance(event, events.PageRequest) and geometry is not None:
            self._requests.add(NamedPage(geometry.blocks[event.block].name, event.page))
            self._asked.unpark_all()
        elif isinstance(event, events.RequestServed) and geometry is not None:
            name = f"{geometry.blocks[event.block].name}:{event.page}"
            self.outcome.served.append((name, event.channel))

    async def _judge(self, source: Side, dest: Side) -> None:
        outcome = self.outcome
        for name, side in (("source", source), ("dest", dest)):
            outcome.states[name] = await side.state()
            outcome.history[name] = list(side.states)
        outcome.breaks = self._relay.tracker.breaks
        outcome.undone = tuple(step.number for step in self._relay.undone)
        outcome.differing_bytes = differing_bytes(source.memory, dest.memory)


def _spec(end: End) -> MachineSpec:
    return MachineSpec(program=end.program, accel=end.accel)
