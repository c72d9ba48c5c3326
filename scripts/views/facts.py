"""Facts about a run, for its verdict (`scripts/screen/verdict.py`), as its events tell them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guest.latency import summary_of
from protocol import events
from protocol.report import STAGES
from protocol.states import State
from scripts.screen.facts import Busy, Facts
from scripts.screen.verdict import Verdict, judge
from scripts.views.causes import breaks_ns, lost_bytes, reason_of, status_of
from scripts.views.history import VCPU, History
from scripts.views.records import DEST, SOURCE, Wait

# States after which a side tells no more, or waits to go on.
_ENDS = frozenset(
    {
        *(State.COMPLETED.value, State.FAILED.value, State.CANCELLED.value),
        State.POSTCOPY_PAUSED.value,
    }
)


def verdict_of(history: History) -> Verdict:
    """Return the verdict on a run."""
    return judge(facts_of_events(history))


def facts_of_events(history: History) -> Facts:
    """Return the facts that a run's events tell."""
    status, waits = status_of(history), history.waits
    summary = summary_of(wait.wake_ns - wait.start_ns for wait in waits if wait.wake_ns is not None)
    postcopy_ns = _postcopy_ns(history)
    told = history.verdict
    breaks = [(lost, back) for lost, back in breaks_ns(history) if back is not None]
    limits = _last(history, events.Limits.event)
    return Facts(
        status=status,
        reason=reason_of(history),
        guest_side=_guest_side(history),
        verified=bool(told["equal"] and not told["mismatches"]) if told else None,
        ram_bytes=sum(block.length_bytes for block in history.blocks.values()),
        lost_bytes=lost_bytes(history),
        downtime_ms=None if history.downtime_us is None else history.downtime_us / 1000,
        has_postcopy=history.postcopy_ns is not None or bool(waits),
        postcopy_ms=postcopy_ns / 1e6,
        vcpus=history.vcpu_count if history.waiter == VCPU else 0,
        waits=len(waits),
        waited_ms=sum(wait.latency_us for wait in waits) / 1000,
        median_us=summary.p50_us,
        longest_us=summary.max_us,
        stage_ms=_stages(waits),
        policy=str(history.run.get("policy", "")),
        page_bytes=max((block.page_bytes for block in history.blocks.values()), default=0),
        bytes_per_second=told.get("mbps", 0.0) * 1e6 / 8,
        link_bytes_per_second=history.link_rate,
        limits=(limits.get("max-bandwidth", 0), limits.get("max-postcopy-bandwidth", 0)),
        source=_busy(told, SOURCE),
        dest=_busy(told, DEST),
        breaks=len(breaks),
        paused_ms=sum(back - lost for lost, back in breaks) / 1e6,
    )


def _guest_side(history: History) -> str:
    """Return which side has the guest in the end; empty where that is not certain.

    The destination says when it runs it, and a source that never stopped it has it still.  One that
    has not told how it ended may be gone, and the guest with it.
    """
    told = {(note.side, note.event) for note in history.notes}
    if (DEST, events.GuestRun.event) in told:
        side = DEST
    elif (SOURCE, events.GuestStop.event) in told:
        side = SOURCE if (SOURCE, events.GuestRun.event) in told else ""
    else:
        side = SOURCE
    states = history.states(side) if side else []
    return side if states and states[-1][1] in _ENDS else ""


def _last(history: History, event: str) -> Mapping[str, Any]:
    """Return the fields of the last event of a name, none where there is none."""
    return next((note.fields for note in reversed(history.notes) if note.event == event), {})


def _postcopy_ns(history: History) -> int:
    """Return for how long the guest ran on the destination before all of it was there."""
    told_ms: float | None = history.verdict.get("postcopy-ms")
    if told_ms is not None:
        return round(told_ms * 1e6)
    runs = [
        note.time_ns
        for note in history.notes
        if note.event == events.GuestRun.event and note.side == DEST
    ]
    ends = [
        at
        for side in (SOURCE, DEST)
        for at, state in history.states(side)
        if state == State.COMPLETED.value
    ]
    return max(min(ends) - runs[0], 0) if runs and ends else 0


def _stages(waits: list[Wait]) -> dict[str, float]:
    """Return what all waits were made of, in milliseconds by stage; nothing where none is told."""
    told = [wait.stages_us for wait in waits if wait.stages_us is not None]
    return {
        stage: sum(stages[number] for stages in told) / 1000
        for number, stage in enumerate(STAGES)
        if told
    }


def _busy(told: Mapping[str, Any], side: str) -> Busy | None:
    running = told.get(f"{side}-running")
    return None if running is None else Busy(running, told.get(f"{side}-waiting", 0.0))
