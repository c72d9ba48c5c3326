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
    """Keeps the event loop awake in which `run` runs, for a moment after each `prolong`.

    Attributes:
        polled_ns: How long the loop went round for nothing, about.  A round in which nothing came
            is as long as the shortest; of a longer one at most twice as much was for nothing.
        yielded_ns: How long somebody else had the processor because the loop let him.
    """

    def __init__(
        self, *, yields: bool, vcpu_count: int = 0, now_ns: Callable[[], int] = clock.now_ns
    ) -> None:
        """Expect nothing yet.

        Args:
            yields: Whoever else wants the processor has it between two looks, as the vCPUs do where
                they run.  A source that keeps a link busy had better not wait for its turn.
            vcpu_count: How many vCPUs may run on the same processors.
            now_ns: The time.
        """
        self._yields = yields
        self._now_ns = now_ns
        self._until_ns = 0
        self._idle = trio.lowlevel.ParkingLot()
        self.polled_ns = 0
        self.yielded_ns = 0
        self._round_ns = BUSY_NS
        # On the only processor it would keep those from running who are waited for, and virtual
        # time would stand still.  More vCPUs than processors leave none to wait on: four without
        # pause and both sides on two processors (10 Gbit/s, medians of six runs in turn) waited
        # 1.01 ms and had 0.50 of the link with it, 0.91 ms and 0.53 without; two 0.45 ms with it
        # and 0.54 without (1 Gbit/s, seven runs).
        processors = len(os.sched_getaffinity(0))
        self._pays = processors > 1 and processors >= vcpu_count and not clock.is_virtual()

    def prolong(self) -> None:
        """Say that more is to be expected any moment."""
        if self._pays:
            self._until_ns = self._now_ns() + BUSY_NS
            if self._idle:
                self._idle.unpark_all()

    async def run(self) -> None:
        """Have the loop go round while something is expected, until cancelled."""
        while True:
            now_ns = self._now_ns()
            while now_ns < self._until_ns:
                if self._yields:
                    os.sched_yield()
                    began_ns, now_ns = now_ns, self._now_ns()
                    self.yielded_ns += now_ns - began_ns
                await trio.lowlevel.checkpoint()
                began_ns, now_ns = now_ns, self._now_ns()
                self._round_ns = min(self._round_ns, now_ns - began_ns)
                self.polled_ns += min(2 * self._round_ns, now_ns - began_ns)
            await self._idle.park()
