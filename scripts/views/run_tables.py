"""Tables of runs side by side, from their events: what they came to, and the stages of waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.table import Table

from guest.latency import summary_of
from protocol import events
from protocol.report import STAGES
from protocol.units import format_bytes
from scripts.screen.words import time_us
from scripts.views.causes import lost_bytes, percentiles_us, reason_of, status_of
from scripts.views.history import VCPU, History

Run = tuple[str, History]


def summary_table(runs: Sequence[Run]) -> Table:
    """Return what runs came to, a column a run."""
    table = _table("", [name for name, _ in runs])
    for title, words in _ROWS:
        cells = [words(history) for _, history in runs]
        # Most runs have no reason to tell.
        if any(cells):
            table.add_row(title, *cells)
    for name in percentiles_us(()):
        figures = [percentiles_us(history.waits)[name] for _, history in runs]
        table.add_row(
            f"wait {name}",
            *(
                time_us(figure) if history.waits else "none"
                for figure, (_, history) in zip(figures, runs, strict=True)
            ),
        )
    return table


def stage_table(runs: Sequence[Run]) -> Table:
    """Return mean and 99th percentile of each stage of the waits, two columns a run."""
    heads = [f"{name}: {figure}" for name, _ in runs for figure in ("mean", "p99")]
    table = _table("stage of a wait", heads)
    for number, stage in enumerate(STAGES):
        cells = []
        for _, history in runs:
            summary = summary_of(
                round(wait.stages_us[number] * 1000) for wait in history.waits if wait.stages_us
            )
            figures = (summary.mean_us, summary.p99_us)
            cells += [time_us(figure) if summary.count else "none" for figure in figures]
        table.add_row(stage, *cells)
    return table


def _table(first: str, heads: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for head in heads:
        # A file's name is a text, and may hold what rich takes for markup.
        table.add_column(_plain(head), justify="right")
    return table


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _guest(history: History) -> str:
    length = sum(block.length_bytes for block in history.blocks.values())
    count = history.vcpu_count
    vcpus = "1 vCPU" if count == 1 else f"{count} vCPUs"
    if history.waiter != VCPU:
        vcpus = "seen between the two"
    return f"{format_bytes(length)}, {vcpus}" if length else _UNKNOWN


def _memory(history: History) -> str:
    if lost := lost_bytes(history):
        return f"{format_bytes(lost)} lost"
    if "equal" not in history.verdict:
        return "not compared"
    good = history.verdict["equal"] and not history.verdict.get("mismatches")
    return "verified" if good else "WRONG"


def _downtime(history: History) -> str:
    downtime_us = history.downtime_us
    return _UNKNOWN if downtime_us is None else time_us(downtime_us)


def _by_guests_clock(history: History) -> str:
    told = history.guest_clock
    if not told:
        return "the guest has none"
    return f"{time_us(told['blackout-us'])}, longest stall {time_us(told['stall-us'])}"


def _count(history: History, event: str) -> str:
    count = history.source_count(event)
    return _UNKNOWN if count is None else str(count)


_UNKNOWN = "not recorded"


_ROWS: tuple[tuple[str, Callable[[History], str]], ...] = (
    ("status", status_of),
    ("reason", lambda history: _plain(reason_of(history))),
    ("memory", _memory),
    ("policy", lambda history: _plain(str(history.run.get("policy", _UNKNOWN)))),
    ("guest", _guest),
    ("events span", lambda history: time_us((history.last_ns - history.first_ns) / 1000)),
    ("downtime", _downtime),
    ("by the guest's clock", _by_guests_clock),
    ("page requests", lambda history: str(len(history.requests))),
    ("preempted", lambda history: _count(history, events.Preempt.event)),
    ("finished early on request", lambda history: _count(history, events.Boost.event)),
    ("sent again to overtake", lambda history: _count(history, events.Overtake.event)),
    ("waits", lambda history: str(len(history.all_waits))),
)
