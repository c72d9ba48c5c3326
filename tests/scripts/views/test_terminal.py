"""The picture in a terminal fits it, says what goes on, and leaves nothing behind."""

import io
import re

import pytest
from rich.console import Console, Group

from scripts.views.live import LiveState
from scripts.views.spool import can_show
from scripts.views.terminal import Screen, picture
from tests.stories import MS, ZERO_NS, half_sent

NOW_NS = ZERO_NS + 20 * MS


class Terminal(io.StringIO):
    """A terminal, or what is none."""

    def __init__(self, *, is_terminal: bool = True) -> None:
        """Start empty."""
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:  # type: ignore[explicit-override] # typing.override: from 3.12
        """Tell what it was made to tell."""
        return self._is_terminal


class GoneTerminal(Terminal):
    """A terminal that went away."""

    def write(self, text: str) -> int:  # type: ignore[explicit-override] # as above
        """Fail as a write to it does."""
        raise OSError(5, f"cannot write {len(text)} characters")


def midway() -> LiveState:
    """Return the story of the half-sent page when page 5 is broken off."""
    state = LiveState()
    for event in half_sent():
        state.take(event)
        if event["event"] == "preempt":
            break
    return state


def lines_of(state: LiveState, columns: int, rows: int, *, unicode: bool = True) -> list[str]:
    """Return what a terminal of that size shows."""
    out = io.StringIO()
    console = Console(file=out, width=columns, height=rows, force_terminal=False)
    console.print(Group(*picture(state, NOW_NS, columns, rows, unicode=unicode)))
    return out.getvalue().splitlines()


def test_it_says_what_goes_on() -> None:
    """State, map, channels, who waits and for how long stand there."""
    lines = lines_of(midway(), 80, 24)
    assert lines[0].startswith("postcopy: memory follows  ordered  10 ms")
    assert lines[1].startswith("[-----")
    # A page of a small guest has a cell of several columns and lines.
    assert lines[2] == lines[3] == "".join(sign * 8 for sign in "·····◆···")
    assert lines[5] == "".join(sign * 8 for sign in "●······")
    assert "1 cell = 1 page (2 MiB)" in lines
    assert "what happened last" in lines
    assert any(line.endswith(" s  page 5 is interrupted, half-sent") for line in lines)
    assert "vCPU 0   waits for page 9, 5 ms" in lines
    assert "vCPU 1   waits for page 5, 4.8 ms" in lines
    assert any(line.startswith("postcopy channel") for line in lines)
    done = LiveState()
    for event in half_sent():
        done.take(event)
    lines = lines_of(done, 80, 24)
    assert lines[0].startswith("completed")
    assert lines[1].startswith("[##########################] 100 %")
    assert any(line.startswith("2 waits: p50 17 ms, p90 28.8 ms") for line in lines)


@pytest.mark.parametrize("size", [(200, 60), (80, 24), (60, 12), (39, 8), (20, 4), (3, 2), (1, 1)])
@pytest.mark.parametrize("state", [LiveState(), midway()])
def test_it_fits_any_terminal(size: tuple[int, int], state: LiveState) -> None:
    """No line wraps, and the last line stays free."""
    columns, rows = size
    lines = lines_of(state, columns, rows)
    assert len(lines) <= max(rows - 1, 1)
    assert all(len(line) < columns or columns == 1 for line in lines)


def test_its_height_does_not_change() -> None:
    """A picture that grew and shrank would jump."""
    assert len(lines_of(LiveState(), 80, 24)) <= len(lines_of(midway(), 80, 24))
    done = LiveState()
    for event in half_sent():
        done.take(event)
    assert len(lines_of(midway(), 80, 24)) == len(lines_of(done, 80, 24))


def test_a_plain_terminal_gets_plain_signs() -> None:
    """Without Unicode every state still has a sign of its own."""
    lines = lines_of(midway(), 80, 24, unicode=False)
    assert all(line.isascii() for line in lines)
    assert "".join(sign * 8 for sign in ".....%...") in lines
    assert "".join(sign * 8 for sign in "@......") in lines


def test_the_terminal_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor is hidden and shown again, the other screen is not used, the picture goes."""
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with Screen(terminal) as screen:
        screen.show(midway(), NOW_NS)
    text = terminal.getvalue()
    assert "postcopy: memory follows" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert text.index("\x1b[?25l") < text.index("\x1b[?25h")
    assert "\x1b[?1049h" not in text
    # As many lines are erased as were drawn.
    drawn = text[: text.index("\x1b[?25h")].count("\n")
    assert len(re.findall("\x1b\\[1A\x1b\\[2K", text)) >= drawn - 1 > 10


def test_a_terminal_that_went_away_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes that fail are no reason to end a migration."""
    monkeypatch.setenv("TERM", "xterm")
    with Screen(GoneTerminal()) as screen:
        screen.show(midway(), NOW_NS)


def test_what_is_no_terminal_is_not_drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that cannot move its cursor."""
    monkeypatch.setenv("TERM", "xterm")
    assert can_show(Terminal())
    assert not can_show(Terminal(is_terminal=False))
    assert not can_show(None)
    monkeypatch.setenv("TERM", "dumb")
    assert not can_show(Terminal())


def test_memory_that_is_being_filled_is_told_in_numbers() -> None:
    """Before a large guest is there nothing else goes on, and a person should know."""
    state = LiveState()
    for event in half_sent()[:2]:
        state.take(event)
    told = {"side": "source", "t-ns": ZERO_NS, "event": "filling"}
    state.take({**told, "bytes": 3 << 30, "total-bytes": 8 << 30})
    assert lines_of(state, 80, 24)[0].startswith("filling memory 3/8 GiB")


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_no_part_of_a_line_is_cut(columns: int) -> None:
    """What has no room in a line is left out whole; the map is as wide as the terminal."""
    words = (
        *("postcopy: memory follows", "ordered", "10 ms", "missing", "here", "arriving"),
        *("preempted", "requested", "partly here", "no wait yet", "rate over time", "rate"),
    )
    lines = [line.rstrip() for line in lines_of(midway(), columns, 24)]
    for line in (lines[0], next(line for line in lines if "missing" in line)):
        for part in re.split(r" {2,}", line):
            assert part.lstrip("·█▶◆●▒ ") in words
    # Sixteen pages have as many columns each as there is room for, up to eight.
    assert max(map(len, lines)) >= min(16 * 8, columns - 10)
