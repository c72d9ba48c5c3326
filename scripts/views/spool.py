"""Where a run's events are kept for its views, and who watches it.

The spool is a file without a name, gone with its process.  Those who write append whole lines, from
this process or another; who reads comes when it likes.  So no view can hold up a migration, however
slow it is.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from protocol.errors import MidstreamError
from scripts.reports import Outputs
from scripts.screen.earlier import holds_earlier, tell_left
from scripts.screen.output import tell

if TYPE_CHECKING:
    from scripts.views.watch import Watcher


# What is read at once.
_READ_BYTES = 1 << 20


class Spool:
    """An open spool.

    Attributes:
        fd: The file, for writers to inherit; what is written goes to its end.
        path: It, for writers in this process.
    """

    def __init__(self, fd: int) -> None:
        """Use the file."""
        self.fd = fd
        self.path = Path(f"/dev/fd/{fd}")
        self._offset = 0
        self._rest = b""

    def read_new(self, bytes_max: int) -> list[bytes]:
        """Return the whole lines that have come since the last call, about so many bytes."""
        lines: list[bytes] = []
        end = self._offset + bytes_max
        while self._offset < end and (data := os.pread(self.fd, _READ_BYTES, self._offset)):
            self._offset += len(data)
            *whole, self._rest = (self._rest + data).split(b"\n")
            lines += whole
        return lines

    def read_all(self) -> Iterator[bytes]:
        """Yield all whole lines there are, from the beginning."""
        other = Spool(self.fd)
        while lines := other.read_new(_READ_BYTES):
            yield from lines


@contextmanager
def open_spool() -> Iterator[Spool]:
    """Make a spool that is gone when the block is left.

    Raises:
        MidstreamError: There is no place for one.
    """
    import tempfile  # noqa: PLC0415 - most runs have no spool

    try:
        file = tempfile.TemporaryFile(prefix="midstream-events-")  # noqa: SIM115 - below
    except OSError as error:
        folder = tempfile.gettempdir()
        raise MidstreamError(f"cannot keep events in {folder}: {error.strerror}") from error
    with file:
        fd = file.fileno()
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
        yield Spool(fd)


@contextmanager
def viewed(outputs: Outputs, *, live: bool = False) -> Iterator[Spool | None]:
    """Make a spool if anything is to see a run's events; write the views that options ask for.

    They are written when the block is left, also when the run failed: then its failure is what
    counts, and that a view could not be written is only told.  One that was refused before it had
    begun leaves those of an earlier run.

    Args:
        outputs: What of it is wanted.
        live: The run is watched.

    Raises:
        MidstreamError: A view cannot be written.
    """
    if not (live or _wants_files(outputs)):
        yield None
        return
    with open_spool() as spool:
        try:
            yield spool
        except BaseException:
            try:
                _write_views(spool, _spared(spool, outputs))
            except MidstreamError as error:
                tell(f"midstream: {error}")
            raise
        _write_views(spool, outputs)


def _spared(spool: Spool, outputs: Outputs) -> Outputs:
    """Return what is wanted of a run that failed, without what an earlier one has left better."""
    wanted = (outputs.perfetto, outputs.html)
    earlier = [path for path in wanted if path is not None and holds_earlier(Path(path))]
    if earlier:
        # Imported late, as below.
        from scripts.screen.beginning import has_begun  # noqa: PLC0415
        from scripts.views.saved import parse_spooled  # noqa: PLC0415

        if not has_begun(parse_spooled(spool.read_all())):
            for path in earlier:
                tell_left(path)
            perfetto, html = (None if path in earlier else path for path in wanted)
            return replace(outputs, perfetto=perfetto, html=html)
    return outputs


def _wants_files(outputs: Outputs) -> bool:
    return outputs.perfetto is not None or outputs.html is not None


def _write_views(spool: Spool, outputs: Outputs) -> None:
    if _wants_files(outputs):
        # Imported late: only who asks for a view waits for what it takes.
        from scripts.views.outputs import read_spool, write_views  # noqa: PLC0415

        write_views(read_spool(spool), outputs)


def servers_of(outputs: Outputs) -> list[Watcher]:
    """Return the server that is wanted, if one is.

    Raises:
        MidstreamError: Nobody can listen there.
    """
    if outputs.serve is None:
        return []
    # Imported late: only who serves waits for what it takes.
    from scripts.views.serve import Server  # noqa: PLC0415

    return [Server(*outputs.serve, seconds_after=outputs.serve_after)]


def stay_after(servers: Sequence[Watcher], spool: Spool | None) -> None:
    """Show a run that is over whole, for as long as its servers are to stay; a signal ends that."""
    for server in servers:
        if spool is not None:
            server.stay(spool)


def is_drawn(outputs: Outputs) -> bool:
    """Return whether a run is drawn on standard error: wanted there, and on this terminal."""
    # Between log lines a picture would only be in their way.
    return not (outputs.quiet or outputs.verbose) and can_show(sys.stderr)


def can_show(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal that can be drawn on."""
    return (
        stream is not None
        and stream.isatty()
        and os.environ.get("TERM", "dumb") not in {"dumb", ""}
    )


def screens_of(outputs: Outputs) -> list[Watcher]:
    """Return what draws a run on standard error, if it is drawn."""
    if not is_drawn(outputs):
        return []
    # Imported late, as above; it takes longer than all that is needed to start both sides.
    from scripts.views.terminal import Screen  # noqa: PLC0415

    return [Screen()]
