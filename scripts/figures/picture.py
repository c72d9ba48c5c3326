"""Draws saved events as one SVG: what went over which channel when, and how long one vCPU waited.

    python -m scripts.figures.picture --page 5 --out picture.svg ordered=a.jsonl drop=b.jsonl

One panel a run, all on the same time axis, which starts shortly before the page is first
preempted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import click

from protocol import events
from protocol.errors import LocalProtocolError

Event = dict[str, Any]

# Okabe and Ito's palette: told apart by everyone, also in grey.
COLOURS = {"background": "#9ecae8", "urgent": "#e69f00", "boosted": "#d55e00"}
_INK = "#222222"
_FAINT = "#8a8a8a"

_WIDTH, _LEFT, _RIGHT = 960, 150, 20
_PANEL, _LANE, _TOP = 196, 34, 34
_LANES = ("page requests", "precopy channel", "postcopy channel")

# What is shown before the first preemption and after the last wake-up.
_MARGIN_MS = 20.0


@dataclass(frozen=True)
class Bar:
    """A stretch of time in which a channel carried a page.

    Attributes:
        kind: "background", "urgent" or "boosted".
    """

    channel: str
    page: int
    kind: str
    start_ms: float
    stop_ms: float


@dataclass(frozen=True)
class Run:
    """What of one run's events is drawn; times in milliseconds from the first preemption."""

    name: str
    bars: tuple[Bar, ...]
    requests: tuple[tuple[int, float], ...]
    wait_ms: tuple[float, float]


def read_run(name: str, path: Path, page: int) -> Run:
    """Return what is to be drawn of a file of events.

    Raises:
        LocalProtocolError: The file is none, or the page was not preempted and waited for in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        found: list[Event] = sorted(map(json.loads, lines), key=lambda event: event["t-ns"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LocalProtocolError(f"{path} is no file of events: {error}") from error
    preempted = _times(found, events.Preempt.event, page)
    waits, wakes = (
        _times(found, events.VcpuWait.event, page),
        _times(found, events.VcpuWake.event, page),
    )
    if not (preempted and waits and wakes):
        raise LocalProtocolError(f"{path}: page {page} was not preempted and waited for")
    zero_ns = preempted[0]

    def ms(time_ns: int) -> float:
        return (time_ns - zero_ns) / 1e6

    requests = tuple(
        (event["page"], ms(event["t-ns"]))
        for event in found
        if (event["side"], event["event"]) == ("source", events.PageRequest.event)
    )
    bars = tuple(
        Bar(bar.channel, bar.page, bar.kind, ms(int(bar.start_ms)), ms(int(bar.stop_ms)))
        for bar in _bars(found)
    )
    return Run(name, bars, requests, (ms(waits[0]), ms(wakes[0])))


def _times(found: Iterable[Event], name: str, page: int) -> list[int]:
    return [event["t-ns"] for event in found if (event["event"], event.get("page")) == (name, page)]


def _bars(found: Iterable[Event]) -> Iterable[Bar]:
    """Yield the source's sends, in nanoseconds of the events' clock."""
    started: dict[tuple[str, int], int] = {}
    for event in found:
        if event["side"] != "source" or "channel" not in event:
            continue
        key = (event["channel"], event["page"])
        if event["event"] == events.PageStart.event:
            started[key] = event["t-ns"]
        elif event["event"] in {events.Preempt.event, events.PageSent.event} and key in started:
            kind = "boosted" if event.get("boosted") else "background"
            kind = "urgent" if event["urgent"] and kind == "background" else kind
            yield Bar(*key, kind, started.pop(key), event["t-ns"])


def draw(runs: list[Run], page: int) -> str:
    """Return the SVG of some runs."""
    end_ms = max(run.wait_ms[1] for run in runs) + _MARGIN_MS
    scale = (_WIDTH - _LEFT - _RIGHT) / (end_ms + _MARGIN_MS)

    def x(time_ms: float) -> float:
        return _LEFT + min(max(time_ms + _MARGIN_MS, 0), end_ms + _MARGIN_MS) * scale

    height = _TOP + _PANEL * len(runs) + 40
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">'
    )
    parts = [
        head,
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        *_legend(),
    ]
    for number, run in enumerate(runs):
        parts += _panel(run, page, _TOP + number * _PANEL, x, end_ms)
    parts += _axis(x, end_ms, _TOP + _PANEL * len(runs))
    return "\n".join([*parts, "</svg>\n"])


def _legend() -> list[str]:
    words = {
        "background": "background page",
        "urgent": "requested page",
        "boosted": "rest of the half-sent page, requested",
    }
    parts: list[str] = []
    left = _LEFT
    for kind, word in words.items():
        parts.append(f'<rect x="{left}" y="10" width="14" height="12" fill="{COLOURS[kind]}"/>')
        parts.append(_text(left + 20, 20, word))
        left += 60 + 7 * len(word)
    return parts


def _panel(run: Run, page: int, top: float, x: Any, end_ms: float) -> list[str]:  # noqa: ANN401
    parts = [_text(10, top + 20, run.name, weight="bold", size=14)]
    for number, name in enumerate(_LANES):
        middle = top + 28 + number * _LANE + _LANE / 2
        parts.append(_text(_LEFT - 10, middle + 4, name, anchor="end"))
        parts.append(_line(_LEFT, middle, _WIDTH - _RIGHT, middle, "#e4e4e4"))
    parts += _requests(run, page, top + 28 + _LANE / 2, x, end_ms)
    for bar in run.bars:
        if bar.stop_ms < -_MARGIN_MS or bar.start_ms > end_ms:
            continue
        lane = 1 if bar.channel == "precopy" else 2
        left, right = x(bar.start_ms), x(bar.stop_ms)
        y = top + 28 + lane * _LANE + 5
        parts.append(
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{max(right - left, 1):.1f}" '
            f'height="{_LANE - 10}" fill="{COLOURS[bar.kind]}" stroke="white"/>'
        )
        if right - left > 12:
            parts.append(_text((left + right) / 2, y + 16, str(bar.page), anchor="middle"))
    return parts + _wait(run, page, top + 28 + 3 * _LANE + 14, x)


def _requests(run: Run, page: int, y: float, x: Any, end_ms: float) -> list[str]:  # noqa: ANN401
    parts: list[str] = []
    free = 0.0
    for requested, time_ms in run.requests:
        if not -_MARGIN_MS <= time_ms <= end_ms:
            continue
        parts.append(_line(x(time_ms), y, x(time_ms), y + _LANE / 2, _FAINT))
        # Requests that come together stand side by side.
        left = max(x(time_ms), free)
        free = left + 20
        weight = "bold" if requested == page else "normal"
        parts.append(_text(left, y - 3, str(requested), anchor="middle", weight=weight))
    return parts


def _wait(run: Run, page: int, y: float, x: Any) -> list[str]:  # noqa: ANN401
    start_ms, stop_ms = run.wait_ms
    left, right = x(start_ms), x(stop_ms)
    words = f"the vCPU on page {page} waits {stop_ms - start_ms:.0f} ms"
    fits_beside = right < _WIDTH / 2
    anchor, at = ("start", right + 6) if fits_beside else ("middle", (left + right) / 2)
    return [
        _line(left, y, right, y, COLOURS["boosted"], 3),
        _line(left, y - 5, left, y + 5, COLOURS["boosted"], 2),
        _line(right, y - 5, right, y + 5, COLOURS["boosted"], 2),
        _text(at, y + (4 if fits_beside else 18), words, anchor=anchor),
    ]


def _axis(x: Any, end_ms: float, y: float) -> list[str]:  # noqa: ANN401
    step_ms = next(
        step for step in (5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if end_ms / step < 12
    )
    parts = [_line(_LEFT, y, _WIDTH - _RIGHT, y, _FAINT)]
    for tick_ms in range(0, int(end_ms) + 1, step_ms):
        parts.append(_line(x(tick_ms), y, x(tick_ms), y + 5, _FAINT))
        parts.append(_text(x(tick_ms), y + 18, str(tick_ms), anchor="middle"))
    parts.append(_text(_WIDTH / 2, y + 34, "milliseconds since the preemption", anchor="middle"))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="{width}"/>'
    )


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal", size: int = 12
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'font-size="{size}" fill="{_INK}">{escape(words)}</text>'
    )


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="NAME=EVENTS...")
@click.option("--page", type=int, required=True, help="The page whose waiting vCPU is shown.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The SVG to write.")
def main(runs: tuple[str, ...], page: int, out: Path) -> None:
    """Draw runs as one SVG."""
    read = []
    for run in runs:
        name, _, path = run.partition("=")
        read.append(read_run(name, Path(path), page))
    out.write_text(draw(read, page), encoding="utf-8")


if __name__ == "__main__":
    main()
