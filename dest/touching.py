"""Has pages touched as a script says: by which vCPU, and strictly one after the other.

The order in which vCPUs fault is the script's only if the next one touches after the fault before
is known.  So each touch waits until the one before has faulted or is done, and takes a vCPU that is
not waiting for a page already.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import trio

from guest.interface import Guest
from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry, PageId


class Toucher:
    """Gives a scripted guest's vCPUs their touches; `run` does, the other calls only tell."""

    def __init__(self, geometry: Geometry, guest: Guest) -> None:
        """Start with all vCPUs idle and nothing to touch."""
        self._geometry = geometry
        self._guest = guest
        self._idle = list(range(guest.spec.vcpu_count))
        self._changed = trio.lowlevel.ParkingLot()
        self._under_way: int | None = None
        # What each vCPU is to touch.
        self._pages: dict[int, PageId] = {}
        self._ask, self._asked = trio.open_memory_channel[PageId](float("inf"))

    def ask(self, page: PageId) -> None:
        """Queue a page to be touched."""
        self._ask.send_nowait(page)

    def faulted(self, vcpu: int) -> None:
        """Say that a vCPU's touch has become a fault; the next touch may go."""
        if self._under_way == vcpu:
            self._under_way = None
        self._changed.unpark_all()

    def touched(self, vcpu: int) -> PageId | None:
        """Say that a vCPU's touch is done, and return of which page; it may have another."""
        self._idle.append(vcpu)
        self.faulted(vcpu)
        return self._pages.pop(vcpu, None)

    async def run(self) -> None:
        """Have pages touched until cancelled."""
        async for page in self._asked:
            while not self._idle or self._under_way is not None:
                await self._changed.park()
            vcpu = self._under_way = self._idle.pop(0)
            self._pages[vcpu] = page
            first = self._geometry.page_span(page).target_pages.start
            await self._guest.touch(vcpu, self._geometry.flat_target_page(page.block, first))


async def read_touches(path: Path, ask: Callable[[PageId], None]) -> None:
    """Ask for the pages that come as lines "BLOCK PAGE" out of a named pipe, until its end.

    Raises:
        LocalProtocolError: It cannot be opened, or another line comes.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LocalProtocolError(f"{path}: {error.strerror}") from error
    rest = b""
    async with trio.lowlevel.FdStream(fd) as stream:
        while data := await stream.receive_some():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                try:
                    block, page = map(int, line.split())
                except ValueError as error:
                    raise LocalProtocolError(f"{path}: {line[:40]!r} is no page") from error
                ask(PageId(block, page))
