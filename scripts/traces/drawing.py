"""Pictures of a trace's footprint: address over time, darker where more is accessed."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

_CELLS = (192, 384)
_INCHES = (9.0, 5.0)
_MIB = 1 << 20
_SHADES = " .:-=+*#%@"


def draw_footprint(
    grid: NDArray[np.float64], end: float, guest_bytes: int, *, is_timed: bool, title: str
) -> Figure:
    """Return a picture of a footprint.

    Args:
        grid: Accesses by address and time, shape (rows, columns), the lowest addresses first.
        end: What the columns end at: seconds, or accesses if it has no times.
        guest_bytes: What the rows end at.
        is_timed: Whether the trace has times.
        title: What it is of.
    """
    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.add_subplot()
    # Where nothing is accessed there is nothing, not a colour for 0.
    shown = np.ma.masked_equal(grid, 0)
    image = axes.imshow(
        shown, origin="lower", aspect="auto", interpolation="nearest", cmap="viridis_r",
        extent=(0, end, 0, guest_bytes / _MIB), norm=LogNorm(1, max(float(grid.max()), 2.0)),
    )  # fmt: skip
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("time (s)" if is_timed else "access number")
    axes.set_ylabel("address in the guest (MiB)")
    figure.colorbar(image, ax=axes, label="accesses")
    return figure


def picture_cells(page_count: int) -> tuple[int, int]:
    """Return how many rows and columns `draw_footprint` shows well: of few pages a row each."""
    return min(_CELLS[0], page_count), _CELLS[1]


def draw_in_text(grid: NDArray[np.float64]) -> list[str]:
    """Return a footprint as lines of characters, the highest addresses first."""
    most = np.log1p(max(float(grid.max()), 1.0))
    shades = np.ceil(np.log1p(grid) / most * (len(_SHADES) - 1)).astype(int)
    return ["".join(_SHADES[shade] for shade in row).rstrip() for row in shades[::-1].tolist()]
