"""Draws saved events as one picture: what went over which channel, and how long one vCPU waited.

    python -m scripts.figures.picture --page 5 --out picture.svg ordered=a.jsonl drop=b.jsonl

`scripts/pictures/half-sent-page.toml` is the scenario of such runs (`midstream inject --keep`), to
be run once with each policy.  One panel a run, all on the same time axis, which starts shortly
before the page is first preempted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from protocol import events
from protocol.errors import LocalProtocolError
from scripts.figures.plots import INK, save
from scripts.screen.words import time_ms
from scripts.views.history import History
from scripts.views.outputs import history_of
from scripts.views.records import BACKGROUND, BOOSTED, URGENT
from scripts.views.saved import read_all

# Okabe and Ito's palette: told apart by everyone, also in grey; what is written on it stays dark.
_COLOURS = {BACKGROUND: "#9ecae8", URGENT: "#e69f00", BOOSTED: "#d55e00"}
_ON_COLOUR = "#111111"
_WORDS = {
    BACKGROUND: "background page",
    URGENT: "requested page",
    BOOSTED: "rest of the half-sent page, requested",
}
# From the bottom, with a lane for the wait below them.
_LANES = {"postcopy": 1, "precopy": 2}
_REQUEST_LANE = 3
_NAMES = ("", "postcopy channel", "precopy channel", "page requests")

_WIDTH_INCHES, _PANEL_INCHES, _OTHER_INCHES = 9.6, 1.8, 0.9
# What is shown before the first preemption and after the last wake-up.
_MARGIN_MS = 20.0
# Between two pages, so that they are seen to be two on any ground.
_GAP_MS = 0.4
# A page's number takes so much of the width.
_NUMBER_SHARE = 0.022
# One beside others takes more, so that they are not read as one number.
_REQUEST_SHARE = 0.032


class Run(NamedTuple):
    """A run that is drawn.

    Attributes:
        zero_ns: When the page was first preempted, by the events' clock.
        wait_ms: From when to when a vCPU waited for the page, from then on.
    """

    name: str
    history: History
    zero_ns: int
    wait_ms: tuple[float, float]

    def ms(self, time_ns: int) -> float:
        """Return a moment in milliseconds since the preemption."""
        return (time_ns - self.zero_ns) / 1e6


def read_run(name: str, path: Path, page: int) -> Run:
    """Return what is to be drawn of a file of events.

    Raises:
        LocalProtocolError: The file is none, or the page was not preempted and waited for in it.
    """
    history = history_of(read_all(path))
    preempted = [
        note.time_ns
        for note in history.notes
        if (note.event, note.fields.get("page")) == (events.Preempt.event, page)
    ]
    waits = [wait for wait in history.waits if wait.page == page]
    if not preempted or not waits or waits[0].wake_ns is None:
        raise LocalProtocolError(f"{path}: page {page} was not preempted and waited for")
    run = Run(name, history, min(preempted), (0.0, 0.0))
    return run._replace(wait_ms=(run.ms(waits[0].start_ns), run.ms(waits[0].wake_ns)))


def draw(runs: Sequence[Run], page: int) -> Figure:
    """Return the picture of some runs."""
    end_ms = max(run.wait_ms[1] for run in runs) + _MARGIN_MS
    inches = (_WIDTH_INCHES, _PANEL_INCHES * len(runs) + _OTHER_INCHES)
    figure = Figure(figsize=inches, layout="constrained")
    panels = figure.subplots(len(runs), sharex=True, squeeze=False)[:, 0]
    for axes, run in zip(panels, runs, strict=True):
        axes.set_title(run.name, loc="left", fontsize=11, fontweight="bold")
        axes.set_yticks(range(len(_NAMES)), _NAMES)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "left", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(INK)
        axes.tick_params(color=INK)
        axes.set_xlim(-_MARGIN_MS, end_ms)
        axes.set_ylim(-0.8, len(_NAMES) - 0.4)
        _draw_sends(axes, run, end_ms)
        _draw_requests(axes, run, page, end_ms)
        _draw_wait(axes, run, page, end_ms)
    panels[-1].xaxis.set_major_formatter(
        FuncFormatter(lambda at_ms, _: time_ms(at_ms) if at_ms else "0")
    )
    panels[-1].set_xlabel(f"since page {page} was interrupted")
    legend = [Patch(color=_COLOURS[kind], label=words) for kind, words in _WORDS.items()]
    figure.legend(handles=legend, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _draw_sends(axes: Axes, run: Run, end_ms: float) -> None:
    for send in run.history.sends:
        start_ms, stop_ms = run.ms(send.start_ns), run.ms(send.end_ns)
        if stop_ms < -_MARGIN_MS or start_ms > end_ms:
            continue
        lane, colour = _LANES[send.channel], _COLOURS[send.kind]
        axes.barh(lane, max(stop_ms - start_ms - _GAP_MS, 0.1), 0.7, left=start_ms, color=colour)
        shown = (max(start_ms, -_MARGIN_MS), min(stop_ms, end_ms))
        if shown[1] - shown[0] > _NUMBER_SHARE * (end_ms + _MARGIN_MS):
            axes.text(
                *(sum(shown) / 2, lane, str(send.page)),
                *(), ha="center", va="center", fontsize=9, color=_ON_COLOUR,
            )  # fmt: skip


def _draw_requests(axes: Axes, run: Run, page: int, end_ms: float) -> None:
    free_ms = -_MARGIN_MS
    for request in run.history.requests:
        at_ms = run.ms(request.came_ns or request.asked_ns)
        if not -_MARGIN_MS <= at_ms <= end_ms:
            continue
        axes.plot((at_ms, at_ms), (_REQUEST_LANE - 0.55, _REQUEST_LANE), color="#8a8a8a", lw=1)
        # Requests that come together stand side by side.
        left_ms = max(at_ms, free_ms)
        free_ms = left_ms + _REQUEST_SHARE * (end_ms + _MARGIN_MS)
        weight = "bold" if request.page == page else "normal"
        axes.text(
            left_ms, _REQUEST_LANE + 0.1, str(request.page), ha="center", fontsize=9, weight=weight
        )


def _draw_wait(axes: Axes, run: Run, page: int, end_ms: float) -> None:
    start_ms, stop_ms = run.wait_ms
    axes.plot(run.wait_ms, (0, 0), color=_COLOURS[BOOSTED], lw=2, marker="|", ms=9)
    fits_beside = stop_ms < end_ms / 2
    axes.annotate(
        f"the vCPU on page {page} waits {time_ms(stop_ms - start_ms)}",
        (stop_ms if fits_beside else (start_ms + stop_ms) / 2, 0),
        textcoords="offset points", xytext=(6, -3) if fits_beside else (0, -13),
        ha="left" if fits_beside else "center", fontsize=9,
    )  # fmt: skip


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="NAME=EVENTS...")
@click.option("--page", type=int, required=True, help="The page whose waiting vCPU is shown.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file: .svg, .png.")
def main(runs: tuple[str, ...], page: int, out: Path) -> None:
    """Draw runs as one picture."""
    named = [run.partition("=") for run in runs]
    save(draw([read_run(name, Path(path), page) for name, _, path in named], page), out)


if __name__ == "__main__":
    main()
