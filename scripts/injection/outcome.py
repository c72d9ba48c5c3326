"""How one run of a scenario ended, and what of it expectations ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocol import events
from protocol.channels import Channel
from protocol.geometry import PageId
from protocol.states import FINAL
from scripts.injection.marks import Passing

# Of several states the one that tells most of what went wrong.
_STATES = ("failed", "cancelled", "completed")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        statuses: Exit statuses of "source" and "dest", negative for a signal; None if not started.
        reasons: In their own words, why they failed.
        events: Of both sides, in the order in which they came.
        report: The source's, None if it wrote none; not whole if it failed.
        carriers: For watched pages, the channels that brought bytes of it, in order.
        passings: For watched pages, when the proxy last saw bytes of it pass.
        unfired: Numbers of the steps that never happened.
        timed_out: It was ended from outside.
        differing_target_pages: How many of the source's are not the destination's in the end; None
            where that was not looked at.
    """

    statuses: Mapping[str, int | None]
    reasons: Mapping[str, str] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    report: Mapping[str, Any] | None = None
    carriers: Mapping[PageId, Sequence[Channel]] = field(default_factory=dict)
    passings: Mapping[PageId, Passing] = field(default_factory=dict)
    unfired: tuple[int, ...] = ()
    timed_out: bool = False
    differing_target_pages: int | None = None

    @property
    def exit_status(self) -> int:
        """The status with which `midstream migrate` would exit."""
        statuses = [self.statuses.get(side) for side in ("source", "dest")]
        for status in (4, 3, 5):
            if status in statuses:
                return status
        return max((max(status, 1) for status in statuses if status), default=0)

    def state_of(self, side: str) -> str:
        """Return the state in which a side ended; how, if it had no time for that."""
        status = self.statuses.get(side)
        if status is None or status < 0:
            return "never started" if status is None else "killed"
        states = [
            event["state"] for event in self.named(events.State.event) if event.get("side") == side
        ]
        return str(states[-1]) if states else "none"

    @property
    def status(self) -> str:
        """The final state of both sides; of two, the worse."""
        states = [self.state_of(side) for side in ("source", "dest")]
        assert {state.value for state in FINAL} == set(_STATES)
        return next((state for state in _STATES if state in states), states[0])

    def named(self, *names: str) -> list[Mapping[str, Any]]:
        """Return the events of these names."""
        return [event for event in self.events if event["event"] in names]

    def requested(self) -> list[PageId]:
        """Return the pages that were asked for, each once, in order."""
        found = [
            PageId(event["block"], event["page"])
            for event in self.named(events.PageRequest.event)
            if event["side"] == "dest"
        ]
        return list(dict.fromkeys(found))

    def served(self) -> dict[PageId, int]:
        """Return all pages in the order in which the source had handed them whole to a connection.

        With the time of that.  Of a page that went again, because a break or a change had lost it,
        the last time counts; of runs of small pages only the first is named, so they say nothing
        of a page that has its own word.
        """
        found: dict[PageId, int] = {}
        for event in self.named(events.PageSent.event):
            pages = range(event["page"], event["page"] + event.get("pages", 1))
            for page in (PageId(event["block"], index) for index in pages):
                if len(pages) == 1:
                    found.pop(page, None)
                found.setdefault(page, event["t-ns"])
        return found

    def placed(self) -> list[PageId]:
        """Return all pages in the order in which they became whole."""
        return [
            PageId(event["block"], page)
            for event in self.named(events.PagePlaced.event)
            for page in range(event["page"], event["page"] + event.get("pages", 1))
        ]

    def wait_us(self, page: PageId) -> float | None:
        """Return the longest wait for a page, None if nobody waited."""
        waits = [
            float(event["latency-us"])
            for event in self.named(events.VcpuWake.event)
            if (event["block"], event["page"]) == (page.block, page.index)
        ]
        return max(waits, default=None)

    def count(self, name: str) -> int | None:
        """Return a figure under its name in a scenario, None if nobody knows it."""
        # That of a migration that failed tells only what one side had counted by then.
        if self.report is not None and "verified" in self.report["midstream"]:
            own = self.report["midstream"]
            figures = {
                "boosted": own["preemptions"]["boosted"],
                "preemptions": own["preemptions"]["count"],
                "mismatches": own["verified"]["mismatches"],
                "recoveries": own["recoveries"],
                "bytes-sent-twice": own["bytes-sent-twice"],
                "pages-sent-twice": own["pages-sent-twice"],
                "bytes-lost": own["bytes-lost"],
                "changed": own["checksums"]["changed"],
                "postponed": own["requests"]["postponed"],
            }
            return int(figures[name])
        # Without a whole report, what was told on the way still counts.
        told = {
            "boosted": events.Boost.event,
            "pages-sent-twice": events.Overtake.event,
            "preemptions": events.Preempt.event,
            "mismatches": events.Mismatch.event,
            "recoveries": events.Recovered.event,
        }
        return len(self.named(told[name])) if name in told else None
