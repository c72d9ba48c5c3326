"""The present of a run: the state of each page, the channels' rates, who waits, percentiles.

Its size is bounded by the guest's, not by how long the run takes.  The two sides' events may come a
little out of order among each other; what was placed in postcopy stays placed.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from guest.latency import new_histogram, summarize
from protocol import events
from protocol.channels import Channel
from protocol.report import Summary
from protocol.states import FINAL, POSTCOPY, State
from scripts.views.curves import missing_pages
from scripts.views.records import DEST, SOURCE, OpenWaits, fault_ns

Event = dict[str, Any]

# What a page is, in the order in which it catches the eye: of many pages in one cell of a map the
# last of these that occurs is shown.
MISSING, HERE, ARRIVING, PREEMPTED, REQUESTED = range(5)
STATUS_NAMES = ("missing", "here", "arriving", "preempted", "requested")
# A cell of which some pages are here and some are missing.
PARTLY = 5

# A map has a byte a page: a guest of 1 TiB in base pages would take 256 MiB.  Beyond that, a byte
# stands for several pages.
MAP_PAGES_MAX = 1 << 26

# Rates are over so much time.
_RATE_NS = 1_000_000_000
# How many of them are remembered, four a second, and how many things that happened.
_RATES_MAX = 480
_HAPPENINGS_MAX = 200

_FINAL = {state.value for state in FINAL}
_POSTCOPY = {state.value for state in POSTCOPY}


class BlockMap:
    """The pages of one RAMBlock."""

    def __init__(self, name: str, pages: int, page_bytes: int) -> None:
        """Start with every page missing."""
        self.name = name
        self.pages = pages
        self.page_bytes = page_bytes
        # How many pages a byte of the map stands for.
        self.shared = -(-pages // MAP_PAGES_MAX)
        self.status: NDArray[np.uint8] = np.zeros(-(-pages // self.shared), dtype=np.uint8)
        # Placed in postcopy, so there for good.
        self.final: NDArray[np.bool_] = np.zeros_like(self.status, dtype=np.bool_)

    def part(self, page: int, pages: int) -> slice:
        """Return where these pages are in the map."""
        return slice(page // self.shared, -(-(page + pages) // self.shared))

    def cells(self, count: int) -> NDArray[np.uint8]:
        """Return the block in so many cells, or one a page if that is fewer.

        Returns:
            One of MISSING to REQUESTED a cell, or PARTLY.
        """
        size = len(self.status)
        count = max(1, min(count, size))
        if count == size:
            return self.status.copy()
        edges = np.linspace(0, size, count, endpoint=False).astype(np.int64)
        most = np.maximum.reduceat(self.status, edges)
        least = np.minimum.reduceat(self.status, edges)
        return np.where((most == HERE) & (least == MISSING), np.uint8(PARTLY), most)


class Waiter(NamedTuple):
    """A vCPU that waits, for which page, since when."""

    vcpu: int
    block: int
    page: int
    since_ns: int


class LiveState:
    """The present of one run; `take` each event."""

    def __init__(self) -> None:
        """Start before anything is known."""
        self.policy = ""
        self.state = "none"
        self.passes = 0
        self.blocks: dict[int, BlockMap] = {}
        self.remaining_bytes: int | None = None
        # How much of the way is behind it, from 0 to 1.
        self.done = 0.0
        self.carried: dict[str, int] = {channel.value: 0 for channel in Channel}
        self.requests = 0
        self.preempted = 0
        self.boosted = 0
        self.vcpus = 0
        self.downtime_ms: float | None = None
        # How much of the guest's memory is filled, while it is being filled.
        self.filled: tuple[int, int] | None = None
        # Bytes a second of all channels, the latest last; and when what happened that is rare.
        self.recent_rates: deque[float] = deque(maxlen=_RATES_MAX)
        self.happenings: deque[tuple[int, str]] = deque(maxlen=_HAPPENINGS_MAX)
        self.first_ns: int | None = None
        self.last_ns = 0
        # What only one side tells is not known where that side is not heard.
        self.sides: set[str] = set()
        # A destination alone tells of pages from postcopy on.
        self.knows_pages = False
        self.in_postcopy = False
        self._waiting = OpenWaits()
        self._marks: deque[tuple[int, dict[str, int]]] = deque()
        self._histogram = new_histogram()
        self._takers = {
            events.Run.event: self._take_run,
            events.RamBlock.event: self._take_block,
            events.State.event: self._take_state,
            events.PassEnd.event: self._take_pass_end,
            events.Filling.event: self._take_filling,
            events.Progress.event: self._take_progress,
            events.Downtime.event: self._take_downtime,
            events.ChannelLost.event: self._take_lost,
            events.Recovered.event: self._take_recovered,
            events.Missing.event: self._take_missing,
            events.PageRequest.event: self._take_request,
            events.PageStart.event: self._take_start,
            events.Preempt.event: self._take_preempt,
            events.Boost.event: self._take_boost,
            events.PageSent.event: self._take_sent,
            events.PagePlaced.event: self._take_placed,
            events.VcpuWait.event: self._take_wait,
            events.VcpuWake.event: self._take_wake,
            events.RequestServed.event: self._take_latency,
        }

    def take(self, event: Event) -> None:
        """Apply one event, checked as `saved.parse_event` does."""
        self.last_ns = max(self.last_ns, event["t-ns"])
        self.sides.add(event["side"])
        taker = self._takers.get(event["event"])
        if taker is not None:
            taker(event)

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.state in _FINAL

    def age_ns(self, now_ns: int) -> int | None:
        """Return how long after the first page it is, or was when the run ended; None before."""
        if self.first_ns is None:
            return None
        return max((self.last_ns if self.is_over else now_ns) - self.first_ns, 0)

    def waited_ns(self, waiter: Waiter, now_ns: int) -> int:
        """Return how long a vCPU has waited, up to the run's end."""
        return max((self.last_ns if self.is_over else now_ns) - waiter.since_ns, 0)

    @property
    def knows_waits(self) -> bool:
        """Whether the destination is heard, which alone knows who waits."""
        return DEST in self.sides

    @property
    def knows_rates(self) -> bool:
        """Whether what channels carry is told."""
        return bool(self._marks)

    @property
    def waiters(self) -> list[Waiter]:
        """The vCPUs that wait, longest first."""
        waiters = [
            Waiter(wait["vcpu"], wait["block"], wait["page"], fault_ns(wait))
            for wait in self._waiting.present
        ]
        return sorted(waiters, key=lambda waiter: waiter.since_ns)

    @property
    def waits(self) -> Summary:
        """The waits that have ended so far."""
        return summarize(self._histogram)

    def rates(self) -> dict[str, float]:
        """Return each channel's bytes a second over the last moment."""
        if len(self._marks) < 2:
            return dict.fromkeys(self.carried, 0.0)
        (from_ns, before), (to_ns, after) = self._marks[0], self._marks[-1]
        seconds = max(to_ns - from_ns, 1) / 1e9
        return {name: (after[name] - before[name]) / seconds for name in self.carried}

    def cells(self, count: int) -> list[tuple[BlockMap, NDArray[np.uint8]]]:
        """Return every block in cells, in proportion to its bytes, about so many in all."""
        blocks = [self.blocks[index] for index in sorted(self.blocks)]
        total = sum(block.pages * block.page_bytes for block in blocks)
        return [
            (block, block.cells(max(1, count * block.pages * block.page_bytes // total)))
            for block in blocks
        ]

    def _happened(self, event: Event, words: str) -> None:
        self.happenings.append((event["t-ns"], words))

    def _take_filling(self, event: Event) -> None:
        self.filled = event["bytes"], event["total-bytes"]

    def _take_downtime(self, event: Event) -> None:
        self.downtime_ms = event["ms"]
        self._happened(event, "the guest runs at the destination")

    def _take_lost(self, event: Event) -> None:
        channel = f"the {event['channel']} channel" if event["channel"] else "a connection"
        self._happened(event, f"{event['side']}: {channel} is lost")

    def _take_recovered(self, event: Event) -> None:
        if event["side"] == SOURCE:
            self._happened(event, "the migration goes on")

    def _page_name(self, event: Event) -> str:
        block = self.blocks.get(event["block"])
        name = f"{block.name if block else event['block']}:" if len(self.blocks) > 1 else ""
        return f"page {name}{event['page']}"

    def _take_run(self, event: Event) -> None:
        self.policy, self.vcpus = event["policy"], event["vcpus"]

    def _take_block(self, event: Event) -> None:
        pages = event["length-bytes"] // max(event["page-bytes"], 1)
        if pages and event["block"] not in self.blocks:
            block = BlockMap(event["name"], pages, event["page-bytes"])
            self.blocks[event["block"]] = block

    def _take_state(self, event: Event) -> None:
        # The source ends last when all is well, and knows the passes; a destination that runs alone
        # is all there is.
        if event["side"] == SOURCE or self.state not in _FINAL:
            self.state = event["state"]
        if event["state"] == "active" and self.first_ns is None:
            self.first_ns = event["t-ns"]
        if event["side"] == DEST and event["state"] in _POSTCOPY:
            self.in_postcopy = True
        if event["state"] == State.COMPLETED.value:
            self.knows_pages, self.done = True, 1.0
            for block in self.blocks.values():
                block.status[:] = HERE
                block.final[:] = True

    def _take_pass_end(self, event: Event) -> None:
        self.passes = event.get("index", self.passes) + 1
        self._happened(event, f"precopy pass {self.passes} ends")

    def _take_progress(self, event: Event) -> None:
        self.remaining_bytes = event["remaining-bytes"]
        self.done = max(self.done, min(event.get("done", self._placed_share()), 1.0))
        for channel in self.carried:
            self.carried[channel] = event.get(f"{channel}-bytes", 0)
        self._marks.append((event["t-ns"], dict(self.carried)))
        while len(self._marks) > 2 and self._marks[1][0] < event["t-ns"] - _RATE_NS:
            self._marks.popleft()
        self.recent_rates.append(sum(self.rates().values()))

    def _placed_share(self) -> float:
        """Return how much of the guest has come, where the source is a QEMU and does not say it."""
        total = sum(block.pages * block.page_bytes for block in self.blocks.values())
        return max(1 - (self.remaining_bytes or 0) / total, 0.0) if total else 0.0

    def _take_missing(self, event: Event) -> None:
        """Mark the pages that are stale; with it postcopy begins with the others here for good."""
        block = self.blocks.get(event["block"])
        if block is None:
            return
        missing = missing_pages(event, np.arange(len(block.status)) * block.shared)
        if not len(missing):
            return
        self.knows_pages = True
        block.status[~missing] = HERE
        block.final = ~missing
        block.status[missing & (block.status == HERE)] = MISSING

    def _mark(self, event: Event, status: int, pages: int = 1) -> None:
        block = self.blocks.get(event["block"])
        if block is None:
            return
        self.knows_pages = True
        part = block.part(event["page"], pages)
        block.status[part] = np.where(block.final[part], HERE, status)

    def _take_start(self, event: Event) -> None:
        self._mark(event, REQUESTED if event["urgent"] else ARRIVING)

    def _take_request(self, event: Event) -> None:
        # Both sides tell of it; one that runs alone is all there is.
        if event["side"] == DEST or not self.knows_waits:
            self.requests += 1
            self._mark(event, REQUESTED)

    def _take_preempt(self, event: Event) -> None:
        self.preempted += 1
        self._happened(event, f"{self._page_name(event)} is interrupted, half-sent")
        self._mark(event, PREEMPTED)

    def _take_boost(self, event: Event) -> None:
        self.boosted += 1
        self._happened(event, f"{self._page_name(event)}, half-sent, is requested and goes on")
        self._mark(event, REQUESTED)

    def _take_sent(self, event: Event) -> None:
        # In postcopy a page is here when the destination has placed it.
        status = ARRIVING if self.in_postcopy else HERE
        self._mark(event, REQUESTED if event["urgent"] else status, event.get("pages", 1))

    def _take_placed(self, event: Event) -> None:
        pages = event.get("pages", 1)
        block = self.blocks.get(event["block"])
        if block is not None:
            block.final[block.part(event["page"], pages)] = True
            self._mark(event, HERE, pages)

    def _take_wait(self, event: Event) -> None:
        self._waiting.begin(event)

    def _take_wake(self, event: Event) -> None:
        self._waiting.end(event)
        self._take_latency(event)

    def _take_latency(self, event: Event) -> None:
        self._histogram.record_value(min(max(round(event["latency-us"] * 1000), 1), 3600 * 10**9))
