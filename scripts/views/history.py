"""A run as its events tell it: what went when, over which channel, for whom, and who waited.

`History.take` is given each side's events in the order in which that side wrote them; how the two
sides' lines lie among each other does not matter.  Times are nanoseconds of the monotonic clock, so
both sides' events must come from one machine.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from functools import partial
from typing import Any

from protocol import events
from protocol.report import STAGES
from protocol.states import State
from scripts.views.records import (
    RELAY,
    SOURCE,
    Block,
    Note,
    OpenWaits,
    Placed,
    Request,
    Wait,
    fault_ns,
    page_of,
)
from scripts.views.traffic import SENDS_MAX, Traffic

Event = dict[str, Any]

VCPU = "vCPU"

# What is kept of each kind; what comes after is counted and not kept.
WAITS_MAX = 500_000
NOTES_MAX = 500_000


class History:
    """All that is kept of one run; `take` each event, then read.

    Attributes:
        run: The fields of the event `run`, empty if there was none.
        blocks: By index; those that no event described are missing.
        left_out: How many of each kind were not kept, because there were too many.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.run: Event = {}
        self.verdict: Event = {}
        self.accesses: Event = {}
        self.guest_clock: Event = {}
        self.blocks: dict[int, Block] = {}
        self.waits: list[Wait] = []
        self.placed: list[Placed] = []
        self.notes: list[Note] = []
        # As they were told: which pages the destination lacked when the guest began to run there.
        self.missing: list[Event] = []
        self.counts: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self._traffic = Traffic(self.left_out, self._see)
        self.sends = self._traffic.sends
        self.marks = self._traffic.marks
        self.sides: set[str] = set()
        self.first_ns = (1 << 63) - 1
        self.last_ns = 0
        self._downtime_ms: float | None = None
        # Who told what is migrated: not the process that drives a QEMU.
        self._described: set[str] = set()
        self._asked: list[Event] = []
        self._came: list[Event] = []
        # When requests passed between two QEMUs, by block and page.
        self._relayed_ns: dict[tuple[int, int], list[int]] = {}
        self._breaks_ns: list[int] = []
        self._waiting = OpenWaits()
        self._page_counts: dict[int, int] = {}
        self._takers = {
            events.Run.event: self._take_run,
            events.RamBlock.event: self._take_block,
            events.Progress.event: self._traffic.take_progress,
            events.PageRequest.event: self._take_request,
            events.PageStart.event: self._traffic.take_start,
            events.PartSent.event: self._traffic.take_end,
            events.PageSent.event: self._traffic.take_end,
            events.Preempt.event: self._traffic.take_end,
            events.ChannelLost.event: self._take_lost,
            events.PagePlaced.event: self._take_placed,
            events.Missing.event: self.missing.append,
            events.VcpuWait.event: self._take_wait,
            events.VcpuWake.event: self._take_wake,
            events.RequestServed.event: self._take_served,
            events.Accesses.event: self._take_accesses,
            events.GuestClock.event: self._take_guest_clock,
            events.Verdict.event: self._take_verdict,
            events.Downtime.event: self._take_downtime,
        }

    def take(self, event: Event) -> None:
        """Receive one event."""
        name, time_ns = event["event"], event["t-ns"]
        self.first_ns = min(self.first_ns, time_ns)
        self.last_ns = max(self.last_ns, time_ns)
        self.sides.add(event["side"])
        self.counts[name] += 1
        taker = self._takers.get(name)
        if taker is not None:
            taker(event)
        if name not in _NO_NOTES:
            self._note(event)

    @property
    def requests(self) -> list[Request]:
        """All page requests, in the order in which they were made.

        The return path keeps their order, so the n-th for a page that the destination made is the
        n-th for it that the source got; but none gets over a break.
        """
        epoch = partial(bisect_left, sorted(self._breaks_ns))
        came: dict[tuple[int, int], deque[Event]] = {}
        for event in self._came:
            came.setdefault(page_of(event), deque()).append(event)
        requests = []
        for event in self._asked or self._came:
            queue = came.get(page_of(event))
            answer = {}
            if queue and epoch(event["t-ns"]) == epoch(queue[0]["t-ns"]):
                answer = queue.popleft()
            requests.append(
                Request(
                    event["block"], event["page"], event["t-ns"], answer.get("t-ns"),
                    str(answer.get("answer", "")),
                )
            )  # fmt: skip
        return requests

    @property
    def all_waits(self) -> list[Wait]:
        """The waits that ended, and those that had not when the events did."""
        return [
            *self.waits,
            *(
                Wait(wait["vcpu"], *page_of(wait), fault_ns(wait), None, None)
                for wait in self._waiting.present
            ),
        ]

    @property
    def waiter(self) -> str:
        """Word for what waits: between two QEMUs only requests are seen, and no vCPUs."""
        return "request" if self.run.get("side") == RELAY else VCPU

    @property
    def vcpu_count(self) -> int:
        """How many vCPUs the guest has, as far as the events tell."""
        seen = [wait.vcpu + 1 for wait in self.all_waits]
        return max([*seen, int(self.run.get("vcpus", 0))], default=0)

    def states(self, side: str) -> list[tuple[int, str]]:
        """Return when a side came into which state, in order."""
        return [
            (note.time_ns, note.fields["state"])
            for note in self.notes
            if note.event == events.State.event
            and (note.side == side or (note.side == RELAY and side == SOURCE))
        ]

    def time_of(self, event: str) -> int | None:
        """Return when something first happened, None if it did not."""
        return next((note.time_ns for note in self.notes if note.event == event), None)

    @property
    def blackout_ns(self) -> tuple[int, int] | None:
        """From when the guest stood still until it ran on the destination, if that is told."""
        stop, run = self.time_of(events.GuestStop.event), self.time_of(events.GuestRun.event)
        return (stop, run) if stop is not None and run is not None and stop <= run else None

    @property
    def downtime_us(self) -> float | None:
        """How long nobody ran the guest, as the report has it; None if that is not told."""
        if self._downtime_ms is not None:
            return self._downtime_ms * 1000
        span = self.blackout_ns
        return None if span is None else (span[1] - span[0]) / 1000

    @property
    def link_rate(self) -> int:
        """Bytes a second of the link between the sides; 0 where nobody knows them."""
        links = (note.fields for note in self.notes if note.event == events.Link.event)
        return int(next(links, {}).get("bytes-per-second", 0))

    @property
    def postcopy_ns(self) -> int | None:
        """When postcopy began, on the side that says so first; None if it did not."""
        active = State.POSTCOPY_ACTIVE.value
        times = [at for side in self.sides for at, state in self.states(side) if state == active]
        return min(times, default=None)

    def source_count(self, event: str) -> int | None:
        """Return how often the source told of something; None where its events are missing."""
        return self.counts[event] if SOURCE in self._described else None

    def page_count(self, block: int) -> int:
        """Return how many pages a block has; as many as were seen, if nothing says it."""
        if block in self.blocks:
            return self.blocks[block].length_bytes // self.blocks[block].page_bytes
        return self._page_counts.get(block, 0)

    @property
    def block_indices(self) -> range:
        """The blocks, those that were only seen in pages included."""
        return range(max([*self.blocks, *self._page_counts], default=-1) + 1)

    def _see(self, block: int, end: int) -> None:
        self._page_counts[block] = max(self._page_counts.get(block, 0), end)

    def _note(self, event: Event) -> None:
        if len(self.notes) >= NOTES_MAX:
            self.left_out["notes"] += 1
            return
        fields = {name: value for name, value in event.items() if name not in _HEAD}
        self.notes.append(Note(event["t-ns"], event["side"], event["event"], fields))

    def _take_run(self, event: Event) -> None:
        self._described.add(event["side"])
        self.run = self.run or event

    def _take_block(self, event: Event) -> None:
        block = Block(event["name"], event["length-bytes"], max(event["page-bytes"], 1))
        self.blocks.setdefault(event["block"], block)

    def _take_accesses(self, event: Event) -> None:
        self.accesses = event

    def _take_guest_clock(self, event: Event) -> None:
        self.guest_clock = event

    def _take_verdict(self, event: Event) -> None:
        self.verdict = event

    def _take_downtime(self, event: Event) -> None:
        self._downtime_ms = event["ms"]

    def _take_request(self, event: Event) -> None:
        self._see(event["block"], event["page"] + 1)
        if event["side"] != SOURCE:
            self._asked.append(event)
            if event["side"] == RELAY:
                self._relayed_ns.setdefault(page_of(event), []).append(event["t-ns"])
            return
        self._came.append(event)
        if event.get("answer") == "urgent-in-place":
            self._traffic.make_urgent(event)

    def _take_lost(self, event: Event) -> None:
        self._breaks_ns.append(event["t-ns"])
        if event["side"] in {SOURCE, RELAY}:
            self._traffic.take_lost(event)

    def _take_placed(self, event: Event) -> None:
        pages = event.get("pages", 1)
        self._see(event["block"], event["page"] + pages)
        if len(self.placed) >= SENDS_MAX:
            self.left_out["placed"] += 1
            return
        self.placed.append(Placed(event["t-ns"], event["block"], event["page"], pages))

    def _take_wait(self, event: Event) -> None:
        self._see(event["block"], event["page"] + 1)
        self._waiting.begin(event)

    def _take_served(self, event: Event) -> None:
        """Receive a request that was served, as a wait of the request's own."""
        if len(self.waits) >= WAITS_MAX:
            self.left_out["waits"] += 1
            return
        self._see(event["block"], event["page"] + 1)
        start_ns = event["t-ns"] - round(event["latency-us"] * 1000)
        # The event that told of the request is a moment older than what its latency counts from.
        asked_ns = self._relayed_ns.get(page_of(event), [])
        if number := bisect_right(asked_ns, start_ns):
            start_ns = asked_ns[number - 1]
        self.waits.append(
            Wait(
                event["lane"], event["block"], event["page"], start_ns, event["t-ns"], None, "",
                _pages_behind(event), event.get("behind-count", 0),
            )
        )  # fmt: skip

    def _take_wake(self, event: Event) -> None:
        start = self._waiting.end(event)
        if len(self.waits) >= WAITS_MAX:
            self.left_out["waits"] += 1
            return
        latency_ns = round(event["latency-us"] * 1000)
        begun_ns = event["t-ns"] - latency_ns if start is None else fault_ns(start)
        start_ns = event.get("fault-ns", begun_ns)
        # A file of before all stages were told apart lacks some of them.
        stages = tuple(float(event.get(f"{name}-us", 0.0)) for name in STAGES)
        is_told = "detect-us" in event
        self.waits.append(
            Wait(
                event["vcpu"], event["block"], event["page"], start_ns, start_ns + latency_ns,
                stages if is_told else None, str(event.get("answer", "")),
                _pages_behind(event), event.get("behind-count", 0),
                _parts(event, stages) if is_told else (),
            )
        )  # fmt: skip


def _pages_behind(event: Event) -> tuple[tuple[int, int], ...]:
    """Return the pages that went before a requested one, as far as they are named."""
    named = (each.split(":") for each in str(event.get("behind", "")).split())
    return tuple((int(block), int(page)) for block, page in named)


def _parts(event: Event, stages_us: tuple[float, ...]) -> tuple[tuple[str, float], ...]:
    """Return the stages of a wait in the order of time."""
    if "parts-us" not in event:
        return tuple(zip(STAGES, stages_us, strict=True))
    named = (each.split() for each in str(event["parts-us"]).split(", "))
    return tuple((stage, float(length_us)) for stage, length_us in named)


# What comes with every page, or is kept in another form.
_NO_NOTES = frozenset(
    {
        *(
            events.PageStart.event,
            events.PageSent.event,
            events.PartSent.event,
            events.PagePlaced.event,
        ),
        *(events.VcpuWait.event, events.VcpuWake.event, events.PageRequest.event),
        events.RequestServed.event,
        *(events.Progress.event, events.Missing.event),
    }
)
_HEAD = frozenset({"t-ns", "side", "event"})
