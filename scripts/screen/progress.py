"""The progress line on a terminal: state, what remains, rate, who waits."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import TextIO

import trio

from protocol import events
from protocol.events import Emit
from protocol.units import format_bytes
from scripts.screen.output import CLEAR_LINE, is_behind
from source.progress import Progress

# Four times a second is smooth enough to follow.
_PERIOD_SECONDS = 0.25

_BAR_CHARS = 16


async def show_progress(
    progress: Callable[[], Progress | None], stream: TextIO | None = None
) -> None:
    """Show how far a migration is until cancelled; nothing on what is no terminal.

    Args:
        progress: Tells it; None while there is nothing to tell.
        stream: Where to show it; standard error if not given.
    """
    stream = stream or sys.stderr
    if stream is None or not stream.isatty():
        return
    before: Progress | None = None
    try:
        while True:
            now = progress()
            # What a terminal has not taken yet, under Ctrl-S, a newer line does not hurry.
            if now is not None and not is_behind(stream):
                rate, before = rate_between(before, now), now
                _write(stream, CLEAR_LINE + progress_line(now, rate, _columns()))
            await trio.sleep(_PERIOD_SECONDS)
    finally:
        _write(stream, CLEAR_LINE)


async def tell_progress(progress: Callable[[], Progress | None], emit: Emit) -> None:
    """Emit how far a migration is, until cancelled."""
    while True:
        now = progress()
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
    if now.state == "setup":
        return now.state
    # A full bar is for what is complete.
    filled = int(now.done * _BAR_CHARS)
    phase = f"pass {now.pass_count + 1}" if now.state == "active" else ""
    requests = f"{now.requests} requests, {now.queued_requests} wait" if now.requests else ""
    parts = (
        f"{now.state:<15} [{'#' * filled:-<{_BAR_CHARS}}]",
        phase,
        f"{format_bytes(now.remaining_bytes)} left",
        f"{rate / 1e6:.0f} MB/s",
        requests,
    )
    # A line that fills the last column would wrap on some terminals.
    return "  ".join(filter(None, parts))[: columns - 1]


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        # A terminal that went away is no reason to end a migration.
        return
