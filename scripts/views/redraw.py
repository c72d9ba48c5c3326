"""Where a picture lies on a terminal that has got another size since it was drawn.

Terminals that wrap lines anew (tmux, and those of most desktops) make several of a line that has
become too long, push what has no room above their top, and bring it back when there is room.
Others cut lines off, and leave them where they are.  Nobody can be asked without reading the
terminal, so as many lines are taken for the picture's as the first kind has: on the second kind a
few lines above it are cleared, too, and on neither does anything of it remain.

A terminal may have its new size before it says so, and be drawn on meanwhile.  With lines that do
not wrap while they are drawn that comes to the same: what the former picture had too many is above.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Size(NamedTuple):
    """A terminal's."""

    columns: int
    rows: int


class Drawn:
    """The lines of a picture that replaces itself; the cursor is at the end of its last one."""

    def __init__(self) -> None:
        """Start with nothing drawn."""
        self._size = Size(0, 0)
        self._widths: list[int] = []
        # Lines of former pictures are above the top, and higher terminals show them again.
        self._is_above = False

    def drew(self, widths: Sequence[int], size: Size) -> None:
        """Note what is drawn now.

        Args:
            widths: How many columns each line fills, from the top.
            size: The terminal's.
        """
        self._widths, self._size = list(widths), size

    def resized(self, size: Size) -> int | None:
        """Return how many lines above the cursor's are the picture's, if the size has changed.

        Everything from there on is then to be cleared, and nothing is drawn any more.
        """
        if size == self._size or not self._widths:
            return None
        columns, rows = max(size.columns, 1), max(size.rows, 1)
        height = sum(max(1, -(-width // columns)) for width in self._widths)
        grows = columns > self._size.columns or rows > self._size.rows
        # What was higher than the terminal left no room for anything else.
        up = rows - 1 if self._is_above and grows else min(height, rows) - 1
        self._is_above = self._is_above or height > rows
        self._widths = []
        return up
