"""Takes both sides' events: writes the events file, tells changes of state to a verbose user."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import trio

from guest.whole_file import open_named, own_descriptor
from protocol import events
from protocol.errors import MidstreamError, MigrationCancelled
from scripts.screen.beginning import Held, Out, begins
from scripts.screen.earlier import Earlier, holds_earlier
from scripts.screen.outlet import PIECE_BYTES_MAX, Outlet, may_block, write_all
from scripts.screen.output import tell

# Lines are written together once so many have come, or so much time has passed: a write for each
# takes 8 us, and making the line 0.4 (the best of 25 times 5,000, to a file in the page cache).
_LINES_MAX = 256
_SECONDS_MAX = 0.1

# A spool is on a disk that is for other things, too.  This is ten million events, as many as a view
# reads.
SPOOL_BYTES_MAX = 2 << 30

# In the end a reader is waited for as long as it takes something, but not for ever: since it last
# took something, and in all.  A user who has cancelled is not kept waiting.
_PATIENCE = (1.0, 10.0)
_PATIENCE_CANCELLED = (0.25, 0.5)


_encode = msgspec.json.Encoder().encode
_BEGIN = b'{"t-ns":'


class _File:
    """A file on a disk, or a device; also a pipe whose reader is relied on to read."""

    def __init__(self, fd: int, bytes_max: int | None = None) -> None:
        self._fd = fd
        self._bytes_max = bytes_max
        self.dropped = 0
        self.failure: OSError | None = None

    def write(self, lines: list[bytes]) -> None:
        if self.failure is None:
            try:
                self._check_size()
                write_all(self._fd, b"".join(lines))
            except OSError as error:
                self.failure = error
            else:
                return
        self.dropped += len(lines)

    def _check_size(self) -> None:
        if self._bytes_max is not None and os.fstat(self._fd).st_size >= self._bytes_max:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    def close(self, *, hurry: bool) -> None:  # noqa: ARG002 - nobody reads it
        os.close(self._fd)


class _Watched:
    """A pipe, a socket or a terminal that somebody reads, or does not: nothing waits for that."""

    def __init__(self, output: int | Callable[[], int], tell_gap: Callable[[int], bytes]) -> None:
        self._outlet = Outlet(output, owned=True, tell_gap=tell_gap)

    @property
    def dropped(self) -> int:
        return self._outlet.dropped

    @property
    def failure(self) -> OSError | None:
        return self._outlet.error

    def write(self, lines: list[bytes]) -> None:
        for piece, count in _pieces(lines):
            self._outlet.put(piece, count)

    def close(self, *, hurry: bool) -> None:
        self._outlet.finish(*(_PATIENCE_CANCELLED if hurry else _PATIENCE))


class Recorder:
    """Is the `Emit` of one side; a context manager that loses no line that somebody takes.

    What is on a disk is written at once.  A pipe, a socket or a terminal may have a reader that has
    stopped reading: lines that it does not take are dropped and counted, and its events say where.

    Attributes:
        failure: Why `path` is not whole, if a disk or a device is to blame and no reader.
    """

    def __init__(
        self,
        side: str,
        path: Path | None,
        *,
        spool: Path | None = None,
        earlier: Earlier = Earlier.GONE,
        at_once: bool = False,
        on_state: Callable[[str], None] | None = None,
        now_ns: Callable[[], int] | None = None,
    ) -> None:
        """Open the file.

        Args:
            side: "source" or "dest".
            path: Where events go; None for nowhere.
            spool: Where they go, too, for views of the run; a regular file, and appended to.
            earlier: What becomes of the events that the file holds.  Each write is of whole lines,
                at the file's end, so two processes may share a file, or a pipe; its lines are then
                only nearly in order of time.
            at_once: Write each event before anything else happens, whatever that costs, even if it
                is a pipe: its reader is the one who asked for this.
            on_state: Called with a line for each change of state.
            now_ns: Tells the time of an event; None for the monotonic clock.

        Raises:
            MidstreamError: The file cannot be opened.
        """
        self._side = side
        self._head = b'"side":%b,' % _encode(side)
        self._path = path
        self._lines_max = 1 if at_once else _LINES_MAX
        self._on_state = on_state
        self._now_ns = now_ns or time.monotonic_ns
        self._lines: list[bytes] = []
        self._outs: list[Out] = []
        self._given_up: list[Out] = []
        self._held: Held | None = None
        self._has_begun = True
        self._dropped = 0
        self.failure: MidstreamError | None = None
        try:
            if path is not None:
                self._outs.append(self._open(path, earlier, wait=at_once))
            if spool is not None:
                fd = _open_file(spool, append=True)
                self._outs.append(_File(fd, SPOOL_BYTES_MAX))
        except MidstreamError:
            self._close(hurry=True)
            raise

    def __call__(self, event: events.Event, /) -> None:
        """Receive one event."""
        if isinstance(event, events.State) and self._on_state is not None:
            self._on_state(f"{self._side}: {event.state}")
        if not self._outs:
            return
        self._lines.append(self._line(event))
        if not self._has_begun and begins(self._side, event):
            self._begin()
        elif len(self._lines) >= self._lines_max or isinstance(event, events.State):
            self.flush()

    def _line(self, event: events.Event) -> bytes:
        # The event's own brace gives way to the time and the side, which come first.
        return b"%b%d,%b%b\n" % (_BEGIN, self._now_ns(), self._head, _encode(event)[1:])

    @property
    def dropped(self) -> int:
        """How many lines of `path` were lost; while it is open, so far."""
        return self._outs[0].dropped if self._outs and self._path is not None else self._dropped

    @property
    def is_held(self) -> bool:
        """Whether `path` is as it was before: the migration has not begun, or never has."""
        return self._held is not None and self._held.is_held

    @property
    def is_heard(self) -> bool:
        """Whether events go anywhere."""
        return any(out.failure is None for out in self._outs)

    async def keep_flushing(self) -> None:
        """Write what has come every moment until cancelled, so that a reader need not wait."""
        while self.is_heard:
            await trio.sleep(_SECONDS_MAX)
            self.flush()

    def flush(self) -> None:
        """Write what has come; a file that cannot be written is given up, not the guest."""
        lines, self._lines = self._lines, []
        for out in self._outs:
            out.write(lines)
            self._tell_failure(out)

    def __enter__(self) -> Recorder:
        """Return the recorder itself."""
        return self

    def __exit__(self, _: object, error: object, __: object) -> None:
        """Write the rest and close the file; what ends well has begun."""
        if error is None:
            self._begin()
        self.flush()
        self._close(hurry=isinstance(error, MigrationCancelled))

    def _open(self, path: Path, earlier: Earlier, *, wait: bool) -> Out:
        if not wait and _is_fifo(path):
            # Opening it would wait for its reader.
            return _Watched(lambda: _open_file(path, append=earlier.appends), self._gap)
        if earlier is Earlier.AWAITED or (earlier is Earlier.REPLACED and holds_earlier(path)):
            # That it cannot be written is said now.
            os.close(_open_file(path, append=True))
            self._held = Held(lambda: _File(_open_file(path, append=earlier.appends)))
            self._has_begun = False
            return self._held
        fd = _open_file(path, append=earlier.appends)
        if not wait and may_block(fd):
            return _Watched(fd, self._gap)
        return _File(fd)

    def _begin(self) -> None:
        self._has_begun = True
        if self._held is not None:
            self._held.begin()
        self.flush()

    def _gap(self, count: int) -> bytes:
        return self._line(events.EventsDropped(count=count))

    def _tell_failure(self, out: Out) -> None:
        if out.failure is not None and out not in self._given_up:
            self._given_up.append(out)
            tell(f"{self._side}: from here on events are lost: {out.failure.strerror}")

    def _close(self, *, hurry: bool) -> None:
        for out in self._outs:
            out.close(hurry=hurry)
            self._tell_failure(out)
        if self._path is not None and self._outs:
            self._sum_up(self._outs[0], self._path)
        self._outs.clear()

    def _sum_up(self, out: Out, path: Path) -> None:
        self._dropped = out.dropped
        if isinstance(out, (_File, Held)) and out.failure is not None:
            self.failure = MidstreamError(f"cannot write {path}: {out.failure.strerror}")
        elif out.dropped and out.failure is None:
            tell(f"{self._side}: {out.dropped} events were dropped: {path} is not read fast enough")


def _pieces(lines: list[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield whole lines and how many, as many together as a pipe takes in one piece."""
    piece, count = b"", 0
    for line in lines:
        if piece and len(piece) + len(line) > PIECE_BYTES_MAX:
            yield piece, count
            piece, count = b"", 0
        piece += line
        count += 1
    if piece:
        yield piece, count


def _is_fifo(path: Path) -> bool:
    try:
        return own_descriptor(path) is None and stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


def _open_file(path: Path, *, append: bool) -> int:
    """Open a file for writing, at its end; one of this process's own where it stands.

    Raises:
        MidstreamError: It cannot be opened.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if append else os.O_TRUNC)
    try:
        return open_named(path, flags)
    except OSError as error:
        raise MidstreamError(f"cannot write {path}: {error.strerror}") from error
