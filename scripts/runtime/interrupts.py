"""Signals that end a command while no event loop listens for them: one line, exit status 130.

They are SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal was closed) and SIGQUIT: whichever comes, a
command ends in the same order.

During a migration trio's signal receivers have the signals and end it in order.  Before that, while
modules load and options are read, nothing is under way that would need an order.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from scripts.runtime.parent import has_listener


def _heeded() -> tuple[signal.Signals, ...]:
    """Return the signals that end a command; one that `nohup` has it ignore does not."""
    asked = (signal.SIGINT, signal.SIGTERM)
    hung_up = (signal.SIGHUP, signal.SIGQUIT)
    return asked + tuple(each for each in hung_up if signal.getsignal(each) != signal.SIG_IGN)


SIGNALS = _heeded()
EXIT_CANCELLED = 130

# What the last line of a process may take to be written.
_SAY_SECONDS_MAX = 0.5


def exit_when_signalled(*, at_once: bool = True) -> None:
    """Let signals end this process; those that came while they were blocked do it now.

    Args:
        at_once: Else the first waits until `tell_before_exit` has been called: until the command
            line has been read, nobody knows whom to tell.  A second one does not wait.
    """
    _Exit.is_early = not at_once
    for number in SIGNALS:
        signal.signal(number, _exit)
    release_signals()


def tell_before_exit(tell: Callable[[str], None] | None) -> None:
    """Name who is told why a signal ends this process, if one does; one that waits does now.

    Args:
        tell: Takes the reason, in the midst of whatever the process was at: it imports nothing.
    """
    _Exit.is_early, _Exit.tell = False, tell
    end_if_signalled()


def place_before_exit(place: Callable[[str], str]) -> None:
    """Name who adds to the reason where the guest is, if a signal ends this process from now on.

    Args:
        place: Takes the reason and returns the whole; imports nothing (`tell_before_exit`).
    """
    _Exit.place = place


def end_if_signalled() -> None:
    """End this process if a signal waits for that."""
    if _Exit.waiting:
        number, _Exit.waiting = _Exit.waiting, 0
        _exit(number, None)


class _Exit:
    """The state of the signals' handler; there is one process, and one of this."""

    is_early = False
    waiting = 0
    place: Callable[[str], str] | None = None
    tell: Callable[[str], None] | None = None


def hold_signals() -> None:
    """Let signals wait, as long as nothing can answer them in order."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def release_signals() -> None:
    """Unblock the signals: those that wait, and those to come."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextlib.contextmanager
def raise_when_signalled() -> Iterator[None]:
    """Raise at the first signal in this block, which then cleans up; not around an event loop.

    An import or a finaliser that the exception hits may swallow it, and later signals are ignored.
    So whoever is about to wait for long calls `check_raised`, and the end of the block does.

    Raises:
        MigrationCancelled: A signal came.
    """
    # Late: this module is the first of all to be loaded.
    from protocol.errors import MigrationCancelled  # noqa: PLC0415

    def cancel(number: int, _frame: FrameType | None) -> None:
        ignore_signals()
        _Raised.reason = f"cancelled by {signal.Signals(number).name}"
        raise MigrationCancelled(_Raised.reason)

    before = {number: signal.signal(number, cancel) for number in SIGNALS}
    try:
        yield
        check_raised()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _Raised.reason = ""


class _Raised:
    """Why `raise_when_signalled` has raised, in the block that is left for it; there is one."""

    reason = ""


def check_raised() -> None:
    """Raise again what `raise_when_signalled` has raised, if the block goes on all the same.

    Raises:
        MigrationCancelled: A signal came.
    """
    from protocol.errors import MigrationCancelled  # noqa: PLC0415

    if _Raised.reason:
        raise MigrationCancelled(_Raised.reason)


def insists(number: int) -> bool:
    """Return whether a second signal says that its user waits no longer.

    A terminal that is closed says so twice, by the kernel and by its shell.
    """
    return number != signal.SIGHUP


def end_at_once(reason: str) -> NoReturn:
    """End this process as one that was cancelled, whatever its threads are at."""
    if not has_listener():
        _say(f"midstream: {reason}\n".encode())
    os._exit(EXIT_CANCELLED)


def ignore_signals() -> None:
    """Let nothing cut the end short: the outcome stands, and is about to be told."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _exit(number: int, _frame: FrameType | None) -> None:
    if _Exit.is_early and not _Exit.waiting:
        _Exit.waiting = number
        return
    # An exception would not do: the import that it hits may swallow it, or die of something else.
    reason = f"cancelled by {signal.Signals(number).name}"
    if _Exit.place is not None:
        reason = _Exit.place(reason)
    if _Exit.tell is not None:
        _Exit.tell(reason)
    end_at_once(reason)


def _say(line: bytes) -> None:
    """Write to standard error; who does not read it does not keep this process from ending."""
    said = _thread.allocate_lock()
    said.acquire()

    def write() -> None:
        with contextlib.suppress(OSError):
            os.write(2, line)
        said.release()

    # No module may be imported here: the signal may have come in the midst of that.
    with contextlib.suppress(RuntimeError):
        _thread.start_new_thread(write, ())
        said.acquire(timeout=_SAY_SECONDS_MAX)
