"""The guest on this side, whichever peer it comes from: taken over, served, stopped, reported."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import trio

from dest.engine import Engine
from dest.executor import Executor
from dest.keeping import Keeper
from dest.peer import Plan
from dest.placement import make_placement
from dest.script import Step
from dest.vcpus import Vcpus
from guest import clock
from guest.interface import Guest, GuestSnapshot, VcpuCounters
from guest.latency import summarize
from guest.memory import GuestMemory
from guest.processor import ProcessorUse
from guest.states import VcpuState
from protocol import events
from protocol.events import Emit, tell_run
from protocol.report import DestPart


class Room(NamedTuple):
    """Room for a guest here.

    Attributes:
        memory: Where its memory goes; populated.
        guest: Its vCPUs, in their process.
        keeper: Saves its memory.
        placement_reason: See `protocol.report.DestPart`.
    """

    memory: GuestMemory
    guest: Guest
    keeper: Keeper
    placement_reason: str


class HostedGuest:
    """A guest that comes to this side; `watch` it all the time, over whatever connections it comes.

    Attributes:
        engine: Decides what is done with what comes.
        executor: Tells the engine what happens; what comes goes through it.
        priority: What became of the return path's going first in this host's queues.
    """

    def __init__(
        self,
        room: Room,
        plan: Plan,
        emit: Emit,
        steps: tuple[Step, ...],
    ) -> None:
        """Prepare; nothing has come.

        Args:
            room: Where its memory goes, and its vCPUs.
            plan: How its pages come.
            emit: Takes events.
            steps: Scripted faults.
        """
        memory, guest = room.memory, room.guest
        self._placement = make_placement(memory, guest)
        self.engine = Engine(
            memory.geometry, plan.policy, emit, vcpu_count=guest.spec.vcpu_count,
            overtaking=self._placement.is_told_by_kernel, checked=plan.checked,
            is_told=plan.is_told,
        )  # fmt: skip
        self.executor = Executor(self.engine, memory, self._placement)
        self.priority = ""
        self._placement_reason = room.placement_reason
        self._memory = memory
        self._guest = guest
        self._plan = plan
        self._emit = emit
        self._vcpus = Vcpus(memory.geometry, self.executor, self._placement, guest, emit, steps)
        self._watching = trio.CancelScope()
        self._snapshot: GuestSnapshot | None = None
        self._processor = ProcessorUse()

    @property
    def first_mismatch(self) -> str:
        """The first wrong value that a vCPU has read; empty if none has."""
        return self._vcpus.first_mismatch

    def tell_run(self) -> None:
        """Report what comes, so that what is told after it explains itself."""
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

    async def take_over(self, states: Sequence[VcpuState]) -> int:
        """Run the guest here, whatever is missing of it; return since when.

        Args:
            states: What its vCPUs begin with; none where the peer's are opaque.
        """
        # Half of it must not be done: a break that comes now finds the guest running here.
        with trio.CancelScope(shield=True):
            if states:
                await self._guest.load(tuple(states))
            # Pages may come meanwhile.  Who touches one that was placed and then unmapped is
            # stopped by the kernel, and released at once.
            await self._placement.settle()
            await self._guest.run()
        return clock.now_ns()

    async def stop(self) -> GuestSnapshot:
        """Bring the guest to a stand for good, every page of which is placed; while `watch`.

        Raises:
            GuestFailed: The guest process died, or a vCPU does not stop.
        """
        await self._placement.finish()
        self._snapshot = await self._vcpus.stop()
        self._processor.finish()
        self.engine.waits.tell_rest()
        self.stop_watching()
        self._emit(events.Accesses(**asdict(summarize(self._guest.accesses()))))
        blackout_us, stall_us = _stood_still_us(self._snapshot.counters)
        if blackout_us:
            self._emit(events.GuestClock(blackout_us=blackout_us, stall_us=stall_us))
        return self._snapshot

    def part(self) -> DestPart:
        """Return what there is for a report, at the end or so far; the guest may be gone by now."""
        self.engine.waits.tell_rest()
        latencies = self.engine.waits.latencies
        counters = (self._snapshot or _counted_so_far(self._guest)).counters
        blackout_us, stall_us = _stood_still_us(counters)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        processor = self._processor.share(*self._vcpus.idled_ns)
        return DestPart(
            placement=self._placement.name,
            placement_reason=self._placement_reason,
            priority=self.priority,
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
            guest_blackout_us=blackout_us,
            guest_stall_us=stall_us,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            processor_running=processor.running,
            processor_waiting=processor.waiting,
        )


def _stood_still_us(counters: Sequence[VcpuCounters]) -> tuple[float, float]:
    """Return the longest blackout and stall of any vCPU, in microseconds."""
    return (
        max(each.blackout_ns for each in counters) / 1000,
        max(each.stall_ns for each in counters) / 1000,
    )


def _counted_so_far(guest: Guest) -> GuestSnapshot:
    """Return what vCPUs have counted, whatever has become of them."""
    return GuestSnapshot((), tuple(map(guest.counters, range(guest.spec.vcpu_count))))
