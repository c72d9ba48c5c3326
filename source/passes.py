"""The precopy phase: pass after pass of what is dirty, until the guest is to change hands."""

from __future__ import annotations

import time

from guest.dirty_log import DirtyLog
from protocol.errors import MigrationError, RemoteProtocolError
from protocol.events import PASS_END, Emit
from protocol.limits import CLOSING_SECONDS_MAX
from protocol.messages import PassAck, PassEnd
from protocol.pageset import PageSet
from protocol.runs import Runs
from source.channel import OutChannel
from source.config import SourceConfig
from source.convergence import NextStep, expected_downtime_ms, pass_bandwidth
from source.meter import Meter
from source.returns import Inbox
from source.scheduler import Scheduler
from source.sender import Sender


class Passes:
    """Knows what is dirty: what the guest wrote, and what came changed.

    Attributes:
        waiting_bytes: What is known to be dirty and is not the scheduler's yet; all memory before
            the first pass.
        phase_bytes: What this pass, or what follows the last one, had to send when it began.
    """

    def __init__(
        self,
        config: SourceConfig,
        scheduler: Scheduler,
        dirty_log: DirtyLog,
        meter: Meter,
        emit: Emit,
    ) -> None:
        """Prepare; nothing is logged yet."""
        self.waiting_bytes = config.geometry.length_bytes
        self.phase_bytes = config.geometry.length_bytes
        self._config = config
        self._scheduler = scheduler
        self._dirty_log = dirty_log
        self._meter = meter
        self._emit = emit
        # When the pass before ended.
        self._since_ns = 0
        # What came changed, and goes with the next pass.
        self._changed = PageSet(config.geometry)

    async def run(self, sender: Sender, main: OutChannel, inbox: Inbox) -> tuple[PageSet, NextStep]:
        """Run passes until precopy is over; return what is dirty then, and what comes next.

        Args:
            sender: Sends pages.
            main: Takes the end of each pass.
            inbox: Brings the destination's word that all of it has come.

        Raises:
            ConnectionLost, RemoteProtocolError: The destination is gone, or not with us.
            MigrationError: Precopy does not converge.
        """
        sender.pace(self._config.bandwidth)
        self._since_ns = time.monotonic_ns()
        # Everything is dirty at first, so what was written until now says nothing.
        self._dirty_log.start()
        dirty = PageSet(self._config.geometry)
        dirty.fill()
        with self._meter.sending():
            return await self._run(dirty, sender, main, inbox)

    async def _run(
        self, dirty: PageSet, sender: Sender, main: OutChannel, inbox: Inbox
    ) -> tuple[PageSet, NextStep]:
        bytes_per_second = 0.0
        while True:
            step = self._config.rule.decide(
                self._meter.pass_count, dirty.length_bytes, bytes_per_second
            )
            if step is NextStep.GIVE_UP:
                raise MigrationError(
                    f"precopy does not converge: after {self._meter.pass_count} passes "
                    f"{dirty.length_bytes} bytes are dirty"
                )
            if step is not NextStep.ANOTHER_PASS:
                estimate_ms = expected_downtime_ms(dirty.length_bytes, bytes_per_second)
                self._meter.expected_downtime_ms = 0.0 if step is NextStep.POSTCOPY else estimate_ms
                return dirty, step
            bytes_per_second = await self._pass(dirty, sender, main, inbox)
            dirty = PageSet(self._config.geometry)
            self.harvest(dirty)

    def harvest(self, dirty: PageSet) -> None:
        """Add to what is dirty all that has become so since this was last asked."""
        dirty.add_flat(self._dirty_log.harvest())
        dirty.update(self.take_changed())
        self.waiting_bytes = self.phase_bytes = dirty.length_bytes
        self._meter.dirty_sync_count += 1

    def add_changed(self, runs: Runs) -> None:
        """Take for dirty what came changed."""
        self._changed.add(runs)

    def take_changed(self) -> PageSet:
        """Return what came changed since this was last asked."""
        changed, self._changed = self._changed, PageSet(self._config.geometry)
        return changed

    def hand_on(self, dirty: PageSet, *, postcopy: bool = False) -> None:
        """Give what is dirty to the scheduler.

        Args:
            dirty: What is to be sent.
            postcopy: The destination can ask for it.
        """
        self._scheduler.add(dirty, postcopy=postcopy, across_pages=not postcopy)
        self.waiting_bytes = 0

    async def _pass(self, dirty: PageSet, sender: Sender, main: OutChannel, inbox: Inbox) -> float:
        """Send all that is dirty once; return the bandwidth in bytes a second."""
        meter = self._meter
        self.hand_on(dirty)
        await sender.drain()
        await main.send(PassEnd(index=meter.pass_count))
        acked = await inbox.expect(PassAck, CLOSING_SECONDS_MAX)
        if acked.message.index != meter.pass_count:
            raise RemoteProtocolError(
                f"pass {acked.message.index} was acknowledged, not pass {meter.pass_count}"
            )
        meter.pass_count += 1
        # From the end of the pass before: what the bucket saves while nothing goes counts, too.
        pass_ns = acked.at_ns - self._since_ns
        self._since_ns = acked.at_ns
        self._emit(PASS_END, index=acked.message.index, bytes=dirty.length_bytes, ms=pass_ns / 1e6)
        return pass_bandwidth(dirty.length_bytes, pass_ns, self._config.bandwidth)
