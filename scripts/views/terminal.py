"""The present of a run in a terminal: page map, channels, who waits, percentiles so far.

What is drawn is a picture of fixed height for a terminal's size; it replaces itself and is gone in
the end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TextIO

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

from protocol.units import format_bytes, format_rate
from scripts.screen.output import is_behind
from scripts.screen.phases import percent_done, phase_words, time_left
from scripts.screen.words import time_ms, time_us
from scripts.views.live import (
    ARRIVING,
    HERE,
    MISSING,
    PARTLY,
    PREEMPTED,
    REQUESTED,
    STATUS_NAMES,
    BlockMap,
    LiveState,
    Waiter,
)
from scripts.views.redraw import Drawn, Size
from scripts.views.spool import Spool

# What a cell looks like: two signs, for terminals with Unicode and without, and a colour.  The
# signs differ, too, so that nobody needs the colours.
_LOOKS = {
    MISSING: ("·", ".", "bright_black"),
    PARTLY: ("▒", ":", "blue"),
    HERE: ("█", "#", "blue"),
    ARRIVING: ("▶", ">", "bright_cyan"),
    PREEMPTED: ("◆", "%", "bright_magenta"),
    REQUESTED: ("●", "@", "bright_yellow"),
}

# Below this there is no room for a map.
_COLUMNS_MIN = 20
# A page of a small guest has several cells beside each other, up to so many.
_CELL_COLUMNS_MAX = 8
_CELL_ROWS_MAX = 5
_WAITERS_MAX = 16
# Lines beside the map and the waiting vCPUs, and one that stays free.
_OTHER_LINES = 11
_NAME_CHARS = 10
_LABEL_CHARS = 18
# The height of a rate over time, with Unicode and without.
_LEVELS, _PLAIN_LEVELS = " ▁▂▃▄▅▆▇█", " .:-=+*#@"
# Whether a terminal continues what is too long in the next line.
_WRAP_OFF, _WRAP_ON = "\x1b[?7l", "\x1b[?7h"


def picture(
    state: LiveState, now_ns: int, columns: int, rows: int, *, unicode: bool = True
) -> list[Text]:
    """Return what is shown of a run, less than `rows` lines of less than `columns` characters.

    Args:
        state: The run's present.
        now_ns: The time, by the events' clock.
        columns: The terminal's width.
        rows: Its height.
        unicode: Whether it can show more than ASCII.
    """
    waiter_lines = max(1, min(_WAITERS_MAX, state.vcpus, (rows - _OTHER_LINES) // 4))
    spare = rows - _OTHER_LINES - waiter_lines
    wide = columns - 1
    # Where the map needs less, what happened last has the rest.
    page_map = _map(state, wide - 1, max(1, spare), unicode=unicode)
    lines = [
        _head(state, now_ns, wide),
        _way(state, wide),
        *page_map,
        _legend(wide, unicode=unicode),
        *_channels(state, wide),
        _rates(state, wide, unicode=unicode),
        *_waiters(state, now_ns, waiter_lines),
        _figures(state, wide),
        *_happenings(state, max(0, spare - len(page_map)), wide),
    ]
    # A terminal that is too small for all of it shows the beginning.
    return [_fit(line, wide) for line in islice(lines, max(rows - 1, 1))]


def _fit(line: Text, columns: int) -> Text:
    line.no_wrap = True
    line.truncate(max(columns, 1), overflow="crop")
    return line


def _whole(parts: Iterable[Text], columns: int) -> Text:
    """Return as many parts as fit in a line; the first in any case, and none in part."""
    line = Text()
    for part in parts:
        if line and line.cell_len + part.cell_len > columns:
            break
        line.append_text(part)
    return line


def _head(state: LiveState, now_ns: int, columns: int) -> Text:
    age_ns = state.age_ns(now_ns)
    parts = [
        state.policy,
        time_us(age_ns / 1000) if age_ns is not None else "",
        f"downtime {time_ms(state.downtime_ms)}" if state.downtime_ms is not None else "",
    ]
    words = [Text(f"  {part}") for part in parts if part]
    phase = phase_words(state.state, state.passes, state.filled)
    return _whole([Text(phase, "bold"), *words], columns)


def _way(state: LiveState, columns: int) -> Text:
    """Return how much of the way is done, as a bar and in percent, and what is left of it."""
    chars = max(4, min(columns // 3, 40))
    # A full bar is for what is complete.
    filled = int(state.done * chars)
    rate = sum(state.rates().values())
    left = ""
    if state.remaining_bytes is not None and state.first_ns is not None:
        left = f"{format_bytes(state.remaining_bytes)} to send"
    parts = (
        percent_done(state.done),
        time_left(state.state, state.remaining_bytes, rate) if not state.is_over else "",
        left,
    )
    bar = Text(f"[{'#' * filled:-<{chars}}]", "blue")
    return _whole(
        [
            bar,
            *(
                Text(f"  {part}" if at else f" {part}")
                for at, part in enumerate(filter(None, parts))
            ),
        ],
        columns,
    )


def _rates(state: LiveState, columns: int, *, unicode: bool) -> Text:
    """Return the rate of all channels over the last moments, and the highest of it."""
    rates = list(state.recent_rates)
    if not rates:
        return Text("rate", "bright_black")
    label = f"{'rate over time':<{_LABEL_CHARS}}" if columns > 60 else "rate    "
    most = max(rates)
    peak = f" up to {format_rate(most)}"
    levels = _LEVELS if unicode else _PLAIN_LEVELS
    shown = rates[-max(1, columns - len(label) - len(peak)) :]
    signs = "".join(levels[round(rate / most * (len(levels) - 1)) if most else 0] for rate in shown)
    return Text.assemble(label, (signs, "cyan"), peak)


def _happenings(state: LiveState, lines: int, columns: int) -> list[Text]:
    """Return in exactly so many lines what happened last, the latest first."""
    if not lines:
        return []
    zero_ns = state.first_ns or 0
    shown = [Text("what happened last", "bright_black") if state.happenings else Text()]
    for at_ns, words in reversed(state.happenings):
        if len(shown) == lines:
            break
        # Where there is no room for both it matters more what it was than when.
        at = f"{(at_ns - zero_ns) / 1e9:9.3f} s  " if zero_ns and columns > 60 else ""
        shown.append(Text(f"{at}{words}"))
    return shown + [Text() for _ in range(lines - len(shown))]


def _map(state: LiveState, columns: int, rows: int, *, unicode: bool) -> list[Text]:
    """Return the map in at most so many lines, always as many for a guest; the last: a cell's size.

    A guest of few pages has wide cells.
    """
    if not state.blocks or columns < _COLUMNS_MIN:
        return [Text() for _ in range(rows)]
    several = len(state.blocks) > 1
    room = columns - (_NAME_CHARS + 1 if several else 0)
    pages = sum(len(block.status) for block in state.blocks.values())
    head_rows = 1 + (len(state.blocks) if several else 0)
    cell_columns = max(1, min(_CELL_COLUMNS_MAX, (rows - head_rows) * room // max(pages, 1)))
    wide = max(1, room // cell_columns)
    # Each block begins a line of its own, and its last may be short.
    budget = max(1, rows - head_rows) * wide
    lines: list[Text] = []
    sizes = []
    for block, cells in state.cells(budget):
        signs = cells.tolist()
        for start in range(0, len(signs), wide):
            name = f"{block.name[:_NAME_CHARS]:<{_NAME_CHARS}} " if several else ""
            line = Text(name if not start else " " * len(name))
            for cell in signs[start : start + wide]:
                line.append(_LOOKS[cell][0 if unicode else 1] * cell_columns, _LOOKS[cell][2])
            lines.append(line)
        sizes.append(_size(block, len(signs)))
    lines = lines[: rows - 1]
    # And high ones, where that leaves a third of the room to others.
    high = max(1, min(_CELL_ROWS_MAX, rows * 2 // 3 // max(len(lines), 1)))
    lines = [line for line in lines for _ in range(high)] if not several else lines
    return [*lines, Text(f"1 cell = {', '.join(dict.fromkeys(sizes))}", "bright_black")]


def _size(block: BlockMap, cells: int) -> str:
    size = format_bytes(block.page_bytes)
    if block.pages == cells:
        return f"1 page ({size})"
    return f"{block.pages / cells:.3g} pages ({size})"


def _legend(columns: int, *, unicode: bool) -> Text:
    parts = []
    for status, name in enumerate((*STATUS_NAMES, "partly here")):
        sign, plain, style = _LOOKS[status]
        gap = "  " if status else ""
        parts.append(Text.assemble(gap, (sign if unicode else plain, style), f" {name}"))
    return _whole(parts, columns)


def _channels(state: LiveState, columns: int) -> list[Text]:
    names = {name: f"{name + ' channel':<{_LABEL_CHARS}}" for name in state.carried}
    if not state.knows_rates:
        return [Text(name.rstrip()) for name in names.values()]
    rates = state.rates()
    figures = {
        name: f"{rates[name] / 1e6:>8.1f} MB/s  {format_bytes(carried):>10}"
        for name, carried in state.carried.items()
    }
    if any(len(names[name]) + len(figures[name]) > columns for name in names):
        names = {name: f"{name:<8}" for name in names}
    return [Text(names[name] + figures[name]) for name in names]


def _waiters(state: LiveState, now_ns: int, lines: int) -> list[Text]:
    waiters = state.waiters
    shown = [_waiter(waiter, state, now_ns) for waiter in waiters[:lines]]
    if len(waiters) > lines:
        more = len(waiters) - lines + 1
        shown[-1] = Text(f"and {more} more {'vCPUs wait' if more > 1 else 'vCPU waits'}")
    if not shown:
        shown = [Text("no vCPU waits", "bright_black")]
    return shown + [Text() for _ in range(lines - len(shown))]


def _waiter(waiter: Waiter, state: LiveState, now_ns: int) -> Text:
    block = state.blocks.get(waiter.block)
    name = f"{block.name if block else waiter.block}:" if len(state.blocks) > 1 else ""
    waited = time_us(state.waited_ns(waiter, now_ns) / 1000)
    return Text(f"vCPU {waiter.vcpu:<3} waits for page {name}{waiter.page}, {waited}", "yellow")


def _figures(state: LiveState, columns: int) -> Text:
    waits = state.waits
    if not waits.count:
        return Text("no wait yet", "bright_black")
    figures = enumerate(
        (("p50", waits.p50_us), ("p90", waits.p90_us), ("p99", waits.p99_us), ("max", waits.max_us))
    )
    parts = [
        "1 wait" if waits.count == 1 else f"{waits.count} waits",
        *(f"{', ' if at else ': '}{name} {time_us(value)}" for at, (name, value) in figures),
        f"; {state.preempted} interrupted half-sent",
        f", {state.boosted} finished early on request",
    ]
    return _whole(map(Text, parts), columns)


class Screen:
    """A terminal on which a run is drawn; it is left as it was, whatever happens."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Use a terminal, standard error if not given."""
        self._stream = stream or sys.stderr
        self._drawn = Drawn()
        self._begin()

    def _begin(self) -> None:
        """Start on a terminal on which nothing is drawn."""
        self._console = Console(file=self._stream)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False,
            redirect_stderr=False, vertical_overflow="crop",
        )  # fmt: skip

    @property
    def dropped(self) -> int:
        """None is: a picture that is not drawn is followed by another."""
        return 0

    def show(self, state: LiveState, now_ns: int) -> None:
        """Draw the present, if the terminal has taken what was drawn before."""
        if is_behind(self._console.file):
            return
        unicode = self._console.encoding.lower().startswith("utf")
        # A terminal that went away is no reason to end a migration.
        with suppress(OSError):
            # Asked once: what it is cleared for is what it is drawn for.
            size = self._size()
            self._clear_if_resized(size)
            self._console.size = ConsoleDimensions(*size)
            drawn = picture(state, now_ns, *size, unicode=unicode)
            with self._unwrapped():
                self._live.update(Group(*drawn), refresh=True)
            self._drawn.drew([line.cell_len for line in drawn], size)

    def _size(self) -> Size:
        """Return the terminal's size as it is, whatever COLUMNS and LINES were for the shell."""
        with suppress(OSError):
            size = Size(*os.get_terminal_size(self._stream.fileno()))
            # A terminal that nobody gave a size has 0 of each.
            if all(size):
                return size
        return Size(*self._console.size)

    @contextmanager
    def _unwrapped(self) -> Iterator[None]:
        """Cut lines that are too long at the edge, as `redraw` needs it."""
        self._stream.write(_WRAP_OFF)
        try:
            yield
        finally:
            self._stream.write(_WRAP_ON)
            self._stream.flush()

    def _clear_if_resized(self, size: Size) -> None:
        """Clear a picture that is no longer where it was drawn."""
        up = self._drawn.resized(size)
        if up is None:
            return
        self._stream.write("\r" + (f"\x1b[{up}A" if up else "") + "\x1b[J")
        self._begin()
        self._live.start()

    async def run(self) -> None:
        """Do nothing: `show` does all."""

    async def farewell(self) -> None:
        """Do nothing: what was shown last is there."""

    def stay(self, spool: Spool) -> None:
        """Do nothing: the result is printed."""

    def __enter__(self) -> Screen:
        """Begin to draw."""
        with suppress(OSError):
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Clear the picture, and show the cursor again."""
        with suppress(OSError):
            self._clear_if_resized(self._size())
            self._live.stop()
