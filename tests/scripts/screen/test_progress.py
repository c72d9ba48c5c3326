"""The progress line: on a terminal only, never wider than it."""

import io
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from scripts.screen.progress import progress_line, rate_between, show_progress
from source.progress import Progress

NOW = Progress(
    state="postcopy-active", pass_count=1, ram_bytes=64 << 20, done=0.76, remaining_bytes=16 << 20,
    sent_bytes=100 << 20, precopy_channel_bytes=60 << 20, postcopy_channel_bytes=40 << 20,
    elapsed_ms=5.0, requests=29, queued_requests=3, preemptions=2, boosted=1,
)  # fmt: skip


class Terminal(io.StringIO):
    """Standard error on a terminal, or not."""

    def __init__(self, *, is_terminal: bool) -> None:
        """Start with an empty screen."""
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:  # type: ignore[explicit-override] # typing.override: from 3.12
        """Tell what it was made to tell."""
        return self._is_terminal


class BrokenTerminal(Terminal):
    """A terminal that went away."""

    def write(self, text: str) -> int:  # type: ignore[explicit-override] # as above
        """Fail as a write to it does."""
        raise OSError(5, f"cannot write {len(text)} characters")


async def show_for_a_moment(stream: io.StringIO) -> None:
    """Show progress until it has had time for one line."""
    with trio.move_on_after(0.05):
        await show_progress(lambda: NOW, stream)


def test_the_line_says_how_far_it_is() -> None:
    """A bar, the phase in words, the share, rate, time and bytes left stand in one line."""
    assert progress_line(NOW, 534e6, 120) == (
        "[############----] postcopy: memory follows  76 %  534 MB/s  1 s left  16 MiB to send  "
        "29 requests  3 queued"
    )
    active = replace(NOW, state="active", requests=0, queued_requests=0)
    assert progress_line(active, 0, 100) == (
        "[############----] precopy: pass 2  76 %  0 B/s  16 MiB to send"
    )


def test_a_slow_line_has_a_rate() -> None:
    """8 kB/s is no 0 MB/s."""
    assert "  8 kB/s  " in progress_line(NOW, 8000, 120)


def test_only_what_is_complete_fills_the_bar() -> None:
    """A bar that is nearly full is not full."""
    almost = replace(NOW, done=0.999, remaining_bytes=1)
    assert "[###############-]" in progress_line(almost, 0, 100)
    assert "[################]" in progress_line(replace(almost, done=1.0), 0, 100)


def test_the_rate_is_over_the_time_that_went_by() -> None:
    """A look that comes late tells no higher rate; the first one tells none."""
    later = replace(NOW, sent_bytes=NOW.sent_bytes + 3000, elapsed_ms=NOW.elapsed_ms + 1500)
    assert rate_between(None, NOW) == 0
    assert rate_between(NOW, later) == 2000
    assert rate_between(NOW, NOW) == 0


def test_before_the_first_page_there_is_only_a_state() -> None:
    """Nothing is left to send only because nothing is known yet."""
    assert progress_line(replace(NOW, state="setup", remaining_bytes=0), 0, 80) == ("connecting")


@pytest.mark.parametrize("columns", [10, 40, 80])
def test_the_line_fits_the_terminal(columns: int) -> None:
    """No figure is so large that the line wraps."""
    wide = replace(NOW, remaining_bytes=10**15, ram_bytes=10**15, requests=10**12)
    assert len(progress_line(wide, 1e15, columns)) < columns


async def test_a_terminal_is_left_clean() -> None:
    """The line replaces itself, and is gone in the end."""
    terminal = Terminal(is_terminal=True)
    await show_for_a_moment(terminal)
    text = terminal.getvalue()
    assert "postcopy: memory follows" in text
    assert "\n" not in text
    assert text.endswith("\r\x1b[K")


async def test_a_file_gets_no_progress_of_what_is_short() -> None:
    """What takes a moment leaves no line behind where nobody watches."""
    file = Terminal(is_terminal=False)
    await show_for_a_moment(file)
    assert file.getvalue() == ""


async def test_a_log_gets_a_line_every_ten_seconds(autojump_clock: MockClock) -> None:
    """With the phase, and the rate since the line before; memory that is filled is told, too."""
    file = Terminal(is_terminal=False)
    began = trio.current_time()
    told: list[Progress | None] = [None, None, NOW]

    def progress() -> Progress | None:
        at = min(int(trio.current_time() - began) // 10, 2)
        seconds = trio.current_time() - began
        now = told[at]
        return now and replace(now, elapsed_ms=seconds * 1000, sent_bytes=int(seconds * 1e6))

    with trio.move_on_after(35):
        await show_progress(
            progress, file, lambda: (3 << 30, 8 << 30) if progress() is None else None
        )
    follows, rest = "midstream: postcopy: memory follows, 76 %", "16 MiB to send, 29 requests"
    assert file.getvalue().splitlines() == [
        "midstream: filling memory 3/8 GiB",
        f"{follows}, 0 B/s, {rest}, 3 queued",
        f"{follows}, 1 MB/s, 17 s left, {rest}, 3 queued",
    ]


async def test_a_terminal_is_told_of_memory_that_is_being_filled() -> None:
    """Before there is a connection that is all that goes on."""
    terminal = Terminal(is_terminal=True)
    with trio.move_on_after(0.05):
        await show_progress(lambda: None, terminal, lambda: (1 << 30, 8 << 30))
    assert "filling memory 1/8 GiB" in terminal.getvalue()


async def test_a_terminal_that_goes_away_ends_nothing() -> None:
    """A write that fails is no reason to end a migration."""
    await show_for_a_moment(BrokenTerminal(is_terminal=True))
