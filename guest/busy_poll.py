"""Busy polling: an event loop that expects something any moment looks again instead of sleeping.

A processor that went to sleep takes 50 to 100 us to run somebody again on a virtual machine, and
four of these lie in the way of one page request: the destination hears of a fault, the source of
the request, the destination of the page, the vCPU of its placement.  Requests come one after the
other, so for a moment after each the loops of both ends stay awake, as a hypervisor's do
(Documentation/virt/kvm/halt-polling.rst) and a socket's may (SO_BUSY_POLL, socket(7)).
"""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

from guest import clock

# A vCPU that faults without pause faults again within this.  One that faults each 20 ms costs each
# end a tenth of a processor by it; in precopy, and without faults, nobody is kept awake.
BUSY_NS = 2_000_000


class BusyPoll:
    """Keeps the event loop awake in which `run` runs, for a moment after each `prolong`."""

    def __init__(self, *, yields: bool, now_ns: Callable[[], int] = clock.now_ns) -> None:
        """Expect nothing yet.

        Args:
            yields: Whoever else wants the processor has it between two looks, as the vCPUs do where
                they run.  A source that keeps a link busy had better not wait for its turn.
            now_ns: The time.
        """
        self._yields = yields
        self._now_ns = now_ns
        self._until_ns = 0
        self._idle = trio.lowlevel.ParkingLot()
        # On the only processor it would keep those from running who are waited for, and virtual
        # time would stand still.
        self._pays = len(os.sched_getaffinity(0)) > 1 and not clock.is_virtual()

    def prolong(self) -> None:
        """Say that more is to be expected any moment."""
        if self._pays:
            self._until_ns = self._now_ns() + BUSY_NS
            self._idle.unpark_all()

    async def run(self) -> None:
        """Have the loop go round while something is expected, until cancelled."""
        while True:
            while self._now_ns() < self._until_ns:
                if self._yields:
                    os.sched_yield()
                await trio.lowlevel.checkpoint()
            await self._idle.park()
