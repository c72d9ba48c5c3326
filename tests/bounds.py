"""Nothing in a test hangs, and nothing is left behind by it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import TypeVar

import trio
from trio.testing import MockClock

E = TypeVar("E", bound=BaseException)

# Far more than any of these tests needs, even where many share two processors.
BOUND_SECONDS = 20.0
HANG_SECONDS = 10.0
REAL_SECONDS_MIN = 180.0


@contextmanager
def bounded(seconds: float = BOUND_SECONDS) -> Iterator[None]:
    """Fail a test that hangs, by the clock that it runs under.

    A clock that a test moves by hand moves by itself when nothing happens for long.  By the real
    one a slow machine hangs as little as a fast one: it is given far more than anything takes.
    """
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock):
        seconds = max(seconds, REAL_SECONDS_MIN)
    if isinstance(clock, MockClock) and clock.autojump_threshold == inf:
        clock.autojump_threshold = HANG_SECONDS
    with trio.fail_after(seconds):
        yield


def open_files() -> set[tuple[str, str]]:
    """Return number and name of every file and socket that this process has open."""
    files = set()
    for entry in Path("/proc/self/fd").iterdir():
        # The listing has the descriptor that it is read through, which is gone by now.
        try:
            files.add((entry.name, str(entry.readlink())))
        except FileNotFoundError:
            continue
    return files


def child_processes() -> set[int]:
    """Return the ids of this process's children, those that nobody waited for included."""
    children: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            children.update(map(int, (task / "children").read_text().split()))
        except FileNotFoundError:
            continue
    return children


@contextmanager
def nothing_left() -> Iterator[None]:
    """Check that a block leaves no open file and no child process."""
    files, children = open_files(), child_processes()
    yield
    left = open_files() - files
    # Tracebacks of what failed may go round in circles; most are young, a full search takes long.
    for generation in (1, 2):
        if left:
            gc.collect(generation)
            # A board stays mapped, and so open, for whoever still looks at what a guest counted.
            left = {each for each in open_files() - files if "midstream-board" not in each[1]}
    assert not left, f"still open: {left}"
    assert child_processes() <= children, "a child process is left"


def bare(error: E) -> E:
    """Return an error without its traceback, which would hold on to all that it went through."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
