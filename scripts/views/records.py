"""The parts of a run, once its events are read: sends, requests, waits, placements, notes.

A vCPU is at one place at a time, so it waits for the page of which it was last told to wait.  Where
the kernel tells of faults and the vCPU itself of its wake-ups, that next wait is often told before
the wake-up from the one before.  So a wake-up ends the wait that it belongs to, and no later one.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

BACKGROUND, URGENT, BOOSTED = "background", "urgent", "boosted"

SOURCE, DEST = "source", "dest"
# Between two QEMUs: what it tells of pages stands for what the source would.
RELAY = "relay"


class Block(NamedTuple):
    """A RAMBlock of the guest."""

    name: str
    length_bytes: int
    page_bytes: int


class Send(NamedTuple):
    """A stretch of time in which a channel carried a page, or a run of small pages.

    Attributes:
        page: The first page.
        pages: How many.
        kind: BACKGROUND, URGENT, or BOOSTED: urgent, and begun in the background before.
        ended: "page-sent"; "preempt": it was broken off; "part-sent": more of it goes by itself;
            "channel-lost": the connection broke.
        bytes: What the channel carried meanwhile, heads and all; None where nobody counted.
        urgent_ns: When a request made it urgent on its way; None if that is not how it went.
    """

    block: int
    page: int
    pages: int
    channel: str
    kind: str
    start_ns: int
    end_ns: int
    ended: str
    bytes: int | None
    urgent_ns: int | None


class Request(NamedTuple):
    """A page request: when the destination made it, when the source had it, what it answered."""

    block: int
    page: int
    asked_ns: int
    came_ns: int | None
    answer: str


class Wait(NamedTuple):
    """A vCPU's wait for a page, touch to wake-up.

    Attributes:
        stages_us: As long as `STAGES`, in their order; None where the events do not tell.
        wake_ns: None for a wait that had not ended when the events did.
        answer: How the source answered the request; empty where nobody told.
        behind: The pages that went before it, as block and page; the first of them, if many.
        behind_count: How many those are in all.
        parts: Stages and their microseconds in the order of time; each stage once, unless the wait
            went through a break.
    """

    vcpu: int
    block: int
    page: int
    start_ns: int
    wake_ns: int | None
    stages_us: tuple[float, ...] | None
    answer: str = ""
    behind: tuple[tuple[int, int], ...] = ()
    behind_count: int = 0
    parts: tuple[tuple[str, float], ...] = ()

    @property
    def latency_us(self) -> float:
        """How long it was; 0 for one that had not ended."""
        return (self.wake_ns - self.start_ns) / 1000 if self.wake_ns is not None else 0.0


class Placed(NamedTuple):
    """Pages that became the guest's; `page` is the first."""

    time_ns: int
    block: int
    page: int
    pages: int


class Note(NamedTuple):
    """Anything else that happened: a state, a preemption, a lost channel."""

    time_ns: int
    side: str
    event: str
    fields: dict[str, Any]


class Mark(NamedTuple):
    """The bytes that a channel had carried at a moment, and those left to send of the pass."""

    time_ns: int
    channel: str
    channel_bytes: int
    remaining_bytes: int


Event = dict[str, Any]

# A wait whose wake-up nobody told is forgotten with the next one told; without any such word so
# many of a vCPU are kept.
_WAITS_MAX = 16


class OpenWaits:
    """The waits without an end so far; `begin` and `end` each as it is told."""

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._told: dict[int, deque[Event]] = {}

    def begin(self, event: Event) -> None:
        """Note a `vcpu-wait`."""
        self._told.setdefault(event["vcpu"], deque(maxlen=_WAITS_MAX)).append(event)

    def end(self, event: Event) -> Event | None:
        """Note a `vcpu-wake`; return the `vcpu-wait` that it ends, None if none was told.

        It is the first one for that page that was told after the vCPU's touch.  What was told
        before is over too: a vCPU that runs waits for nothing else.
        """
        told = self._told.get(event["vcpu"], ())
        touched_ns = event.get("fault-ns", 0)
        for number, wait in enumerate(told, 1):
            if wait["t-ns"] >= touched_ns and page_of(wait) == page_of(event):
                for _ in range(number):
                    self._told[event["vcpu"]].popleft()
                return wait
        return None

    @property
    def present(self) -> list[Event]:
        """The `vcpu-wait` of each vCPU that waits, by vCPU."""
        return [told[-1] for _, told in sorted(self._told.items()) if told]


def page_of(event: Event) -> tuple[int, int]:
    """Return block and page of an event that names them."""
    return event["block"], event["page"]


def fault_ns(wait: Event) -> int:
    """Return when the page was touched, as well as a `vcpu-wait` tells it."""
    time_ns: int = wait["fault-ns"] if "fault-ns" in wait else wait["t-ns"]
    return time_ns
