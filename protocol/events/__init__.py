"""Events, told as they happen: each with its fields, and the shape of whoever listens.

Each event is defined once, here: its fields with their types and bounds (units stand last in their
names), which side tells it, and when: the first line of its docstring.  Emitters make instances;
who writes events, reads them, checks or describes them takes all of that from here.  The order of
the fields is that of the keys in the events file, and its name there that of the class in kebab
case.

Both sides' code calls an `Emit`; what becomes of the events (a file, a progress line, nothing) is
not its business.  The listener adds the time and the side.

One is told on the way of a page fault, so msgspec makes it, in C: in less time than a call with as
many keywords takes.  Nothing is checked then, mypy has done that; `description` is for who reads.

This is the namespace that all of it is used by: `events.PageSent(...)`.  Each module has the events
of one thing.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.events.connections import (
    ChannelLost,
    FrameChanged,
    MemoryLost,
    Recovered,
    ResumeAttempt,
)
from protocol.events.event import DEST, INJECT, RELAY, SOURCE, Emit, Event, ignore, is_heard
from protocol.events.pages import (
    PAGE_EVENTS,
    Boost,
    Overtake,
    PageEvent,
    PagePlaced,
    PageRequest,
    PageSent,
    PageStart,
    PartSent,
    Preempt,
)
from protocol.events.passing import PeerConnection, PeerMessage, ReadAgain, RequestServed, Unread
from protocol.events.run import (
    EventsDropped,
    Filling,
    Inject,
    Link,
    PolicyOff,
    Progress,
    RamBlock,
    Run,
    Session,
    tell_run,
)
from protocol.events.states import (
    Accesses,
    Downtime,
    GuestClock,
    GuestRun,
    GuestStop,
    Limits,
    Missing,
    NotConverging,
    PassEnd,
    State,
    Verdict,
)
from protocol.events.waits import Mismatch, Touch, Touched, VcpuWait, VcpuWake

__all__ = [
    "DEST",
    "INJECT",
    "KINDS",
    "PAGE_EVENTS",
    "RELAY",
    "SOURCE",
    "Accesses",
    "Boost",
    "ChannelLost",
    "Downtime",
    "Emit",
    "Event",
    "EventsDropped",
    "Filling",
    "FrameChanged",
    "GuestClock",
    "GuestRun",
    "GuestStop",
    "Inject",
    "Limits",
    "Link",
    "MemoryLost",
    "Mismatch",
    "Missing",
    "NotConverging",
    "Overtake",
    "PageEvent",
    "PagePlaced",
    "PageRequest",
    "PageSent",
    "PageStart",
    "PartSent",
    "PassEnd",
    "PeerConnection",
    "PeerMessage",
    "PolicyOff",
    "Preempt",
    "Progress",
    "RamBlock",
    "ReadAgain",
    "Recovered",
    "RequestServed",
    "ResumeAttempt",
    "Run",
    "Session",
    "State",
    "Touch",
    "Touched",
    "Unread",
    "VcpuWait",
    "VcpuWake",
    "Verdict",
    "ignore",
    "is_heard",
    "tell_run",
]

# Every event by its name.
KINDS: Mapping[str, type[Event]] = {
    kind.event: kind
    for kind in (
        *(Run, RamBlock, Session, Link, State, Filling, Progress, PassEnd, NotConverging, Limits),
        *PAGE_EVENTS,
        *(PageRequest, GuestStop, GuestRun, Downtime, Missing, PagePlaced, Touch, Touched),
        *(
            VcpuWait,
            VcpuWake,
            PolicyOff,
            FrameChanged,
            Mismatch,
            ChannelLost,
            Recovered,
            ResumeAttempt,
        ),
        *(MemoryLost, EventsDropped, Accesses, GuestClock, Verdict, Inject),
        *(PeerConnection, PeerMessage, RequestServed, Unread, ReadAgain),
    )
}
