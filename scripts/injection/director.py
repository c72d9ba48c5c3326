"""Waits for the moments that a scenario's steps are about, and has done what they say.

It is decided here, from what the proxy sees and from both sides' events.  Without a proxy, page
faults that hang on the destination's own progress are its own to make: it gets them as a script.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import trio

from dest.script import PageName, WrittenStep
from protocol import events
from protocol.geometry import PageId
from protocol.states import State
from scripts.injection.actions import Fault, NetworkAction, ProcessAction
from scripts.injection.marks import Direction, Mark
from scripts.injection.scenario import Scenario, Step, has_proxy, is_scripted, wire_mark
from scripts.injection.standstill import Standstill
from scripts.injection.triggers import Elapsed, Entered, Placed, Received, Requested


class Stage(Protocol):
    """The processes and connections that a director acts on."""

    def touch(self, pages: Sequence[PageId], target_page: int) -> None:
        """Make vCPUs of the destination touch pages, the n-th 4 KiB of each."""

    def network(self, action: NetworkAction) -> None:
        """Do something to the connections."""

    def process(self, action: ProcessAction) -> None:
        """Do something to a side's process."""

    def stand_still(self, ways: Collection[Direction]) -> None:
        """Let nothing pass in these directions, and everything in the others."""


class Director:
    """Follows one run; tell it of `event`s and `reached` marks."""

    def __init__(
        self,
        scenario: Scenario,
        stage: Stage,
        start_soon: Callable[[Callable[[Step], Any], Step], None],
    ) -> None:
        """Start with no step done.

        Args:
            scenario: Whose steps.
            stage: What they act on.
            start_soon: Starts a task, for what takes its time.
        """
        # What was done: numbers of steps, with the moment.
        self.log: list[dict[str, Any]] = []
        # What the destination's vCPUs were made to touch, in order.
        self.touches: list[PageId] = []
        self._scenario = scenario
        self._stage = stage
        self._start_soon = start_soon
        self._has_proxy = has_proxy(scenario)
        self._pending = [step for step in scenario.steps if not is_scripted(scenario, step)]
        self._started = False
        self._standstill = Standstill(scenario.program.vcpu_count)
        self._shut: frozenset[Direction] = frozenset()

    def begin(self) -> None:
        """Do what is to be so before anything begins."""
        self._do_all(lambda step: isinstance(step.when, Elapsed) and not step.when.after_ms)

    def reached(self, mark: Mark) -> None:
        """Act on a mark that the proxy has come to; returns when what hangs on it is done."""
        self._do_all(lambda step: wire_mark(step) == mark)
        self._let_stand()

    def requested(self, page: PageId) -> None:
        """Act on a page request of the destination that the source does not have yet."""
        self._standstill.requested(page)
        self._do_all(lambda step: step.when == Requested(page))
        self._let_stand()

    def ended(self) -> None:
        """Act on the end of a side's process."""
        self._standstill.let_go()
        self._let_stand()

    def event(self, event: Mapping[str, Any]) -> None:
        """Act on an event of a side."""
        self._take(event["event"], event["side"], event)
        self._let_stand()

    def _take(self, name: str, side: str, event: Mapping[str, Any]) -> None:
        if name == events.Touch.event:
            self.touches.append(PageId(event["block"], event["page"]))
        elif name == events.Touched.event:
            self._standstill.touched(PageId(event["block"], event["page"]))
        elif name == events.State.event:
            self._entered(event["state"], side)
        elif name == events.PageRequest.event:
            page = PageId(event["block"], event["page"])
            if side == "source":
                self._standstill.heard(page)
            elif not self._has_proxy:
                self._do_all(lambda step: step.when == Requested(page))
        elif name == events.PagePlaced.event:
            pages = range(event["page"], event["page"] + event.get("pages", 1))
            block = event["block"]
            self._do_all(
                lambda step: (
                    isinstance(step.when, Placed)
                    and step.when.page.block == block
                    and step.when.page.index in pages
                )
            )

    def unfired(self) -> tuple[int, ...]:
        """Return the numbers of the steps that have not happened."""
        touched = Counter(self.touches)
        missing = [step.number for step in self._pending]
        for step in self._scenario.steps:
            if isinstance(step.action, Fault):
                wanted = Counter(step.action.pages)
                if not wanted <= touched:
                    missing.append(step.number)
                touched -= wanted
        return tuple(sorted(set(missing)))

    def fingerprint(self) -> tuple[object, ...]:
        """Return what must be the same each time that the scenario is run."""
        return (tuple(sorted(entry["step"] for entry in self.log)), tuple(self.touches))

    def _let_stand(self) -> None:
        """Stop the network, or let it go on, as what vCPUs were made to touch wants it."""
        if self._has_proxy and (shut := self._standstill.shut) != self._shut:
            self._shut = shut
            self._stage.stand_still(shut)

    def _entered(self, state: str, side: str) -> None:
        if (state, side) == (State.POSTCOPY_ACTIVE.value, "dest"):
            self._standstill.guest_runs()
        elif state == State.POSTCOPY_PAUSED.value:
            self._standstill.let_go()
        if not self._started and state == State.SETUP.value:
            self._started = True
            for step in self._pending:
                if isinstance(step.when, Elapsed):
                    self._start_soon(self._do_later, step)
        self._do_all(lambda step: step.when in (Entered(state, side), Entered(state, None)))

    async def _do_later(self, step: Step) -> None:
        assert isinstance(step.when, Elapsed)
        await trio.sleep(step.when.after_ms / 1000)
        self._do_all(lambda each: each is step)
        self._let_stand()

    def _do_all(self, is_due: Callable[[Step], bool]) -> None:
        due = [step for step in self._pending if is_due(step)]
        self._pending = [step for step in self._pending if step not in due]
        for step in due:
            self._do(step)

    def _do(self, step: Step) -> None:
        self.log.append(
            {
                "t-ns": time.monotonic_ns(),
                "side": events.INJECT,
                "event": events.Inject.event,
                "step": step.number,
                "line": step.line,
            }
        )
        match step.action:
            case Fault(pages, target_page):
                self._standstill.touch(pages)
                self._stage.touch(pages, target_page)
            case NetworkAction() as action:
                self._stage.network(action)
                if action.do in ("cut", "half-close"):
                    self._standstill.let_go()
            case ProcessAction() as action:
                self._stage.process(action)
                if action.do == "stop" and action.for_ms is None:
                    self._standstill.let_go()


def script_of(scenario: Scenario) -> tuple[WrittenStep, ...]:
    """Return the steps that are the destination's own to do."""
    return tuple(_written(step, scenario) for step in scenario.steps if is_scripted(scenario, step))


def _written(step: Step, scenario: Scenario) -> WrittenStep:
    def name(page: PageId) -> PageName:
        return PageName(scenario.geometry.blocks[page.block].name if page.block else "", page.index)

    assert isinstance(step.action, Fault)
    faults = tuple(map(name, step.action.pages))
    where = f"{scenario.path}:{step.line}"
    match step.when:
        case Received(page, share):
            return WrittenStep("received", name(page), faults, share, where)
        case Requested(page):
            return WrittenStep("requested", name(page), faults, where=where)
        case Placed(page):
            return WrittenStep("placed", name(page), faults, where=where)
    raise AssertionError("only what the destination itself knows is in its script")
