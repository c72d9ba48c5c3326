"""The two standard streams: results on one, everything said about them on the other."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from protocol.errors import MidstreamError
from protocol.text import one_line
from scripts.processes.parent import has_listener, tell_parent

# Clears what a progress line may have left where a message is to begin.
CLEAR_LINE = "\r\x1b[K"


def print_result(text: str) -> None:
    """Write to standard output, now.

    Raises:
        MidstreamError: It is closed, full, or nobody reads it.
    """
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


def tell(line: str) -> None:
    """Write a line to standard error, or nowhere if that is closed."""
    stream: TextIO | None = sys.stderr
    if stream is None:
        return
    with contextlib.suppress(OSError):
        stream.write(f"{CLEAR_LINE if stream.isatty() else ''}{line}\n")
        stream.flush()


def tell_failure(reason: str) -> None:
    """Tell why the command failed, in one line whatever a peer or a file has put into it."""
    if has_listener():
        tell_parent(one_line(reason))
    else:
        tell(f"midstream: {one_line(reason)}")


def _forget(stream: TextIO) -> None:
    """Let what a stream has buffered go nowhere; the interpreter's end would fail on it again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
