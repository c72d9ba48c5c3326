"""The pictures of a sweep: how a figure goes over each axis, and which policy wins where.

Pure but for matplotlib: from a table's rows to figures.  Where a panel shows fewer axes than a
sweep has, it shows medians over the others; seeds are never an axis of a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scripts.figures.plots import INK, look_of
from scripts.results.rows import Row
from scripts.screen.words import time_ms

POLICY, SEED = "policy", "seed"
# The one line of a sweep that has no policies to compare.
_ALL = "all runs"
_PANEL_INCHES = (3.0, 2.4)
# Who is no further ahead has not won.
_AHEAD_MIN = 1.01
# A cell's text is short.
_NAME_CHARS_MAX = 15


@dataclass(frozen=True)
class Measure:
    """A figure of a run that pictures are about.

    Attributes:
        title: For people.
        column: Where a row has it.
        unit_ms: What its unit is, in milliseconds.
    """

    title: str
    column: str
    unit_ms: float

    def of(self, row: Row) -> float | None:
        """Return it in milliseconds; None where a run has none."""
        value = row.get(self.column)
        return None if value is None else float(value) * self.unit_ms


MEASURES = (
    Measure("fault p50", "faults.p50-us", 1e-3),
    Measure("fault p99", "faults.p99-us", 1e-3),
    Measure("longest fault", "faults.max-us", 1e-3),
    Measure("total time", "total-time", 1.0),
)

Axis = Mapping[str, Sequence[Any]]


def shown_axes(axes: Axis) -> list[str]:
    """Return the axes that pictures have: of more values than one, and no seeds."""
    return [name for name in axes if name not in {POLICY, SEED} and len(axes[name]) > 1]


def known_measures(rows: Sequence[Row]) -> list[Measure]:
    """Return those that some run has."""
    return [each for each in MEASURES if any(each.of(row) for row in rows)]


def medians(
    rows: Iterable[Row], measure: Measure, names: Sequence[str]
) -> dict[tuple[str, ...], float]:
    """Return the median of a figure for each combination of some axes' values."""
    found: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        value = measure.of(row)
        if value is not None:
            found.setdefault(tuple(str(row[f"axis.{name}"]) for name in names), []).append(value)
    return {key: median(values) for key, values in found.items()}


def draw_effects(rows: Sequence[Row], axes: Axis) -> Figure:
    """Return small multiples: a row an axis, a column a figure, a line a policy.

    Args:
        rows: Of the runs that were completed.
        axes: Values by the names of axes; some of them are shown.
    """
    names, measures = shown_axes(axes), known_measures(rows)
    figure, panels = _panels(len(names), len(measures))
    lines = [str(value) for value in axes.get(POLICY, [_ALL])]
    for name, line in zip(names, panels, strict=True):
        values = _texts(axes[name])
        for measure, panel in zip(measures, line, strict=True):
            _titled(panel, f"{measure.title} over {name}")
            by = [POLICY, name] if POLICY in axes else [name]
            found = medians(rows, measure, by)
            for number, policy in enumerate(lines):
                at = [
                    (place, found[key])
                    for place, value in enumerate(values)
                    if (key := (policy, value) if POLICY in axes else (value,)) in found
                ]
                panel.plot(
                    [place for place, _ in at],
                    [value for _, value in at],
                    **look_of(policy, number),
                    markersize=4,
                    label=policy,
                )
            panel.set_xticks(range(len(values)), values)
            if any(found.values()):
                panel.set_yscale("log")
                panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: time_ms(value)))
            panel.yaxis.set_minor_formatter(NullFormatter())
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


@dataclass(frozen=True)
class Winner:
    """The policy that does best at one place.

    Attributes:
        policy: Which.
        value_ms: How well.
        ahead: How many times as much the next one takes.
    """

    policy: str
    value_ms: float
    ahead: float


def winners(
    rows: Sequence[Row], measure: Measure, names: Sequence[str]
) -> dict[tuple[str, ...], Winner]:
    """Return which policy does best for each combination of some axes' values."""
    by_place: dict[tuple[str, ...], list[tuple[float, str]]] = {}
    for (policy, *place), value in medians(rows, measure, [POLICY, *names]).items():
        by_place.setdefault(tuple(place), []).append((value, policy))
    found = {}
    for where, values in by_place.items():
        (best, policy), *others = sorted(values)
        ahead = others[0][0] / best if others and best else 1.0
        found[where] = Winner(policy, best, ahead)
    return found


def draw_winners(rows: Sequence[Row], axes: Axis) -> Figure:
    """Return a map for each figure: over two axes, the policy that does best, and by how much.

    Args:
        rows: Of the runs that were completed.
        axes: Values by the names of axes; the first two that are shown make the map.
    """
    names = shown_axes(axes)[:2]
    across = _texts(axes[names[0]])
    up = _texts(axes[names[1]]) if len(names) > 1 else [""]
    policies = [str(value) for value in axes[POLICY]]
    measures = known_measures(rows)
    figure, panels = _panels(1, len(measures))
    for measure, panel in zip(measures, panels[0], strict=True):
        _titled(panel, f"lowest {measure.title}")
        for place, winner in winners(rows, measure, names).items():
            column = across.index(place[0])
            row = up.index(place[1]) if len(place) > 1 else 0
            told = f"{winner.policy[:_NAME_CHARS_MAX]}\n{time_ms(winner.value_ms)}"
            if winner.ahead >= _AHEAD_MIN:
                colour = look_of(winner.policy, policies.index(winner.policy))["color"]
                told += f"\nnext {winner.ahead:.3g} times"
            else:
                colour, told = "none", f"no winner\n{time_ms(winner.value_ms)}"
            panel.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, alpha=0.45))
            panel.text(
                column + 0.5, row + 0.5, told, ha="center", va="center", fontsize=6, color=INK
            )
        panel.set_xlim(0, len(across))
        panel.set_ylim(0, len(up))
        panel.grid(visible=False)
        panel.set_xticks([place + 0.5 for place in range(len(across))], across)
        panel.set_yticks([place + 0.5 for place in range(len(up))], up)
        panel.set_xlabel(names[0], fontsize=8, color=INK)
        if len(names) > 1:
            panel.set_ylabel(names[1], fontsize=8, color=INK)
    return figure


def _texts(values: Sequence[Any]) -> list[str]:
    return [",".join(value) if isinstance(value, list) else str(value) for value in values]


def _panels(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * columns, height * rows + 0.6), layout="constrained")
    panels: list[list[Axes]] = figure.subplots(rows, columns, squeeze=False).tolist()
    return figure, panels


def _titled(panel: Axes, title: str) -> None:
    panel.set_title(title, fontsize=9, color=INK)
    panel.grid(visible=True, which="major", alpha=0.25)
    panel.tick_params(colors=INK, which="both", labelsize=7)
    panel.spines[:].set_color(INK)
