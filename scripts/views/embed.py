"""A run as a page's script wants it: a small object with long columns.

However long the run, what is embedded is bounded: stretches of background are put together until
they are few enough, and of the waits the longest are kept.  What was put together or left out is in
the object, and the page says it.  Times are ticks (`typed_arrays`) from the first event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protocol import events
from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.report import STAGE_WORDS, STAGES
from protocol.states import State
from scripts.views.bars import few_bars
from scripts.views.causes import (
    breaks_ns,
    lost_bytes,
    percentiles_us,
    reason_of,
    served_by,
    status_of,
    waited_us,
    waiting_over_time,
)
from scripts.views.curves import Point, left_curve, means, missing_curve, thinned
from scripts.views.facts import verdict_of
from scripts.views.history import History
from scripts.views.records import BACKGROUND, BOOSTED, DEST, SOURCE, URGENT, Send, Wait
from scripts.views.typed_arrays import NEVER, Ticks, column

Plain = dict[str, Any]

# A browser draws so many bars in a moment, and their columns are some 6 MB of base64.
BARS_MAX = 250_000
# The longest of the waits; all of them are in the distribution.
WAITS_MAX = 20_000
NOTES_MAX = 20_000
REQUESTS_MAX = 50_000
PLACED_MAX = 250_000
# How many stretches of time a line over time has: fewer than a screen has pixels.
POINTS_MAX = 600
# A curve's points: it only falls, or does so pass by pass, and loses nothing that is seen.
CURVE_POINTS_MAX = 20_000

KINDS = (BACKGROUND, URGENT, BOOSTED)
ENDS = ("page-sent", "preempt", "part-sent", "channel-lost")
CHANNELS = tuple(channel.value for channel in Channel)


def embed(history: History, name: str) -> Plain:
    """Return what a page embeds of a run."""
    return _Embedding(history).plain(name)


class _Embedding:
    """One run on its way into a page."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._ticks = Ticks(history.first_ns, history.last_ns)

    def plain(self, name: str) -> Plain:
        history = self._history
        waits = sorted(history.all_waits, key=self._length_ns, reverse=True)
        shown = waits[:WAITS_MAX]
        staged = [wait.stages_us for wait in history.waits if wait.stages_us]
        bars, pages_per_bar = few_bars(history.sends, BARS_MAX)
        too_many = max(len(bars) - BARS_MAX, 0)
        bars = bars[:BARS_MAX]
        blackout, postcopy_ns = history.blackout_ns, history.postcopy_ns
        verdict = verdict_of(history)
        return {
            "name": name,
            "status": status_of(history),
            "reason": reason_of(history),
            "tone": verdict.tone,
            "sentences": [list(sentence) for sentence in verdict.sentences],
            "run": history.run,
            "verdict": history.verdict,
            "accesses": history.accesses,
            "tick_us": self._ticks.tick_us,
            "end": self._ticks.at(history.last_ns),
            "begin": self._ticks.at(self._begin_ns()),
            "blocks": self._blocks(),
            "vcpus": history.vcpu_count,
            "waiter": history.waiter,
            # Bytes a second of the link that lies between the sides, where that is known.
            "link_rate": history.link_rate,
            "states": {side: self._states(side) for side in (SOURCE, DEST)},
            "blackout": None if blackout is None else [self._ticks.at(each) for each in blackout],
            "downtime_us": history.downtime_us,
            "guest_blackout_us": history.guest_clock.get("blackout-us"),
            "guest_stall_us": history.guest_clock.get("stall-us"),
            "postcopy": None if postcopy_ns is None else self._ticks.at(postcopy_ns),
            "since": "the first page" if history.sends else "the first event",
            "lost_bytes": lost_bytes(history),
            "preempted": history.source_count(events.Preempt.event),
            "boosted": history.source_count(events.Boost.event),
            "percentiles_us": percentiles_us(waits),
            "wait_count": len(waits),
            "waited_us": waited_us(waits),
            "staged_waits": len(staged),
            "stage_totals_us": [sum(each) for each in zip(*staged, strict=True)],
            "distribution_us": _points(sorted(wait.latency_us for wait in history.waits)),
            "stages": list(STAGES),
            "stage_words": list(STAGE_WORDS.values()),
            "kinds": list(KINDS),
            "ends": list(ENDS),
            "channels": list(CHANNELS),
            "sends": self._sends(bars),
            "waits": self._waits(shown, bars),
            "requests": self._requests(),
            "placed": self._placed(),
            "notes": self._notes(),
            "waiting": self._waiting(waits),
            "missing": self._curve(missing_curve(history)),
            "left": self._curve(left_curve(history)),
            "breaks": self._breaks(),
            "counts": dict(history.counts),
            "pages_per_bar": pages_per_bar,
            "left_out": self._left_out(too_many, len(waits)),
        }

    def _length_ns(self, wait: Wait) -> int:
        end_ns = self._history.last_ns if wait.wake_ns is None else wait.wake_ns
        return end_ns - wait.start_ns

    def _begin_ns(self) -> int:
        """Return when pages began to be sent: what comes before is set-up."""
        active = [at for at, state in self._history.states(SOURCE) if state == State.ACTIVE.value]
        starts = [self._history.sends[0].start_ns] if self._history.sends else []
        return min([*active, *starts], default=self._history.first_ns)

    def _blocks(self) -> list[Plain]:
        blocks = []
        for index in self._history.block_indices:
            known = self._history.blocks.get(index)
            page_bytes = known.page_bytes if known else TARGET_PAGE_BYTES
            blocks.append(
                {
                    "name": known.name if known else f"block {index}",
                    "pages": self._history.page_count(index),
                    "page_bytes": page_bytes,
                    "known": known is not None,
                }
            )
        return blocks

    def _states(self, side: str) -> list[list[Any]]:
        return [[self._ticks.at(at), state] for at, state in self._history.states(side)]

    def _sends(self, bars: Sequence[Send]) -> Plain:
        kinds = [
            KINDS.index(bar.kind)
            | CHANNELS.index(bar.channel) << 2
            | ENDS.index(bar.ended) << 3
            for bar in bars
        ]  # fmt: skip
        return {
            "count": len(bars),
            "start": self._ticks.column([bar.start_ns for bar in bars]),
            "end": self._ticks.column([bar.end_ns for bar in bars]),
            "block": column([bar.block for bar in bars], "u1"),
            "page": column([bar.page for bar in bars], "f8"),
            "pages": column([bar.pages for bar in bars], "u4"),
            "kind": column(kinds, "u1"),
            "bytes": column([bar.bytes or 0 for bar in bars], "f4"),
            "urgent": self._ticks.column([bar.urgent_ns for bar in bars]),
        }

    def _waits(self, waits: Sequence[Wait], bars: Sequence[Send]) -> Plain:
        history = self._history
        numbers = {id(bar): number for number, bar in enumerate(bars)}
        served = [
            NEVER if number is None else numbers.get(id(history.sends[number]), NEVER)
            for number in served_by(history, list(waits))
        ]
        untold = [-1.0] * len(STAGES)
        stages = [wait.stages_us or untold for wait in waits]
        return {
            "count": len(waits),
            "start": self._ticks.column([wait.start_ns for wait in waits]),
            "wake": self._ticks.column([wait.wake_ns for wait in waits]),
            "vcpu": column([wait.vcpu for wait in waits], "u1"),
            "block": column([wait.block for wait in waits], "u1"),
            "page": column([wait.page for wait in waits], "f8"),
            "latency": column([self._length_ns(wait) / 1000 for wait in waits], "f4"),
            "stages": column(np.array(stages, dtype="f4").ravel(), "f4"),
            "send": column(served, "u4"),
            "answers": [wait.answer for wait in waits],
            # Of few of the waits; by the wait's number.
            "behind": {
                str(number): [[list(page) for page in wait.behind], wait.behind_count]
                for number, wait in enumerate(waits)
                if wait.behind
            },
            "parts": {
                str(number): [[STAGES.index(stage), length_us] for stage, length_us in wait.parts]
                for number, wait in enumerate(waits)
                if len({stage for stage, _ in wait.parts}) < len(wait.parts)
            },
        }

    def _requests(self) -> Plain:
        requests = self._history.requests[:REQUESTS_MAX]
        answers = sorted({request.answer for request in requests})
        return {
            "count": len(requests),
            "asked": self._ticks.column([request.asked_ns for request in requests]),
            "came": self._ticks.column([request.came_ns for request in requests]),
            "block": column([request.block for request in requests], "u1"),
            "page": column([request.page for request in requests], "f8"),
            "answer": [answers.index(request.answer) for request in requests],
            "answers": answers,
        }

    def _placed(self) -> Plain:
        placed = self._history.placed[:PLACED_MAX]
        return {
            "count": len(placed),
            "time": self._ticks.column([each.time_ns for each in placed]),
            "block": column([each.block for each in placed], "u1"),
            "page": column([each.page for each in placed], "f8"),
            "pages": column([each.pages for each in placed], "u4"),
        }

    def _notes(self) -> list[list[Any]]:
        return [
            [self._ticks.at(note.time_ns), note.side, note.event, note.fields]
            for note in self._history.notes[:NOTES_MAX]
        ]

    def _waiting(self, waits: Sequence[Wait]) -> list[list[float]]:
        """Return how many vCPUs waited on average in each of equal stretches of time."""
        steps = waiting_over_time(waits, self._history.last_ns)
        if not steps:
            return []
        begin = self._ticks.at(self._begin_ns())
        end = max(self._ticks.at(self._history.last_ns), begin + 1)
        edges = np.linspace(begin, end, POINTS_MAX + 1)
        of_each = means([(self._ticks.at(at), count) for at, count in steps], edges)
        return [
            [round(float(edge), 1), round(float(mean), 4)]
            for edge, mean in zip(edges[:-1], of_each, strict=True)
        ]

    def _curve(self, points: Sequence[Point]) -> Plain:
        """Return a curve as when it came to which value."""
        shown = thinned(points, CURVE_POINTS_MAX)
        return {
            "time": self._ticks.column([point.time_ns for point in shown]),
            "bytes": column([point.bytes for point in shown], "f8"),
        }

    def _breaks(self) -> list[list[int | None]]:
        return [
            [self._ticks.at(lost), None if back is None else self._ticks.at(back)]
            for lost, back in breaks_ns(self._history)
        ]

    def _left_out(self, too_many: int, wait_count: int) -> Plain:
        history = self._history
        kept = {
            "sends": too_many,
            "waits": max(wait_count - WAITS_MAX, 0),
            "notes": max(len(history.notes) - NOTES_MAX, 0),
            "requests": max(len(history.requests) - REQUESTS_MAX, 0),
            "placed": max(len(history.placed) - PLACED_MAX, 0),
        }
        return {name: count + history.left_out[name] for name, count in kept.items()}


def _points(ordered: Sequence[float]) -> list[list[float]]:
    """Return a distribution as (value, share of all at or below it), ascending, ends included."""
    count = len(ordered)
    ranks = sorted({round(rank) for rank in np.linspace(1, count, min(count, 400))})
    # The tail is what people look for, so the last hundred are all there.
    ranks = sorted({*ranks, *range(max(1, count - 99), count + 1)}) if count else []
    return [[round(ordered[rank - 1], 3), rank / count] for rank in ranks]
