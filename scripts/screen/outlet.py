"""An output whose reader may stop reading: a pipe, a socket, a terminal under Ctrl-S.

What watches a migration must not hold it up.  So a thread of its own writes, and may be stuck in
the kernel for as long as the reader likes; who puts something in never is.  What waits is bounded,
what does not fit is dropped whole and counted, and a process that ends does not wait for a thread
that is stuck.

Why a thread, and not O_NONBLOCK: that flag belongs to the open file description, which a terminal
or pipe that was inherited shares with the shell and everybody else who has it.  To open it anew
takes rights that a user lacks on somebody else's terminal, and no socket can be opened so.  And
what poll() says is no promise where two processes write to one pipe.
"""

from __future__ import annotations

import errno
import math
import os
import select
import signal
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from guest.whole_file import WholeFile, is_regular_target, open_named, own_descriptor

# Some ten thousand events.  A reader that is only late finds them all.
BYTES_MAX = 2 << 20

# What a pipe takes in one piece, so that two processes' lines cannot mix in it.
PIECE_BYTES_MAX = select.PIPE_BUF

# A program that has taken nothing of a result for so long never will.
RESULT_SECONDS_MAX = 5.0

# A thread that has been told to end has nothing left to write.
_JOIN_SECONDS_MAX = 1.0


class Outlet:
    """Writes pieces in their order, in a thread of its own.

    Attributes:
        dropped: How many lines were, and will be, written nowhere.
        error: Why nothing can be written any more, if that is so.
    """

    def __init__(
        self,
        output: int | Callable[[], int],
        *,
        owned: bool,
        bytes_max: int = BYTES_MAX,
        tell_gap: Callable[[int], bytes] | None = None,
    ) -> None:
        """Write to an output; the thread starts with the first piece.

        Args:
            output: The descriptor; or what opens it, and may block, as opening a fifo does until it
                is read.
            owned: Close the descriptor in the end.
            bytes_max: What may wait.
            tell_gap: Returns a line that says, where it happened, that so many lines were dropped.
        """
        self._output = output
        self._owned = owned
        self._bytes_max = bytes_max
        self._tell_gap = tell_gap
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition(threading.Lock())
        # Pieces and how many lines each has; the first is being written.
        self._pieces: deque[tuple[bytes, int]] = deque()
        self._bytes = 0
        self._moved_at = 0.0
        self._gap = 0
        self._ending = False
        self.dropped = 0
        self.error: OSError | None = None

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._pieces)

    @property
    def waiting(self) -> int:
        """How many lines wait to be written."""
        with self._changed:
            return sum(lines for _, lines in self._pieces)

    def put(self, piece: bytes, lines: int = 1) -> None:
        """Queue whole lines for writing, or drop them; never waits for the reader."""
        with self._changed:
            if self._ending or self.error is not None:
                self.dropped += lines
            elif self._pieces and self._bytes + len(piece) > self._bytes_max:
                self.dropped += lines
                self._gap += lines
            else:
                self._fill_gap()
                self._append(piece, lines)

    def wait(self, idle_seconds_max: float, seconds_max: float = math.inf) -> bool:
        """Wait until all is written, as long as the reader takes any of it; return whether it is.

        Args:
            idle_seconds_max: Since the reader took something: one that has stopped reading long
                ago is not waited for.
            seconds_max: From now, in all.
        """
        deadline = time.monotonic() + seconds_max
        with self._changed:
            while self._pieces:
                now = time.monotonic()
                until = min(deadline, self._moved_at + idle_seconds_max)
                if now >= until:
                    return False
                self._changed.wait(until - now)
            return True

    def finish(self, idle_seconds_max: float, seconds_max: float) -> None:
        """Wait as `wait` does, then drop what is left and all that comes."""
        with self._changed:
            if self.error is None and not self._ending:
                self._fill_gap()
        is_done = self.wait(idle_seconds_max, seconds_max)
        with self._changed:
            self._drop_all()
            self._ending = True
            self._changed.notify_all()
        if self._thread is None:
            self._close(self._output)
        elif is_done:
            self._thread.join(_JOIN_SECONDS_MAX)

    def _fill_gap(self) -> None:
        if self._gap and self._tell_gap is not None:
            self._append(self._tell_gap(self._gap), 0)
        self._gap = 0

    def _append(self, piece: bytes, lines: int) -> None:
        if not self._pieces:
            self._moved_at = time.monotonic()
        self._pieces.append((piece, lines))
        self._bytes += len(piece)
        if self._thread is None:
            try:
                self._start()
            except RuntimeError:
                # This user may have no more threads.
                self._write_at_once()
        self._changed.notify_all()

    def _write_at_once(self) -> None:
        """Write the one piece there is if that blocks nobody, as far as can be told."""
        if isinstance(self._output, int):
            writable = select.poll()
            writable.register(self._output, select.POLLOUT)
            try:
                if writable.poll(0):
                    write_all(self._output, self._pieces.popleft()[0])
            except OSError as error:
                self.error = error
        else:
            self.error = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self._drop_all()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="outlet", daemon=True)
        # A signal that came to this thread would reach the main thread even while that has it
        # blocked.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._thread = thread

    def _run(self) -> None:
        fd = -1
        try:
            fd = self._output if isinstance(self._output, int) else self._output()
            while (piece := self._first()) is not None:
                write_all(fd, piece)
                self._done()
        except OSError as error:
            with self._changed:
                self.error = error
                self._drop_all()
                self._changed.notify_all()
        finally:
            self._close(fd)

    def _close(self, output: int | Callable[[], int]) -> None:
        if self._owned and isinstance(output, int) and output >= 0:
            self._owned = False
            os.close(output)

    def _first(self) -> bytes | None:
        """Wait for the next piece; return None when there will be none."""
        with self._changed:
            while not self._pieces:
                if self._ending:
                    return None
                self._changed.wait()
            return self._pieces[0][0]

    def _done(self) -> None:
        with self._changed:
            # Nothing is there if `finish` has given up meanwhile.
            if self._pieces:
                piece, _ = self._pieces.popleft()
                self._bytes -= len(piece)
                self._moved_at = time.monotonic()
                self._changed.notify_all()

    def _drop_all(self) -> None:
        self.dropped += sum(lines for _, lines in self._pieces)
        self._pieces.clear()
        self._bytes = 0


def may_block(fd: int) -> bool:
    """Return whether its reader can keep its writers waiting; a disk and a null device cannot."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


def write_output(path: str | Path, data: bytes) -> None:
    """Write what there is of a run in the end; a reader that has stopped reading is given up.

    A regular file appears, or is replaced, when it is whole: what a full disk would cut off leaves
    the old one as it was.

    Raises:
        OSError: It cannot be written, or nobody takes it.
    """
    if own_descriptor(path) is None and is_regular_target(path):
        # A folder may be another user's, and a file in it this one's.
        with suppress(PermissionError), WholeFile(path) as file:
            write_all(file.fd, data)
            file.publish(lasting=False)
            return
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    is_fifo = own_descriptor(path) is None and Path(path).is_fifo()
    output = partial(open_named, path, flags) if is_fifo else open_named(path, flags)
    if isinstance(output, int) and not may_block(output):
        try:
            write_all(output, data)
        finally:
            os.close(output)
        return
    outlet = Outlet(output, owned=True, bytes_max=sys.maxsize)
    for start in range(0, len(data), PIECE_BYTES_MAX):
        outlet.put(data[start : start + PIECE_BYTES_MAX])
    outlet.finish(RESULT_SECONDS_MAX, math.inf)
    if outlet.error is not None:
        raise outlet.error
    if outlet.dropped:
        raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, however long that takes, even if somebody has made the output non-blocking.

    Raises:
        OSError: It cannot be written.
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            writable = select.poll()
            writable.register(fd, select.POLLOUT)
            writable.poll()
