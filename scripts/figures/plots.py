"""The pictures of comparisons, drawn with matplotlib.

Pictures have no background of their own, and ink that turns light on a dark page: an SVG carries a
style sheet for `prefers-color-scheme`, which browsers heed inside `<img>`, too.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from guest.latency import summary_of
from protocol.errors import MidstreamError
from scripts.qemu.against import ROWS
from scripts.screen.outlet import write_output
from scripts.screen.words import time_ms, time_us

# What text and axes are drawn with, and what becomes of it on a dark page.
INK, _LIGHT_INK = "#1f2328", "#e6edf3"
_DARK_PAGE = f"""<style>@media (prefers-color-scheme: dark) {{
[style*="fill: {INK}"], text:not([style*="fill:"]) {{ fill: {_LIGHT_INK} !important }}
[style*="stroke: {INK}"] {{ stroke: {_LIGHT_INK} !important }}
}}</style>
"""

# Okabe and Ito's palette without its yellow, and a dash and a marker of its own for each line:
# told apart without colours, too.  A policy has the same ones in each picture.
_COLOURS = (
    *("#7f7f7f", "#e69f00", "#d55e00", "#0072b2"),
    *("#cc79a7", "#56b4e9", "#882255", "#999933", "#009e73", "#aa4499", "#997700"),
)
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
_MARKERS = "osD^vPX<>ph"
_KNOWN = (
    *("vanilla", "own-channel", "drop", "ordered", "priority-by-channel"),
    *("parallel", "resend", "split", "critical-first", *ROWS),
)

_INCHES = (9.0, 5.0)


def draw_distributions(
    latencies_ms: Mapping[str, Sequence[float]], wire_ms: Mapping[str, float], title: str
) -> Figure:
    """Return the share of faults that waited at least so long, on two logarithmic axes.

    On a linear share the lines of all policies coincide: what tells them apart is the one fault
    in a hundred that waits for a second.

    Args:
        latencies_ms: For each policy, every fault's latency in milliseconds.
        wire_ms: What the wire alone needs, by what it carries.
        title: What was run.
    """
    figure, axes = _new(title)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for number, (name, values) in enumerate(latencies_ms.items()):
        ordered = sorted(values)
        if not ordered:
            continue
        count = len(ordered)
        shares = [100 * (count - rank) / count for rank in range(count)]
        # As reports and tables have it.
        median = time_us(summary_of(round(value * 1e6) for value in ordered).p50_us)
        axes.plot(
            *(ordered, shares),
            **look_of(name, number),
            drawstyle="steps-pre",
            markevery=[-1],
            markersize=5,
            label=f"{name}: median {median}, longest {time_ms(ordered[-1])}, {count} faults",
        )
    for name, needed_ms in wire_ms.items():
        axes.axvline(needed_ms, color="#7f7f7f", linewidth=1, linestyle=(0, (2, 3)))
        axes.annotate(
            f"wire: {name}, {time_ms(needed_ms)}", (needed_ms, 0.02),
            xycoords=("data", "axes fraction"), textcoords="offset points", xytext=(-3, 0),
            color="#7f7f7f", rotation=90, va="bottom", ha="right", fontsize=8, zorder=0,
        )  # fmt: skip
    _in_time(axes.xaxis)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g} %"))
    axes.set_xlabel("fault latency, from the touch until the vCPU runs again")
    axes.set_ylabel("faults that waited at least so long")
    axes.set_ylim(top=115)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=2)
    return figure


def draw_growth(waits_ms: Mapping[str, Mapping[int, float]], title: str) -> Figure:
    """Return how one vCPU's wait grows with the number of requests after its own.

    Args:
        waits_ms: For each policy, the wait in milliseconds by number of requests.
        title: What was run.
    """
    figure, axes = _new(title)
    for number, (name, waits) in enumerate(waits_ms.items()):
        counts = sorted(waits)
        look = look_of(name, number)
        axes.plot(counts, [waits[count] for count in counts], **look, markersize=6)
        axes.annotate(
            f"{name}: {time_ms(waits[counts[-1]])}", (counts[-1], waits[counts[-1]]),
            textcoords="offset points", xytext=(8, 0), va="center", fontsize=9,
            color=INK, annotation_clip=False,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({count for waits in waits_ms.values() for count in waits})
    axes.set_xticks(ticks, [f"{count:,}" for count in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    _in_time(axes.yaxis)
    axes.set_xlabel("page requests in the trace")
    axes.set_ylabel("wait of the vCPU on the half-sent page")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as what the file's ending says, as PNG where it has none.

    Raises:
        MidstreamError: The file cannot be written, or its ending means nothing.
    """
    try:
        if path.suffix == ".svg":
            data = svg_of(figure).encode()
        else:
            image = io.BytesIO()
            figure.savefig(image, format=path.suffix.removeprefix(".") or "png", dpi=120)
            data = image.getvalue()
        write_output(path, data)
    except (OSError, ValueError) as error:
        raise MidstreamError(f"cannot write {path}: {error}") from error


def svg_of(figure: Figure) -> str:
    """Return a figure as SVG, for light pages and dark ones."""
    text = io.StringIO()
    # Without a date and with fixed ids, the same figures give the same file.
    with mpl.rc_context({"svg.hashsalt": "midstream", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _with_dark_page(text.getvalue())


def _with_dark_page(svg: str) -> str:
    head, defs, rest = svg.partition(" <defs>")
    # What has no colour of its own is black to an SVG, and may as well be ink.
    return head + _DARK_PAGE + defs + rest.replace("fill: #000000", f"fill: {INK}")


def look_of(name: str, number: int) -> dict[str, Any]:
    """Return the colour, dash and marker of a policy, or of what is the number-th otherwise."""
    place = _KNOWN.index(name) if name in _KNOWN else len(_KNOWN) + number
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "linestyle": _DASHES[place % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)],
    }


def _in_time(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value_ms, _: time_ms(value_ms)))
    axis.set_minor_formatter(NullFormatter())


def _new(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, color=INK)
    axes.grid(visible=True, which="major", alpha=0.25)
    axes.tick_params(colors=INK, which="both")
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.spines[:].set_color(INK)
    return figure, axes
