"""The guest on this side, whichever peer it comes from: taken over, served, stopped, reported."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import trio

from dest.engine import Engine
from dest.executor import Executor
from dest.missing import tell_missing
from dest.placement import make_placement
from dest.script import Step
from dest.setup import Plan
from dest.vcpus import Vcpus
from guest import clock
from guest.interface import Guest, GuestSnapshot
from guest.latency import summarize
from guest.memory import GuestMemory
from guest.states import VcpuState
from protocol import events
from protocol.errors import RemoteProtocolError
from protocol.events import Emit, tell_run
from protocol.pageset import PageSet
from protocol.report import DestPart
from protocol.states import Event, Lifecycle, State


class HostedGuest:
    """A guest that comes to this side; `watch` it all the time, over whatever connections it comes.

    Attributes:
        engine: Decides what is done with what comes.
        executor: Tells the engine what happens; what comes goes through it.
        handed_over: The guest is this side's.
        run_ns: Since when it runs here, on the monotonic clock; 0 while it does not.
        placement_reason: See `protocol.report.DestPart`.
    """

    def __init__(
        self,
        memory: GuestMemory,
        guest: Guest,
        plan: Plan,
        lifecycle: Lifecycle,
        emit: Emit,
        steps: tuple[Step, ...],
    ) -> None:
        """Prepare; nothing has come.

        Args:
            memory: Where the guest's memory goes.
            guest: Its vCPUs.
            plan: How its pages come.
            lifecycle: The migration's state.
            emit: Takes events.
            steps: Scripted faults.
        """
        self._placement = make_placement(memory, guest)
        self.engine = Engine(
            memory.geometry, plan.policy, emit, vcpu_count=guest.spec.vcpu_count,
            overtaking=self._placement.is_told_by_kernel, checked=plan.checked,
            is_told=plan.is_told,
        )  # fmt: skip
        self.executor = Executor(self.engine, memory, self._placement)
        self.handed_over = False
        self.run_ns = 0
        self.placement_reason = ""
        self._memory = memory
        self._guest = guest
        self._plan = plan
        self._lifecycle = lifecycle
        self._emit = emit
        self._vcpus = Vcpus(memory.geometry, self.executor, self._placement, guest, emit, steps)
        self._watching = trio.CancelScope()
        self._snapshot: GuestSnapshot | None = None

    @property
    def paused(self) -> bool:
        """Whether the source is waited for."""
        return self._lifecycle.state is State.POSTCOPY_PAUSED

    @property
    def missing(self) -> PageSet:
        """What of the guest's memory has not come, half-received target pages included."""
        return self.engine.assembly.missing()

    @property
    def first_mismatch(self) -> str:
        """The first wrong value that a vCPU has read; empty if none has."""
        return self._vcpus.first_mismatch

    def tell_run(self) -> None:
        """Tell what comes, so that what is told after it explains itself."""
        plan, spec = self._plan, self._guest.spec
        tell_run(
            self._emit, plan.geometry, policy=plan.policy.name, chunk_bytes=plan.chunk_bytes,
            vcpus=spec.vcpu_count, program=spec.name,
        )  # fmt: skip

    async def watch(self, touches: Path | None) -> None:
        """Serve the vCPUs until `stop_watching`, or until cancelled.

        Args:
            touches: A pipe through which pages to touch come; None for none.

        Raises:
            GuestFailed: The guest process is gone.
        """
        with self._watching:
            await self._vcpus.run(touches)

    def stop_watching(self) -> None:
        """End `watch`: what the guest says from now on is not heard."""
        self._watching.cancel()

    def forget_frames(self, since_ns: int | None = None) -> None:
        """Count what is half-received as missing: no more of it will come.

        Args:
            since_ns: Since when a connection is gone; None for now.
        """
        self.executor.interrupt(since_ns)

    async def take_over(self, *, postcopy: bool, states: Sequence[VcpuState] = ()) -> None:
        """Have the guest run here, whatever is missing of it.

        Args:
            postcopy: Something may be missing.
            states: What its vCPUs begin with; none where the peer's are opaque.

        Raises:
            RemoteProtocolError: Something is missing that should not be.
        """
        # Half of it must not be done: a break that comes now finds the guest running here.
        with trio.CancelScope(shield=True):
            if states:
                await self._guest.load(tuple(states))
            self.executor.start_postcopy()
            if postcopy:
                self._lifecycle.fire(Event.POSTCOPY_STARTED)
            elif not self.engine.assembly.complete:
                raise RemoteProtocolError("pages are missing though precopy is said to be complete")
            self.handed_over = True
            # Pages may come meanwhile.  Who touches one that was placed and then unmapped is
            # stopped by the kernel, and released at once.
            await self._placement.settle()
            await self._guest.run()
            self.run_ns = clock.now_ns()
            self._emit(events.GuestRun())

    def tell_missing(self) -> None:
        """Tell which pages are not whole, for who watches."""
        tell_missing(self._emit, self._memory.geometry, self.engine.assembly)

    async def stop(self) -> GuestSnapshot:
        """Bring the guest to a stand for good, every page of which is placed; while `watch`.

        Raises:
            GuestFailed: The guest process died, or a vCPU does not stop.
        """
        await self._placement.finish()
        self._snapshot = await self._vcpus.stop()
        self.engine.waits.tell_rest()
        self.stop_watching()
        self._emit(events.Accesses(**asdict(summarize(self._guest.accesses()))))
        return self._snapshot

    def part(self) -> DestPart:
        """Return what there is for a report, at the end or so far; the guest may be gone by now."""
        self.engine.waits.tell_rest()
        latencies = self.engine.waits.latencies
        counters = (self._snapshot or _counted_so_far(self._guest)).counters
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return DestPart(
            placement=self._placement.name,
            placement_reason=self.placement_reason,
            backing=self._memory.backing,
            faults=latencies.faults,
            stages=latencies.stages,
            accesses=summarize(self._guest.accesses()),
            latency_ns=latencies.mean_ns,
            latency_bins=latencies.bins,
            vcpu_latency_ns=latencies.vcpu_mean_ns,
            blocktime_ms=latencies.blocktime_ms,
            reads=sum(each.reads_checked for each in counters),
            reads_unchecked=sum(each.reads_unchecked for each in counters),
            mismatches=sum(each.mismatches for each in counters),
            cpu_seconds=usage.ru_utime + usage.ru_stime,
        )


def _counted_so_far(guest: Guest) -> GuestSnapshot:
    """Return what vCPUs have counted, whatever has become of them."""
    return GuestSnapshot((), tuple(map(guest.counters, range(guest.spec.vcpu_count))))
