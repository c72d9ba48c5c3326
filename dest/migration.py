"""The destination's side of a migration, step by step: receive, take over the guest, close.

Reads like the sequence diagram in `protocol/README.md`.
"""

from __future__ import annotations

import resource
from dataclasses import asdict
from pathlib import Path

import trio

from dest.engine import Engine
from dest.latency import summarize
from dest.listen import Session
from dest.missing import tell_missing
from dest.placement import make_placement
from dest.receiver import Receiver
from dest.script import Script, Step
from dest.setup import Plan
from dest.touching import Toucher, read_touches
from guest.digest import digest
from guest.handle import Collapsed, Faulted, GuestHandle, GuestSnapshot, Mismatch, Touched, Woke
from guest.memory import GuestMemory
from guest.slices import in_thread
from guest.states import decode_states, encode_states
from protocol.account import AccountRecord
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.events import ACCESSES, GUEST_RUN, MISMATCH, TOUCH, Emit, tell_run
from protocol.geometry import PageId
from protocol.limits import CLOSING_SECONDS_MAX
from protocol.messages import (
    Account,
    Bye,
    Finished,
    PageRequest,
    Ready,
    Running,
    SwitchOver,
    Verdict,
)
from protocol.records import pack_record, unpack_record
from protocol.report import DestPart, SourcePart
from protocol.states import Event, Lifecycle

# How long the source is given to close first, once it has the last word.
_LINGER_SECONDS_MAX = 2.0

# How often is looked for sleepers whose pages are here; there are none unless something was lost.
_RELEASE_SECONDS = 0.1

# How long vCPUs are given to run again when the last page is placed; microseconds are usual.
_WAKE_SECONDS_MAX = 1.0


class Migration:
    """One migration over connections that have said hello; `receive`, then `close`."""

    def __init__(
        self,
        session: Session,
        plan: Plan,
        memory: GuestMemory,
        guest: GuestHandle,
        lifecycle: Lifecycle,
        emit: Emit,
        steps: tuple[Step, ...],
    ) -> None:
        """Prepare; nothing is received yet."""
        self.first_mismatch = ""
        self.placement_reason = ""
        self._channels = [session.channels[name] for name in plan.channels]
        self._main = session.channels[Channel.PRECOPY]
        self._plan = plan
        self._memory = memory
        self._guest = guest
        self._lifecycle = lifecycle
        self._emit = emit
        self._placement = make_placement(memory, guest)
        self._engine = Engine(memory, guest, self._placement, plan.policy, emit, self._note_fault)
        # Faults of which the kernel told, in their order: the vCPU, and what is to be asked for.
        self._noted, self._faults = trio.open_memory_channel[tuple[int, PageRequest | None]](
            float("inf")
        )
        self._script = Script(steps)
        self._toucher = Toucher(memory.geometry, guest)
        self._touches: Path | None = None
        # vCPUs that said that they wait, and not yet that they run again.
        self._asleep: set[int] = set()
        self._waking = trio.lowlevel.ParkingLot()
        if steps:
            self._engine.watch(self._on_happening)

    def listen_to(self, touches: Path | None) -> None:
        """Have pages touched that are named in a pipe, too; call it before `receive`."""
        self._touches = touches

    async def receive(self) -> None:
        """Say ready, receive everything, run the guest; return when every page is placed.

        Raises:
            ConnectionLost, PeerAborted, RemoteProtocolError, GuestFailed: The migration failed.
        """
        tell_run(
            self._emit, self._plan.geometry,
            policy=self._plan.policy.name, chunk_bytes=self._plan.chunk_bytes,
            vcpus=self._guest.spec.vcpu_count, program=self._guest.spec.name,
        )  # fmt: skip
        await self._main.send(Ready())
        self._lifecycle.fire(Event.PREPARED)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_guest)
            nursery.start_soon(self._watch_faults)
            nursery.start_soon(self._answer_faults)
            nursery.start_soon(self._release_overdue)
            nursery.start_soon(self._placement.run)
            nursery.start_soon(self._toucher.run)
            if self._touches is not None:
                nursery.start_soon(read_touches, self._touches, self._touch)
            async with trio.open_nursery() as receivers:
                for channel in self._channels:
                    receiver = Receiver(
                        channel, self._plan, self._engine, self._lifecycle, self._switch_over
                    )
                    receivers.start_soon(receiver.run)
            await self._finish()
            await self._placement.finish()
            # The word of those that were woken last is on its way.
            with trio.move_on_after(_WAKE_SECONDS_MAX):
                while self._asleep:
                    await self._waking.park()
            nursery.cancel_scope.cancel()

    async def close(self) -> tuple[DestPart, Verdict, SourcePart]:
        """Give account of the memory, hear the verdict, say goodbye.

        Raises:
            ConnectionLost, PeerAborted, RemoteProtocolError: The source did not see it through.
        """
        snapshot = await self._guest.pause()
        digests = await in_thread(digest(self._memory))
        part = self._part(snapshot)
        self._emit(ACCESSES, **asdict(part.accesses))
        account = pack_record(
            AccountRecord(
                states=encode_states(snapshot.states),
                digests=tuple(digests),
                first_mismatch=self.first_mismatch,
                part=part,
            )
        )
        with trio.move_on_after(CLOSING_SECONDS_MAX):
            await self._main.send(Account(payload_bytes=len(account)), account)
            verdict = await self._main.receive()
            if not isinstance(verdict, Verdict):
                raise RemoteProtocolError(f"{type(verdict).__name__} came where Verdict was due")
            payload = bytearray(verdict.payload_bytes)
            await self._main.receive_payload(memoryview(payload), lambda _: None)
            source = unpack_record(SourcePart, bytes(payload))
            await self._main.send(Bye())
            # The source closes first, so that it cannot take our closing for a lost connection.
            with trio.move_on_after(_LINGER_SECONDS_MAX):
                await self._main.wait_closed()
            return part, verdict, source
        raise RemoteProtocolError(f"no verdict in {CLOSING_SECONDS_MAX:g} s")

    def part_so_far(self) -> DestPart:
        """Return what there is for a report; the guest may be gone by now."""
        board, vcpus = self._guest.board, range(self._guest.spec.vcpu_count)
        return self._part(GuestSnapshot((), tuple(board.counters(vcpu) for vcpu in vcpus)))

    async def _switch_over(self, message: SwitchOver, device_state: bytes) -> None:
        """Take the guest over: from here on it runs on this side."""
        states = decode_states(device_state, self._guest.spec.vcpu_count)
        self._lifecycle.fire(Event.GUEST_STOPPED)
        self._guest.load(states)
        self._engine.start_postcopy()
        if message.postcopy:
            self._lifecycle.fire(Event.POSTCOPY_STARTED)
        elif not self._engine.assembly.complete:
            raise RemoteProtocolError("pages are missing though precopy is said to be complete")
        # Pages may come meanwhile.  Who touches one that was placed and then unmapped is stopped by
        # the kernel, and released at once.
        await self._placement.settle()
        await self._guest.run()
        self._emit(GUEST_RUN)
        await self._main.send(Running())
        if message.postcopy:
            tell_missing(self._emit, self._plan.geometry, self._engine.assembly)

    async def _finish(self) -> None:
        assembly = self._engine.assembly
        if not assembly.complete:
            raise RemoteProtocolError(
                f"the source has ended, {assembly.missing_bytes} bytes are missing"
            )
        finished = Finished(
            pages=self._memory.geometry.page_count,
            target_pages=sum(counts.target_pages for counts in assembly.counts.values()),
            data_bytes=sum(counts.data_bytes for counts in assembly.counts.values()),
        )
        await self._main.send(finished)
        self._lifecycle.fire(Event.ALL_PLACED)

    async def _watch_faults(self) -> None:
        """Hear of vCPUs that the kernel stops."""
        while True:
            await self._placement.wait_faults()
            self._engine.take_faults()

    def _note_fault(self, vcpu: int, request: PageRequest | None) -> None:
        self._asleep.add(vcpu)
        self._noted.send_nowait((vcpu, request))

    async def _answer_faults(self) -> None:
        async for vcpu, request in self._faults:
            await self._answer_fault(vcpu, request)

    async def _answer_fault(self, vcpu: int, request: PageRequest | None) -> None:
        await self._toucher.faulted(vcpu)
        if request is not None and self._engine.still_wants(request):
            await self._main.send(request)
            self._engine.requested(request)

    async def _release_overdue(self) -> None:
        """See to it that no vCPU sleeps on because a wake-up was lost."""
        while True:
            await trio.sleep(_RELEASE_SECONDS)
            self._engine.release_overdue()

    async def _watch_guest(self) -> None:
        """Serve the guest: send its page requests, note who wakes and what it finds wrong."""
        while True:
            event = await self._guest.receive()
            match event:
                case Faulted(vcpu, flat, fault_ns):
                    self._asleep.add(vcpu)
                    request = self._engine.fault(vcpu, flat, fault_ns)
                    await self._answer_fault(vcpu, request)
                case Woke(vcpu, _, fault_ns, woke_ns):
                    self._engine.woke(vcpu, woke_ns, fault_ns)
                    self._asleep.discard(vcpu)
                    self._waking.unpark_all()
                case Collapsed(range_count, _):
                    self._placement.collapsed(range_count)
                case Mismatch(vcpu, flat, step, expected, seen):
                    self.first_mismatch = self.first_mismatch or (
                        f"vCPU {vcpu} read {seen:#x} in target page {flat} on the destination, "
                        f"{expected:#x} must be there"
                    )
                    self._emit(MISMATCH, vcpu=vcpu, target_page=flat, step=step)
                case Touched(vcpu, _):
                    await self._toucher.touched(vcpu)

    def _on_happening(self, what: str, page: PageId) -> None:
        # In precopy no vCPU runs here, and what has come is not kept account of.
        if self._engine.assembly.in_postcopy:
            share = self._engine.received_share(page)
            for fault in self._script.happened(what, page, share):
                self._touch(fault)

    def _touch(self, page: PageId) -> None:
        self._emit(TOUCH, block=page.block, page=page.index)
        self._toucher.ask(page)

    def _part(self, snapshot: GuestSnapshot) -> DestPart:
        latencies = self._engine.latencies
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return DestPart(
            placement=self._placement.name,
            placement_reason=self.placement_reason,
            backing=self._memory.backing,
            faults=latencies.faults,
            stages=latencies.stages,
            accesses=summarize(self._guest.board.accesses()),
            latency_ns=latencies.mean_ns,
            latency_bins=latencies.bins,
            vcpu_latency_ns=latencies.vcpu_mean_ns,
            blocktime_ms=latencies.blocktime_ms,
            reads=sum(counters.reads_checked for counters in snapshot.counters),
            reads_unchecked=sum(counters.reads_unchecked for counters in snapshot.counters),
            mismatches=sum(counters.mismatches for counters in snapshot.counters),
            cpu_seconds=usage.ru_utime + usage.ru_stime,
        )
