"""Waits for the moments that a scenario's steps are about, and has done what they say.

Page faults that hang on the destination's own progress are the destination's to make: it gets them
as a script.  All else is decided here, from what the proxy sees and from both sides' events.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import trio

from protocol import events
from protocol.geometry import PageId
from protocol.states import State
from scripts.injection.actions import Fault, NetworkAction, ProcessAction
from scripts.injection.scenario import Scenario, Step
from scripts.injection.tap import Mark
from scripts.injection.triggers import Elapsed, Entered, Passed, Placed, Received, Requested

_SCRIPTED = (Received, Requested, Placed)


class Stage(Protocol):
    """What a director acts on."""

    def touch(self, pages: Sequence[PageId]) -> None:
        """Have vCPUs of the destination touch pages."""

    def network(self, action: NetworkAction) -> None:
        """Do something to the connections."""

    def process(self, action: ProcessAction) -> None:
        """Do something to a side's process."""


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
        self._pending = [step for step in scenario.steps if not is_scripted(step)]
        self._started = False

    def begin(self) -> None:
        """Do what is to be so before anything begins."""
        self._do_all(lambda step: isinstance(step.when, Elapsed) and not step.when.after_ms)

    def reached(self, mark: Mark) -> None:
        """Take a mark that the proxy has come to; returns when what hangs on it is done."""
        self._do_all(
            lambda step: isinstance(step.when, (Received, Passed)) and step.when.mark == mark
        )

    def event(self, event: Mapping[str, Any]) -> None:
        """Take an event of a side."""
        name, side = event["event"], event["side"]
        if name == events.TOUCH:
            self.touches.append(PageId(event["block"], event["page"]))
        elif name == events.STATE:
            self._entered(event["state"], side)
        elif name == events.PAGE_REQUEST and side == "dest":
            page = PageId(event["block"], event["page"])
            self._do_all(lambda step: step.when == Requested(page))
        elif name == events.PAGE_PLACED:
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

    def _entered(self, state: str, side: str) -> None:
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

    def _do_all(self, is_due: Callable[[Step], bool]) -> None:
        due = [step for step in self._pending if is_due(step)]
        self._pending = [step for step in self._pending if step not in due]
        for step in due:
            self._do(step)

    def _do(self, step: Step) -> None:
        self.log.append(
            {
                "t-ns": time.monotonic_ns(),
                "side": "inject",
                "event": "inject",
                "step": step.number,
                "line": step.line,
            }
        )
        match step.action:
            case Fault(pages):
                self._stage.touch(pages)
            case NetworkAction() as action:
                self._stage.network(action)
            case ProcessAction() as action:
                self._stage.process(action)


def is_scripted(step: Step) -> bool:
    """Tell whether a step is the destination's own to do."""
    return isinstance(step.action, Fault) and isinstance(step.when, _SCRIPTED)


def needs_proxy(scenario: Scenario) -> bool:
    """Tell whether a scenario asks for anything that only a proxy can see or do."""
    # It does not speak QEMU's protocol, and its sockets would hold what QEMU's shall not.
    return scenario.qemu is None and bool(
        scenario.link_rate
        or scenario.expect.watched
        or any(isinstance(step.action, NetworkAction) for step in scenario.steps)
        or wire_marks(scenario)
    )


def wire_marks(scenario: Scenario) -> list[Mark]:
    """Return what the proxy is to stop at."""
    found: list[Mark] = [
        step.when.mark
        for step in scenario.steps
        if isinstance(step.when, (Received, Passed)) and not is_scripted(step)
    ]
    return list(dict.fromkeys(found))


def write_script(scenario: Scenario, path: Path) -> bool:
    """Write the destination's steps as it reads them; return whether there are any."""
    steps = [step for step in scenario.steps if is_scripted(step)]
    text = ""
    for step in steps:
        assert isinstance(step.action, Fault)
        pages = json.dumps([_plain(page) for page in step.action.pages])
        text += f"[[step]]\nwhen = {{ {_when(step)} }}\nfault = {pages}\n"
    path.write_text(text, encoding="utf-8")
    return bool(steps)


def _when(step: Step) -> str:
    match step.when:
        case Received(page, share):
            return f"page = {_plain(page)!r}, received = {share!r}"
        case Requested(page):
            return f"requested = {_plain(page)!r}"
        case Placed(page):
            return f"placed = {_plain(page)!r}"
    raise AssertionError("only steps of the destination's script are written")


def _plain(page: PageId) -> int | str:
    return f"{page.block}:{page.index}" if page.block else page.index
