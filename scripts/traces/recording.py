"""Reads the recording that `--policy recorded=FILE` replays: events of a run, or a trace.

Of events (`--events`) it is the pages that vCPUs waited for; of a trace all that it names.  Blocks
and places are looked up when the guest is known, so that the page size may be another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from guest.access_line import Access, WrongLineError, locate
from guest.trace import TRACE_ACCESS_COUNT_MAX, read_accesses
from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry, PageId
from protocol.limits import VCPU_COUNT_MAX
from scripts.traces.found import LINE_CHARS_MAX, Wishes
from scripts.traces.own_events import import_events
from source.prefetchers.recorded import Recorded
from source.prefetchers.schemes import on_no_prefetch
from source.scheme import Scheme


def recorded(path: str = "") -> Scheme:
    """Return the scheme that replays a file.

    Raises:
        LocalProtocolError: There is none, or it holds no recording: "FILE:LINE: reason".
    """
    if not path:
        raise LocalProtocolError("write recorded=FILE, of --events or a trace")
    accesses = tuple(_accesses(path))
    if not accesses:
        raise LocalProtocolError(f"{path}: nothing in it tells of a page that was touched")
    make = partial(Recorded, partial(_pages_of, path, accesses))
    return on_no_prefetch("recorded", prefetcher=make)


def _accesses(path: str) -> Iterator[Access]:
    """Yield what a file tells of, whichever of the two it is."""
    try:
        with Path(path).open(encoding="utf-8") as lines:
            is_events = lines.read(1) == "{"
    except OSError as error:
        raise LocalProtocolError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise LocalProtocolError(f"{path}: not a text file") from error
    yield from _waits(path) if is_events else read_accesses(path)


def _waits(path: str) -> Iterator[Access]:
    number = 0

    def numbered(lines: Iterable[str]) -> Iterator[str]:
        nonlocal number
        for number, line in enumerate(lines, 1):  # noqa: B007 - for who tells of a wrong one
            yield line

    try:
        with Path(path).open(encoding="utf-8") as file:
            lines = iter(partial(file.readline, LINE_CHARS_MAX), "")
            for count, found in enumerate(import_events(numbered(lines), Wishes())):
                if count == TRACE_ACCESS_COUNT_MAX:
                    raise WrongLineError(f"more than {count} waits")  # noqa: TRY301
                yield Access(block=found.block, address=found.address)
    except OSError as error:
        raise LocalProtocolError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LocalProtocolError(f"{path}: not a text file") from error
    except WrongLineError as error:
        raise LocalProtocolError(f"{path}:{number}: {error}") from None


def _pages_of(path: str, accesses: tuple[Access, ...], geometry: Geometry) -> Iterator[PageId]:
    """Yield the pages of a guest.

    Raises:
        LocalProtocolError: It has no such block, or page: the recording is of another guest.
    """
    blocks = {block.name: index for index, block in enumerate(geometry.blocks)}
    for access in accesses:
        try:
            flat = locate(access, geometry, blocks, VCPU_COUNT_MAX)
        except WrongLineError as error:
            raise LocalProtocolError(f"{path} is of another guest: {error}") from None
        yield geometry.page_of(*geometry.locate(flat))
