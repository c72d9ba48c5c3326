"""The two standard streams: results on one, everything said about them on the other.

Neither holds a migration up.  What is said never waits for its reader (scripts/screen/outlet); what
does not fit is dropped and counted.  A result waits, when all is over: its reader has time.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import IO, TextIO, cast

from protocol.errors import MidstreamError, root_cause, shortage_of
from protocol.text import one_line
from scripts.runtime.interrupts import ignore_signals
from scripts.runtime.parent import has_listener, tell_parent
from scripts.screen.outlet import PIECE_BYTES_MAX, RESULT_SECONDS_MAX, Outlet, may_block, write_all

# Clears what a progress line may have left where a message is to begin.
CLEAR_LINE = "\r\x1b[K"

# What is said of a run is some lines; a crowd of strangers makes it many.
_MESSAGES_BYTES_MAX = 64 * 1024
# In the end, since the reader last took something, and in all.
_MESSAGES_PATIENCE = (0.25, 1.0)

# A person who has stopped a terminal reads what is on it, and goes on.
_RESULT_ON_TERMINAL_SECONDS_MAX = 60.0
# What is announced while a migration is under way, or about to be.
_ANNOUNCED_SECONDS_MAX = 0.25


class _Stream:
    """The methods that `sys.stdout` must have, but for `write` and `flush`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""

    @property
    def encoding(self) -> str:
        return self._stream.encoding

    @property
    def errors(self) -> str | None:
        return self._stream.errors

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True

    def _keep(self, text: str) -> int:
        # Libraries find out in this way whether a stream takes texts or bytes.
        if not isinstance(text, str):
            raise TypeError(f"{type(text).__name__} is no text")
        self._text += text
        return len(text)

    def _take(self) -> bytes:
        text, self._text = self._text, ""
        return text.encode(self._stream.encoding, "backslashreplace")


class Messages(_Stream):
    """A standard error that keeps nobody waiting.

    Each write that ends a line, and each flush, is written whole or not at all.
    """

    def __init__(self, stream: TextIO) -> None:
        """Stand in front of a stream."""
        super().__init__(stream)
        self._outlet = Outlet(
            stream.fileno(), owned=False, bytes_max=_MESSAGES_BYTES_MAX, tell_gap=_tell_gap
        )

    @property
    def dropped(self) -> int:
        """How many messages were, and will be if nobody reads those that wait."""
        return self._outlet.dropped + self._outlet.waiting

    @property
    def is_behind(self) -> bool:
        """Whether its reader has not taken all yet."""
        return self._outlet.is_behind

    def write(self, text: str) -> int:
        """Buffer a text; hand it on if it ends a line."""
        count = self._keep(text)
        if text.endswith("\n"):
            self.flush()
        return count

    def flush(self) -> None:
        """Hand on what there is."""
        if data := self._take():
            self._outlet.put(data)

    def wait(self) -> None:
        """Let the reader have what waits, if it reads."""
        self.flush()
        self._outlet.wait(*_MESSAGES_PATIENCE)

    def finish(self) -> None:
        """Do as `wait` does; then everything goes nowhere."""
        self.flush()
        self._outlet.finish(*_MESSAGES_PATIENCE)


class Results(_Stream):
    """A standard output that waits for its reader, but not for ever, and says when it has not."""

    def __init__(self, stream: TextIO) -> None:
        """Stand in front of a stream."""
        super().__init__(stream)
        fd = stream.fileno()
        # A disk keeps nobody waiting, and says at once what is wrong with it.
        self._outlet = Outlet(fd, owned=False, bytes_max=sys.maxsize) if may_block(fd) else None

    def write(self, text: str) -> int:
        """Buffer a text."""
        return self._keep(text)

    def flush(self) -> None:
        """Write what there is; what was announced goes first.

        Raises:
            MidstreamError: It cannot be written, or nobody takes it.
        """
        if not self._text:
            return
        if isinstance(sys.stderr, Messages):
            # Both may be one terminal.
            sys.stderr.wait()
        is_terminal = self.isatty()
        self._write(_RESULT_ON_TERMINAL_SECONDS_MAX if is_terminal else RESULT_SECONDS_MAX)
        if self._outlet is not None and self._outlet.is_behind:
            # What follows would only be the end of something that nobody has the beginning of.
            self._outlet.finish(0, 0)
        if self._outlet is not None and self._outlet.dropped:
            raise MidstreamError("cannot write standard output: nobody reads it")

    def announce(self) -> None:
        """Write what there is, and wait only a moment for it to be read.

        Raises:
            MidstreamError: It cannot be written.
        """
        self._write(_ANNOUNCED_SECONDS_MAX)

    def _write(self, seconds_max: float) -> None:
        data = self._take()
        error: OSError | None = None
        if self._outlet is not None:
            for start in range(0, len(data), PIECE_BYTES_MAX):
                self._outlet.put(data[start : start + PIECE_BYTES_MAX])
            self._outlet.wait(seconds_max)
            error = self._outlet.error
        else:
            try:
                write_all(self.fileno(), data)
            except OSError as failed:
                error = failed
        if error is not None:
            raise MidstreamError(f"cannot write standard output: {error.strerror}") from error


def guard_streams() -> None:
    """Bound every wait of what this process says; for a process of its own, at its start."""
    # None when the shell closed it (`>&-`).
    if sys.stdout is not None:
        sys.stdout = cast(TextIO, Results(sys.stdout))
    if sys.stderr is not None and may_block(sys.stderr.fileno()):
        sys.stderr = cast(TextIO, Messages(sys.stderr))


def finish_messages() -> None:
    """Let whoever reads standard error have what was said; bounded.

    What a full disk has not taken until now it never will.
    """
    if isinstance(sys.stderr, Messages):
        sys.stderr.finish()
        return
    stream: TextIO | None = sys.stderr
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        _forget(stream)


def dropped_messages() -> int:
    """Return how much of what was said nobody takes; a reader that reads has the time to."""
    if not isinstance(sys.stderr, Messages):
        return 0
    sys.stderr.wait()
    return sys.stderr.dropped


def is_behind(stream: IO[str]) -> bool:
    """Return whether a stream's reader has not taken yet what was written before."""
    return isinstance(stream, Messages) and stream.is_behind


def output_columns() -> int:
    """Return how wide the terminal is that results go to; 0 if they go to none."""
    stream: TextIO | None = sys.stdout
    with contextlib.suppress(OSError):
        if stream is not None and stream.isatty():
            return os.get_terminal_size(stream.fileno()).columns
    return 0


def print_result(text: str) -> None:
    """Write to standard output, now.

    Raises:
        MidstreamError: It is closed, full, or nobody reads it.
    """
    if not text:
        return
    # None when the shell closed it (`>&-`).
    stream: TextIO | None = sys.stdout
    if stream is None:
        raise MidstreamError("cannot write standard output: it is closed")
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        _forget(stream)
        raise MidstreamError(f"cannot write standard output: {error.strerror}") from error


def announce(line: str) -> None:
    """Write a line to standard output while a migration is waited for, or runs.

    Raises:
        MidstreamError: It is closed or full, or whoever read it is gone.
    """
    if isinstance(sys.stdout, Results):
        sys.stdout.write(f"{line}\n")
        sys.stdout.announce()
    else:
        print_result(f"{line}\n")


def tell(line: str) -> None:
    """Write a line to standard error, or nowhere if that is closed; waits for nobody."""
    stream: TextIO | None = sys.stderr
    if stream is None:
        return
    with contextlib.suppress(OSError):
        stream.write(f"{CLEAR_LINE if stream.isatty() else ''}{line}\n")
        stream.flush()


def tell_failure(reason: str) -> None:
    """Print why the command failed, in one line whatever a peer or a file has put into it."""
    if has_listener():
        tell_parent(one_line(reason))
    else:
        tell(f"midstream: {one_line(reason)}")


def end_of_failure(error: BaseException, *, verbose: bool) -> int:
    """Print why the command failed, in one line whatever it is; return the exit status.

    Args:
        error: One, or a group of which one is told.
        verbose: Tell the traceback of an error that nobody foresaw, too, before that line.
    """
    # The end is decided; a second Ctrl-C would only add a line.
    ignore_signals()
    cause = root_cause(error)
    if isinstance(cause, MidstreamError):
        tell_failure(str(cause))
        return cause.exit_status
    tell_failure(shortage_of(cause) or _bug(cause, verbose=verbose))
    return MidstreamError.exit_status


def _bug(error: BaseException, *, verbose: bool) -> str:
    """Return a line about an error that nobody foresaw."""
    import traceback  # noqa: PLC0415 - rarely needed

    if verbose:
        tell("".join(traceback.format_exception(error)).rstrip())
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"internal error: {type(error).__name__}: {error}{where}; --verbose tells more"


def _tell_gap(count: int) -> bytes:
    what = b"1 message was" if count == 1 else b"%d messages were" % count
    return b"midstream: %s dropped: standard error is not read\n" % what


def _forget(stream: TextIO) -> None:
    """Let what a stream has buffered go nowhere; the interpreter's end would fail on it again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
