"""The precopy phase: pass after pass of what is dirty, until the guest changes hands.  Pure."""

from __future__ import annotations

from protocol import events
from protocol.errors import GaveUp, RemoteProtocolError
from protocol.events import Emit
from protocol.limits import CLOSING_SECONDS_MAX
from protocol.messages import PassAck, PassEnd
from protocol.pageset import PageSet
from protocol.units import format_bytes
from source.config import SourceConfig
from source.convergence import NextStep, Stall, expected_downtime_ms, pass_bandwidth
from source.engine import SendEngine
from source.meter import Meter
from source.resends import Resends
from source.scheduler import Scheduler
from source.steering import Steering
from source.steps import LATE, Do, Drain, Now, Say, Steps, Within, expect

# How long a frame may take at the limit of the bandwidth.
FRAME_SECONDS = 0.1
# How long one that is under way is waited for when precopy is given up.
FRAME_SECONDS_MAX = 5.0


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
        steering: Steering,
        scheduler: Scheduler,
        resends: Resends,
        meter: Meter,
        emit: Emit,
        now: Now,
    ) -> None:
        """Prepare; nothing is logged yet.

        Args:
            config: What the user said.
            steering: What he may say meanwhile, and when precopy is over.
            scheduler: Takes what is to be sent.
            resends: Knows what came changed, which goes with the next pass.
            meter: Takes what is counted.
            emit: Takes events.
            now: The time.
        """
        self.waiting_bytes = config.geometry.length_bytes
        self.phase_bytes = config.geometry.length_bytes
        self._config = config
        self._steering = steering
        self._convergence = steering.convergence
        self._scheduler = scheduler
        self._resends = resends
        self._meter = meter
        self._emit = emit
        self._now = now
        # When the pass before ended.
        self._since_ns = 0

    def run(self, sending: SendEngine) -> Steps[tuple[PageSet, NextStep]]:
        """Run passes until precopy is over; return what is dirty then, and what comes next.

        Args:
            sending: Sends pages.

        Raises:
            ConnectionLost, RemoteProtocolError: The destination is gone, or not with us.
            GaveUp: Precopy does not converge, and the user waits no longer.
        """
        sending.pace(self._steering.bandwidth, self._now.ns)
        self._since_ns = self._now.ns
        # Everything is dirty at first, so what was written until now says nothing.
        yield Do.START_LOG
        dirty = PageSet(self._config.geometry)
        dirty.fill()
        self._convergence.start(self._now.seconds)
        with self._meter.sending(self._now):
            return (yield from self._run(dirty, sending))

    def _run(self, dirty: PageSet, sending: SendEngine) -> Steps[tuple[PageSet, NextStep]]:
        bytes_per_second = 0.0
        last: Stall | None = None
        while True:
            step = self._convergence.after_pass(
                self._now.seconds, self._meter.pass_count, dirty.length_bytes, bytes_per_second
            )
            if step is NextStep.GIVE_UP:
                raise self._gave_up()
            if step is not NextStep.ANOTHER_PASS:
                estimate_ms = expected_downtime_ms(dirty.length_bytes, bytes_per_second)
                self._meter.expected_downtime_ms = 0.0 if step is NextStep.POSTCOPY else estimate_ms
                return dirty, step
            if last is not None:
                self._tell_stall(last)
            last = None
            sent_bytes, pass_ns = dirty.length_bytes, 0
            self.hand_on(dirty)
            self.repace(sending, self._now.ns)
            # It ends between two frames, so that the destination can be told; one that the network
            # holds up is not waited for.
            yield from self._in_time(Drain(self._is_due), FRAME_SECONDS_MAX)
            if not self._scheduler.unsent_bytes:
                pass_ns = yield from self._end_pass(sent_bytes)
                bytes_per_second = pass_bandwidth(sent_bytes, pass_ns, self._steering.bandwidth)
            # Nothing of a pass that came to its end.
            dirty = self._scheduler.withdraw()
            yield from self.harvest(dirty)
            if pass_ns:
                seconds = pass_ns / 1e9
                last = Stall(self._meter.pass_count, sent_bytes, dirty.length_bytes, seconds)

    def _is_due(self, now_ns: int) -> bool:
        return self._convergence.is_due(now_ns / 1e9)

    def _in_time(self, step: Say | Drain, patience_seconds: float) -> Steps[None]:
        """Do a step, while the user waits for precopy and so many seconds longer."""
        seconds = self._convergence.gives_up_at + patience_seconds - self._now.seconds
        if (yield Within(step, seconds)) is LATE:
            raise self._gave_up()

    def repace(self, sending: SendEngine, now_ns: int) -> None:
        """Hold a pass to the limit that is in force now."""
        rate = self._steering.bandwidth
        sending.pace(rate, now_ns)
        # What ends precopy is heeded between two frames, so none may take long.
        run_bytes = int(rate * FRAME_SECONDS) if rate else self._config.chunk_bytes
        self._scheduler.keep_runs(run_bytes)

    def _tell_stall(self, last: Stall) -> None:
        """Tell the user, once, if the pass before has not shrunk, now that another follows."""
        told = self._convergence.stall_of(last)
        if told is None:
            return
        self._emit(
            events.NotConverging(
                index=told.pass_number - 1, bytes=told.sent_bytes, dirty_bytes=told.dirty_bytes,
                bytes_per_second=round(told.transfer_rate),
                dirty_bytes_per_second=round(told.dirty_rate),
            )
        )  # fmt: skip
        self._steering.warn(str(told))

    def _gave_up(self) -> GaveUp:
        self._convergence.give_up()
        seconds = self._now.seconds - self._convergence.started
        count = self._meter.pass_count
        left = format_bytes(self.waiting_bytes + self._scheduler.unsent_bytes)
        guest = "stays" if self._config.hold else "runs on"
        return GaveUp(
            f"given up after {seconds:.3g} s of precopy, in pass {count + 1}, with {left} left to "
            f"send; the guest {guest} at the source"
        )

    def harvest(self, dirty: PageSet) -> Steps[None]:
        """Add to what is dirty all that has become so since this was last asked."""
        dirty.add_flat((yield Do.HARVEST))
        dirty.update(self._resends.take_changed())
        self.waiting_bytes = self.phase_bytes = dirty.length_bytes
        self._meter.dirty_sync_count += 1

    def hand_on(self, dirty: PageSet, *, postcopy: bool = False) -> None:
        """Give what is dirty to the scheduler.

        Args:
            dirty: What is to be sent.
            postcopy: The destination can ask for it.
        """
        self._scheduler.add(dirty, postcopy=postcopy, across_pages=not postcopy)
        self.waiting_bytes = 0

    def _end_pass(self, sent_bytes: int) -> Steps[int]:
        """Hear that all that the pass sent has come; return how long it took, in nanoseconds."""
        meter = self._meter
        yield from self._in_time(Say(PassEnd(index=meter.pass_count)), FRAME_SECONDS_MAX)
        seconds = self._convergence.gives_up_at - self._now.seconds
        if seconds < CLOSING_SECONDS_MAX:
            acked = yield from expect(PassAck, seconds, late=self._gave_up)
        else:
            acked = yield from expect(PassAck, CLOSING_SECONDS_MAX)
        if acked.message.index != meter.pass_count:
            raise RemoteProtocolError(
                f"pass {acked.message.index} was acknowledged, not pass {meter.pass_count}"
            )
        meter.pass_count += 1
        # From the end of the pass before: what the bucket saves while nothing goes counts, too.
        pass_ns, self._since_ns = acked.at_ns - self._since_ns, acked.at_ns
        self._emit(events.PassEnd(index=acked.message.index, bytes=sent_bytes, ms=pass_ns / 1e6))
        return max(pass_ns, 1)
