"""A virtual machine runs every program as the replay says, and tells what goes wrong in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from guest.board import Board
from guest.kvm import abi
from guest.kvm.machine import Machine
from guest.kvm.vcpu import KvmProcessor
from guest.native.clock import Calibration
from guest.native.code import Told
from guest.native.vcpu import NativeProcessor, Processor
from guest.spec import KVM, NATIVE, ProgramSpec
from guest.trace import Trace
from protocol.errors import GuestFailed
from tests.machines import GEOMETRY, Bench, bench, needs_kvm, until_told

pytestmark = needs_kvm

# MIDSTREAM_STEPS=1000000 pytest tests/guest/kvm/test_machine.py
STEPS = int(os.environ.get("MIDSTREAM_STEPS", "20000"))


def spec_of(name: str) -> ProgramSpec:
    """Return a program of two vCPUs that write to three accesses of ten."""
    if name != "trace":
        return ProgramSpec(name, 2, write_ratio=0.3, seed=7, kind=KVM)
    random = np.random.default_rng(7)
    pages = random.integers(0, GEOMETRY.target_page_count, 4 * STEPS, dtype=np.uint64)
    vcpus = random.integers(0, 2, len(pages), dtype=np.uint8)
    return ProgramSpec(
        name, 2, seed=7, trace=Trace(vcpus, pages, random.random(len(pages)) < 0.3), kind=KVM
    )


@pytest.mark.parametrize("name", ["uniform", "sequential", "zipf", "hotspot", "trace"])
def test_a_program_does_what_its_replay_does(name: str) -> None:
    """Every byte is equal, every read is checked, and threads of machine code do the same."""
    seen = []
    for kind in (KVM, NATIVE):
        with bench(spec_of(name)) as made:
            assert made.run(kind, STEPS) == [Told.PARKED, Told.PARKED]
            assert made.is_as_replayed()
            counters = [made.board.counters(vcpu) for vcpu in range(2)]
            assert [each.reads_checked for each in counters] == [STEPS, STEPS]
            assert made.board.accesses().get_total_count() == 2 * STEPS
            assert not any(each.mismatches for each in counters)
            seen.append([each.writes for each in counters])
    assert seen[0] == seen[1]


@contextmanager
def processor_of(kind: str, made: Bench) -> Iterator[Processor]:
    """Make what runs the first vCPU of a guest, of a kind."""
    if kind == NATIVE:
        thread = NativeProcessor(0, made.spec, made.geometry, made.mapping, made.board)
        thread.set_clock(Calibration().ticks_per_second())
        yield thread
        return
    machine = made.machine(1 << 40)
    try:
        yield KvmProcessor(machine, 0)
    finally:
        machine.close()


@pytest.mark.parametrize("kind", [KVM, NATIVE])
def test_a_scripted_vcpu_reads_what_it_is_told_to(kind: str) -> None:
    """One page after the other, each read checked; it writes nothing, and says when it is done."""
    pages = np.random.default_rng(7).integers(0, GEOMETRY.target_page_count, STEPS)
    with bench(ProgramSpec("scripted", seed=7, kind=kind)) as made:
        with processor_of(kind, made) as processor:
            state = processor.state
            for page in pages.tolist():
                state.page, state.due, state.is_told = page, processor.clock.now_ns(), 1
                told = 0
                while not told:
                    told = processor.enter()
                assert told == Told.TOUCHED
        counters = made.board.counters(0)
        assert (counters.step, counters.reads_checked) == (STEPS, STEPS)
        assert (counters.mismatches, counters.writes) == (0, 0)
        assert made.is_as_replayed()


def test_who_is_to_stop_anywhere_stops_at_no_boundary() -> None:
    """The run generation alone has it stop there; where it is to be kicked it goes on."""
    with bench(ProgramSpec("uniform", seed=7, kind=KVM)) as made:
        made.board.generation[0] = 2
        machine = made.machine(1000)
        try:
            assert until_told(machine, 0) == Told.PARKED
            assert machine.states[0].step == 0
            made.board.stops_anywhere[0] = 1
            assert until_told(machine, 0) == Told.PARKED
            assert machine.states[0].step == 1000
        finally:
            machine.close()


def test_wrong_memory_is_found() -> None:
    """The vCPU tells which page, what it expected and what it saw, and counts on."""
    with bench(ProgramSpec("sequential", seed=7, kind=KVM)) as made:
        before = bytes(made.memory.views[0][:4096])
        made.memory.views[0][:4096] = bytes(4096)
        machine = made.machine(10)
        try:
            assert until_told(machine, 0) == Told.MISMATCHED
            state = machine.states[0]
            assert (state.page, state.step, state.seen) == (0, 1, 0)
            assert state.expected.to_bytes(8, "little") in before
            assert until_told(machine, 0) == Told.PARKED
        finally:
            machine.close()
        assert made.board.counters(0).mismatches == 1


def test_what_is_no_program_ends_in_a_line() -> None:
    """A vCPU that leaves the guest otherwise than by what it tells is a failure, said where."""
    with bench(ProgramSpec("uniform", seed=7, kind=KVM)) as made:
        machine = made.machine(10)
        try:
            # Nothing is there to be run, and nobody to take the fault.
            machine.cpus[0].begin(at=1 << 40, stack=0, page_tables=0)
            with pytest.raises(GuestFailed, match=r"vCPU 0 left the guest \(.*\) at 0x"):
                machine.enter(0)
        finally:
            machine.close()


def test_the_guest_cannot_change_what_it_is_told_to_do() -> None:
    """Its program, its code and its page tables are read-only: a write leaves it, and is none."""
    with bench(ProgramSpec("uniform", seed=7, kind=KVM)) as made:
        machine = made.machine(10)
        try:
            cpu, registers = machine.cpus[0], abi.REGS_STRUCT.unpack(machine.cpus[0].get("regs"))
            program = registers[5]
            held = bytes(machine.programs[0])
            # The first thing that the program does is to call itself: with its stack there.
            cpu.begin(at=registers[16], stack=program + 4096, page_tables=0x200000)
            with pytest.raises(GuestFailed, match=r"\(mmio\)"):
                machine.enter(0)
            assert bytes(machine.programs[0]) == held
        finally:
            machine.close()


def test_a_machine_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was opened before the failure is closed."""
    with bench(ProgramSpec("uniform", seed=7, kind=KVM)) as made:
        monkeypatch.setattr("guest.kvm.abi.CREATE_VCPU", abi.GET_DIRTY_LOG)
        with pytest.raises(GuestFailed, match="KVM does not make this machine"):
            made.machine(1)


def test_a_board_is_seen_as_far_as_it_is_needed() -> None:
    """The maps of what is present and dirty, which grow with the guest, are not in the machine."""
    with bench(ProgramSpec("uniform", seed=7, kind=KVM)) as made:
        assert isinstance(made.board, Board)
        assert made.board.counters_bytes % 4096 == 0
        offsets = made.board.offsets(0)
        assert offsets["bins"] < made.board.counters_bytes <= offsets["marks"]
        machine: Machine = made.machine(1)
        machine.close()
