"""Guests that are virtual machines, in processes of their own: stopped anywhere, moved, refused."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
import trio

from guest import services
from guest.handle import GuestHandle, open_guest
from guest.interface import Mismatch, Touched, Woke
from guest.kvm.record import unpack_machine_state
from guest.memory import GuestMemory
from guest.pattern import Pattern
from guest.programs import Program
from guest.replay import replay
from guest.slices import finish
from guest.spec import KVM, ProgramSpec
from guest.states import VcpuState, decode_states, encode_states
from guest.trace import Trace
from protocol.errors import GuestFailed
from protocol.geometry import Geometry, RamBlock
from tests.canaries import areas, expect_patterns, plant
from tests.machines import needs_kvm

pytestmark = needs_kvm

GEOMETRY = Geometry((RamBlock("ram", 16 << 20, 2 << 20), RamBlock("rom", 64 << 10, 4096)))
BUSY = ProgramSpec("zipf", 4, write_ratio=0.5, seed=7, kind=KVM)
HOPS = 30
# MIDSTREAM_STEPS=1000000 pytest tests/guest/kvm/test_vcpu.py
STEPS = int(os.environ.get("MIDSTREAM_STEPS", "20000"))
HOPS_MAX = 1000

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@asynccontextmanager
async def a_guest(
    spec: ProgramSpec = BUSY, service: str = services.KVM_LOG
) -> AsyncIterator[tuple[GuestMemory, GuestHandle]]:
    """Start a guest over memory with the pattern; it stands still."""
    with GuestMemory.create(GEOMETRY, "base") as memory:
        finish(Pattern(spec.seed).fill(memory))
        async with open_guest(memory, spec, service) as guest:
            yield memory, guest


def as_replayed(spec: ProgramSpec, states: tuple[VcpuState, ...]) -> list[bytes]:
    """Return what memory must be when vCPUs stand there."""
    with GuestMemory.create(GEOMETRY, "base") as memory:
        finish(Pattern(spec.seed).fill(memory))
        start = tuple(VcpuState(state.vcpu, 0) for state in states)
        finish(replay(memory, Program(spec, GEOMETRY), start, states))
        return [bytes(view) for view in memory.views]


async def test_a_guest_hops_between_processes(until: Until) -> None:
    """Stopped wherever they are, thirty times, vCPUs go on as if nothing had been.

    What their program does not touch of them they have at every stop, byte for byte: all of their
    floating-point and vector registers, with a pattern for each vCPU.
    """
    async with a_guest() as (here, first), a_guest() as (there, second):
        sides = [(here, first), (there, second)]
        await first.run()
        await first.load(plant((await first.pause(anywhere=True)).states))
        held: list[tuple[bytes, bytes]] = []
        instructions: set[bytes] = set()
        step = stopped_ns = 0
        steps: list[int] = []
        hop = 0
        # Where a kick meets a vCPU is the machine's to say: on a busy one mostly in few places.
        while hop < HOPS or hop % 2 or len(instructions) < 10:
            assert hop < HOPS_MAX, f"stopped at {len(instructions)} instructions alone"
            (memory, guest), (other_memory, other) = sides[hop % 2], sides[1 - hop % 2]
            await guest.run()
            step += 1 + 97 * hop % 1000
            await until(lambda guest=guest, step=step: guest.counters(0).step >= step)  # type: ignore[misc]
            snapshot = await guest.pause(anywhere=True)
            stopped_ns = time.monotonic_ns()
            steps = [state.step for state in snapshot.states]
            for state in snapshot.states:
                machine = unpack_machine_state(state.vcpu, state.machine)
                instructions.add(machine.regs[16 * 8 : 17 * 8])
            # As the processor gives them back, which knows more than a pattern has.
            held = held or areas(snapshot.states)
            assert areas(snapshot.states) == held
            for view, other_view in zip(memory.views, other_memory.views, strict=True):
                other_view[:] = view
                view[:] = b"\xee" * len(view)
            crossed = encode_states(snapshot.states)
            await other.load(decode_states(crossed, BUSY.vcpu_count, KVM))
            hop += 1
        expect_patterns(held)
        stood_ns = time.monotonic_ns() - stopped_ns
        await first.run()
        await until(lambda: all(first.counters(vcpu).step > steps[vcpu] for vcpu in range(4)))
        snapshot = await first.pause()
        assert [bytes(view) for view in here.views] == as_replayed(BUSY, snapshot.states)
        assert not any(counters.mismatches for counters in snapshot.counters)
        # By the guest's own clock; the counter's frequency is known to a kilohertz.
        assert min(counters.blackout_ns for counters in snapshot.counters) > stood_ns * 0.999
        counts = [
            first.counters(vcpu).reads_checked + second.counters(vcpu).reads_checked
            for vcpu in range(4)
        ]
        assert counts == [state.step for state in snapshot.states]


@pytest.mark.parametrize("name", ["uniform", "sequential", "zipf", "hotspot", "trace"])
async def test_a_program_that_is_kicked_does_what_its_replay_does(name: str) -> None:
    """Stopped in the midst of its accesses again and again, and loaded anew, it makes each once."""
    pages = np.random.default_rng(7).integers(0, GEOMETRY.target_page_count, 2 * STEPS)
    is_write = np.arange(2 * STEPS) % 3 == 0
    trace = Trace((np.arange(2 * STEPS) % 2).astype(np.uint8), pages.astype(np.uint64), is_write)
    spec = replace(BUSY, name=name, vcpu_count=2, trace=trace if name == "trace" else None)
    async with a_guest(spec) as (memory, guest):
        stops = 0
        while stops < 10 or min(guest.counters(vcpu).step for vcpu in range(2)) < STEPS:
            await guest.run()
            await trio.sleep(0.001)
            snapshot = await guest.pause(anywhere=True)
            stops += 1
            await guest.load(snapshot.states)
        await guest.run()
        snapshot = await guest.pause()
        assert [bytes(view) for view in memory.views] == as_replayed(spec, snapshot.states)
        for counters in snapshot.counters:
            assert counters.reads_checked == counters.step
            assert not counters.mismatches


async def test_state_is_loaded_at_a_boundary(until: Until) -> None:
    """A step alone is a state too: the vCPU stands before that access, as if it had made all."""
    async with a_guest() as (memory, guest):
        await guest.run()
        await until(lambda: all(guest.counters(vcpu).step > 100 for vcpu in range(4)))
        snapshot = await guest.pause()
        assert not any(state.machine for state in snapshot.states)
        await guest.load(snapshot.states)
        await guest.run()
        again = await guest.pause()
        assert not any(counters.mismatches for counters in again.counters)
        assert [bytes(view) for view in memory.views] == as_replayed(BUSY, again.states)
        await guest.load(tuple(VcpuState(vcpu, 0) for vcpu in range(4)))
        await guest.run()
        await until(lambda: all(guest.counters(vcpu).mismatches for vcpu in range(4)))
        with trio.fail_after(10):
            assert isinstance(await guest.receive(), Mismatch)


async def test_a_vcpu_that_waits_for_a_page_is_stopped_there() -> None:
    """Nobody serves its fault; it is paused all the same, and faults again when it goes on."""
    spec = replace(BUSY, name="sequential", vcpu_count=1)
    async with a_guest(spec, services.USERFAULT) as (_, guest):
        faults = guest.service.userfaultfd
        assert faults is not None
        address, length = guest.service.addresses[0], GEOMETRY.blocks[0].length_bytes
        await guest.discard([(address, length)])
        with trio.fail_after(60):
            for _ in range(3):
                await guest.run()
                await trio.lowlevel.wait_readable(faults.fd)
                (fault,) = faults.read_faults()
                assert fault.thread_id == guest.service.thread_ids[0]
                guest.note_stopped(0)
                snapshot = await guest.pause(anywhere=True)
                assert snapshot.states[0].step == 0
                assert snapshot.states[0].machine
            await guest.run()
            await trio.lowlevel.wait_readable(faults.fd)
            (fault,) = faults.read_faults()
            faults.map_pages(fault.address // 4096 * 4096, 4096, 4096)
            woke = await guest.receive()
            assert isinstance(woke, Woke)
            assert (woke.vcpu, woke.flat_page) == (0, (fault.address - address) // 4096)
            assert woke.t_fault_ns < woke.t_woke_ns
            faults.unregister(address, length)
            snapshot = await guest.pause()
        assert not snapshot.counters[0].mismatches


async def test_a_guest_without_the_kernels_help_is_refused() -> None:
    """Its vCPUs neither look at a map nor mark what they write, and it says so at once."""
    with pytest.raises(GuestFailed, match="--guest kvm: a virtual machine neither looks"):
        async with a_guest(service=services.NONE):
            pass


async def test_touches_come_in_order() -> None:
    """A vCPU of a scripted guest reads what it is told to, one page after the other."""
    spec = ProgramSpec("scripted", 2, seed=7, kind=KVM)
    async with a_guest(spec) as (_, guest):
        await guest.run()
        for page in (5, 4096, 7):
            await guest.touch(1, page)
        with trio.fail_after(10):
            assert [await guest.receive() for _ in range(3)] == [
                Touched(1, 5), Touched(1, 4096), Touched(1, 7)
            ]  # fmt: skip
        assert (await guest.pause()).counters[1].reads_checked == 3


async def test_a_state_that_kvm_does_not_take_ends_the_guest() -> None:
    """What is right by its length, and nonsense, is told in a line; nothing runs with it."""
    async with a_guest() as (_, guest):
        await guest.run()
        states = list((await guest.pause(anywhere=True)).states)
        machine = unpack_machine_state(0, states[0].machine)
        states[0] = replace(states[0], machine=replace(machine, sregs=b"\xff" * 312).pack())
        with pytest.raises(GuestFailed, match="KVM does not take the guest's sregs"):
            await guest.load(tuple(states))
