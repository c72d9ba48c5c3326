"""Takes both sides' events: writes the events file, tells changes of state to a verbose user."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import TracebackType

import orjson
import trio

from protocol.errors import MidstreamError
from protocol.events import STATE
from scripts.screen.output import tell

# Lines are written together once so many have come, or so much time has passed: a write for each
# would cost the migration more than making the line.
_LINES_MAX = 256
_SECONDS_MAX = 0.1

# A spool is on a disk that is for other things, too.  This is ten million events, as many as a view
# reads.
SPOOL_BYTES_MAX = 2 << 30

# What a pipe takes in one piece, so that two processes' lines cannot mix in it.
_PIPE_BYTES = select.PIPE_BUF


class _Out:
    """A file or a pipe that lines go to."""

    def __init__(self, path: Path, *, append: bool, bytes_max: int | None = None) -> None:
        """Open it.

        Raises:
            MidstreamError: It cannot be opened.
        """
        self._fd = _open(path, append=append)
        self._bytes_max = bytes_max
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def write(self, lines: list[bytes]) -> None:
        """Write whole lines.

        Raises:
            OSError: They cannot be written, or the file is as large as it may be.
        """
        if self._bytes_max is not None and os.fstat(self._fd).st_size >= self._bytes_max:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        for piece in [b"".join(lines)] if self._is_file else _pieces(lines):
            data = memoryview(piece)
            while data:
                data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


class Recorder:
    """Is the `Emit` of one side; a context manager that loses no line."""

    def __init__(
        self,
        side: str,
        path: Path | None,
        *,
        spool: Path | None = None,
        append: bool = False,
        at_once: bool = False,
        on_state: Callable[[str], None] | None = None,
    ) -> None:
        """Open the file.

        Args:
            side: "source" or "dest".
            path: Where events go; None for nowhere.
            spool: Where they go, too, for views of the run; a regular file, and appended to.
            append: Keep what the file holds.  Each write is of whole lines, at the file's end, so
                two processes may share a file, or a pipe; its lines are then only nearly in order
                of time.
            at_once: Write each event before anything else happens, whatever that costs.
            on_state: Called with a line for each change of state.

        Raises:
            MidstreamError: The file cannot be opened.
        """
        self._side = side
        self._lines_max = 1 if at_once else _LINES_MAX
        self._on_state = on_state
        self._lines: list[bytes] = []
        self._outs = [] if path is None else [_Out(path, append=append)]
        try:
            self._outs += (
                [] if spool is None else [_Out(spool, append=True, bytes_max=SPOOL_BYTES_MAX)]
            )
        except MidstreamError:
            self._close()
            raise

    def __call__(self, event: str, **fields: str | int | float | bool | None) -> None:
        """Take one event."""
        if self._on_state is not None and event == STATE:
            self._on_state(f"{self._side}: {fields['state']}")
        if not self._outs:
            return
        line = {"t-ns": time.monotonic_ns(), "side": self._side, "event": event}
        line.update(zip(_in_file(*fields), fields.values(), strict=True))
        self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        if len(self._lines) >= self._lines_max or event == STATE:
            self.flush()

    @property
    def is_heard(self) -> bool:
        """Whether events go anywhere."""
        return bool(self._outs)

    async def keep_flushing(self) -> None:
        """Write what has come every moment until cancelled, so that a reader need not wait."""
        while self._outs:
            await trio.sleep(_SECONDS_MAX)
            self.flush()

    def flush(self) -> None:
        """Write what has come; a file that cannot be written is given up, not the guest."""
        lines, self._lines = self._lines, []
        for out in tuple(self._outs):
            try:
                out.write(lines)
            except OSError as error:
                tell(f"{self._side}: from here on events are lost: {error.strerror}")
                out.close()
                self._outs.remove(out)

    def __enter__(self) -> Recorder:
        """Return the recorder itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the rest and close the file."""
        self.flush()
        self._close()

    def _close(self) -> None:
        for out in self._outs:
            out.close()
        self._outs.clear()


@cache
def _in_file(*names: str) -> tuple[str, ...]:
    """Return fields' names as they stand in the file; there are some dozens of sets of them."""
    return tuple(name.replace("_", "-") for name in names)


def _pieces(lines: list[bytes]) -> Iterator[bytes]:
    """Yield whole lines, as many together as a pipe takes in one piece."""
    piece = b""
    for line in lines:
        if piece and len(piece) + len(line) > _PIPE_BYTES:
            yield piece
            piece = b""
        piece += line
    if piece:
        yield piece


def _open(path: Path, *, append: bool) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (0 if append else os.O_TRUNC)
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        raise MidstreamError(f"cannot write {path}: {error.strerror}") from error
