"""The pictures of comparisons, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from protocol.errors import MidstreamError

# Okabe and Ito's palette, and a dash of its own for each line: told apart without colours, too.
_COLOURS = (
    *("#000000", "#e69f00", "#56b4e9", "#009e73"),
    *("#0072b2", "#d55e00", "#cc79a7", "#7f7f7f", "#882255"),
)
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))

_INCHES = (9.0, 5.0)


def draw_distributions(
    latencies_ms: Mapping[str, Sequence[float]], wire_ms: Mapping[str, float], title: str
) -> Figure:
    """Return the latency distributions as cumulative shares on a logarithmic axis.

    Args:
        latencies_ms: For each policy, every fault's latency in milliseconds.
        wire_ms: What the wire alone needs, by what it carries.
        title: What was run.
    """
    figure, axes = _new(title)
    for number, (name, values) in enumerate(latencies_ms.items()):
        ordered = sorted(values)
        if not ordered:
            continue
        shares = [100 * (rank + 1) / len(ordered) for rank in range(len(ordered))]
        median = ordered[len(ordered) // 2]
        axes.plot(
            *(ordered, shares),
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_DASHES[number % len(_DASHES)],
            drawstyle="steps-post",
            label=f"{name}: median {median:.3g} ms, {len(ordered)} faults",
        )
    for name, time_ms in wire_ms.items():
        axes.axvline(time_ms, color="#555555", linewidth=1, linestyle=(0, (2, 3)))
        axes.text(
            *(time_ms, 2, f" wire: {name}, {time_ms:.3g} ms"),
            *(), color="#555555", rotation=90, va="bottom", ha="right", fontsize=8, zorder=0,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("fault latency, from the touch until the vCPU runs again (ms)")
    axes.set_ylabel("share of faults (%)")
    axes.set_ylim(0, 100)
    axes.legend(loc="upper left", fontsize=8, framealpha=1)
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
        axes.plot(
            *(counts, [waits[count] for count in counts]),
            color=_COLOURS[(1 + 4 * number) % len(_COLOURS)],
            linestyle=_DASHES[number % len(_DASHES)],
            marker="os^v"[number % 4],
            label=name,
        )
        axes.annotate(
            f"{waits[counts[-1]]:.0f} ms", (counts[-1], waits[counts[-1]]),
            textcoords="offset points", xytext=(0, 8), ha="center", fontsize=8,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("page requests in the trace")
    axes.set_ylabel("wait of the vCPU on the half-sent page (ms)")
    axes.legend(loc="upper left")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as what the file's ending says.

    Raises:
        MidstreamError: The file cannot be written, or its ending means nothing.
    """
    try:
        # Without a date and with fixed ids, the same figures give the same file.
        with mpl.rc_context({"svg.hashsalt": "midstream", "svg.fonttype": "none"}):
            figure.savefig(path, dpi=120, metadata=_metadata(path))
    except (OSError, ValueError) as error:
        raise MidstreamError(f"cannot write {path}: {error}") from error


def _metadata(path: Path) -> dict[str, None] | None:
    return {"Date": None} if path.suffix == ".svg" else None


def _new(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    axes.grid(visible=True, which="both", alpha=0.25)
    return figure, axes
