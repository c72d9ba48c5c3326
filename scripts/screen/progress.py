"""Progress of a source: a line that replaces itself on a terminal, elsewhere one now and then."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import TextIO

import trio

from protocol import events
from protocol.events import Emit
from protocol.states import State
from protocol.units import format_bytes, format_rate
from scripts.screen.output import CLEAR_LINE, is_behind
from scripts.screen.phases import percent_done, phase_words, time_left
from scripts.screen.words import counted, time_ms
from source.progress import Progress

# Four times a second is smooth enough to follow.
_PERIOD_SECONDS = 0.25

_BAR_CHARS = 16

# A log is no place for four lines a second; what takes less time than this leaves none.
_LOG_SECONDS = 10.0

Filled = Callable[[], tuple[int, int] | None]


async def show_progress(
    progress: Callable[[], Progress | None],
    stream: TextIO | None = None,
    filled: Filled = lambda: None,
) -> None:
    """Show how far a migration is until cancelled; on what is no terminal, a line every 10 s.

    Args:
        progress: Tells it; None while there is nothing to tell.
        stream: Where to show it; standard error if not given.
        filled: Tells how many bytes of the guest's memory are filled, of how many; None when all
            of them are.
    """
    stream = stream or sys.stderr
    if stream is None:
        return
    if not stream.isatty():
        await _log_progress(progress, stream, filled)
        return
    before: Progress | None = None
    try:
        while True:
            now = progress()
            # What a terminal has not taken yet, under Ctrl-S, a newer line does not hurry.
            if is_behind(stream):
                pass
            elif now is not None:
                rate, before = rate_between(before, now), now
                _write(stream, CLEAR_LINE + progress_line(now, rate, _columns()))
            elif (filling := filled()) is not None:
                line = phase_words(State.NONE.value, 0, filling)
                _write(stream, CLEAR_LINE + line[: _columns() - 1])
            await trio.sleep(_PERIOD_SECONDS)
    finally:
        _write(stream, CLEAR_LINE)


async def _log_progress(
    progress: Callable[[], Progress | None], stream: TextIO, filled: Filled
) -> None:
    """Write a line every 10 s until cancelled, with the rate since the last one."""
    before = progress()
    while True:
        await trio.sleep(_LOG_SECONDS)
        now, filling = progress(), filled()
        if now is None and filling is None:
            continue
        if now is None:
            line = phase_words(State.NONE.value, 0, filling)
        else:
            line = ", ".join(progress_parts(now, rate_between(before, now)))
        before = now
        _write(stream, f"midstream: {line}\n")


async def tell_progress(
    progress: Callable[[], Progress | None], emit: Emit, filled: Filled = lambda: None
) -> None:
    """Emit how far a migration is, until cancelled; arguments as of `show_progress`."""
    while True:
        now = progress()
        if now is None and (filling := filled()) is not None:
            emit(events.Filling(bytes=filling[0], total_bytes=filling[1]))
        if now is not None:
            emit(
                events.Progress(
                    remaining_bytes=now.remaining_bytes, done=round(now.done, 4),
                    queued=now.queued_requests,
                    precopy_bytes=now.precopy_channel_bytes,
                    postcopy_bytes=now.postcopy_channel_bytes,
                )
            )  # fmt: skip
        await trio.sleep(_PERIOD_SECONDS)


def rate_between(before: Progress | None, now: Progress) -> float:
    """Return the bytes a second from one look to the next, which may come late.

    Args:
        before: The look before; None for the first, which tells no rate.
        now: The last one.
    """
    if before is None or now.elapsed_ms <= before.elapsed_ms:
        return 0.0
    return (now.sent_bytes - before.sent_bytes) / (now.elapsed_ms - before.elapsed_ms) * 1000


def progress_line(now: Progress, rate: float, columns: int) -> str:
    """Return the line, cut to a terminal's width.

    Args:
        now: How far it is.
        rate: Bytes a second at present.
        columns: How wide the terminal is.
    """
    phase, *parts = progress_parts(now, rate)
    if not parts:
        return phase[: columns - 1]
    # A full bar is for what is complete.
    filled = int(now.done * _BAR_CHARS)
    line = f"[{'#' * filled:-<{_BAR_CHARS}}] {phase}"
    for part in parts:
        # A line that fills the last column would wrap on some terminals, and half a part says
        # something else.
        if len(line) + 2 + len(part) >= columns:
            break
        line += f"  {part}"
    return line[: columns - 1]


def progress_parts(now: Progress, rate: float) -> list[str]:
    """Return how far it is, in words, what matters most first; arguments as of `progress_line`."""
    phase = phase_words(now.state, now.pass_count)
    if now.state == State.SETUP.value:
        return [phase]
    waiting = now.queued_requests
    parts = (
        phase,
        percent_done(now.done),
        format_rate(rate),
        time_left(now.state, now.remaining_bytes, rate),
        f"{format_bytes(now.remaining_bytes)} to send",
        f"downtime {time_ms(now.downtime_ms)}" if now.downtime_ms else "",
        counted(now.requests, "request", "requests") if now.requests else "",
        f"{waiting} queued" if waiting else "",
    )
    return [part for part in parts if part]


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        # A terminal that went away is no reason to end a migration.
        return
