"""Progress of a sweep: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scripts.screen.output import is_behind, tell
from scripts.screen.words import time_ms

# A log is no place for four lines a second.
_LOG_SECONDS = 10.0


@dataclass
class Counted:
    """How far a sweep is.

    Attributes:
        count: How many runs there are to make.
        show: Shows it, where there is who looks; given this.
        done: How many runs are made.
    """

    count: int
    show: Callable[[Counted], None] = lambda _: None
    done: int = 0

    def took(self) -> None:
        """Count a run."""
        self.done += 1

    def tick(self) -> None:
        """Show how far it is; this is called some times a second."""
        self.show(self)


@contextmanager
def counted_runs(count: int, *, quiet: bool) -> Iterator[Counted]:
    """Show how far a sweep is, unless nobody wants to know.

    Args:
        count: How many runs there are to make.
        quiet: Nobody does.
    """
    if quiet or sys.stderr is None:
        yield Counted(count)
    elif not sys.stderr.isatty():
        yield Counted(count, logging(time.monotonic))
    else:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )  # fmt: skip
        # Refreshed by who runs the sweep: a thread of the bar's own would write whenever it likes.
        with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
            task = progress.add_task("runs", total=count)

            def show(now: Counted) -> None:
                progress.update(task, completed=now.done)
                # What a terminal has not taken yet, under Ctrl-S, a newer line does not hurry.
                if not is_behind(sys.stderr):
                    progress.refresh()

            counted = Counted(count, show)
            yield counted
            counted.tick()


def logging(clock_s: Callable[[], float]) -> Callable[[Counted], None]:
    """Return what tells a line every ten seconds, as soon as a run is made.

    Args:
        clock_s: Tells the time, in seconds.
    """
    began = said = clock_s()

    def show(now: Counted) -> None:
        nonlocal said
        if clock_s() - said < _LOG_SECONDS or now.done in {0, now.count}:
            return
        said = clock_s()
        left = time_ms((said - began) / now.done * (now.count - now.done) * 1000)
        tell(f"midstream: {now.done} of {now.count} runs, about {left} left")

    return show
