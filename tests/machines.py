"""Guests of machine code for tests, in this process: in a thread of it, or in KVM."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache

import pytest

from guest.board import Board
from guest.choice import why_not
from guest.kvm.machine import Machine
from guest.mapping import GuestMapping
from guest.memory import GuestMemory
from guest.native.clock import Calibration, GuestClock
from guest.native.code import Functions, functions
from guest.native.layout import Addresses, StateData, accesses_of, fill
from guest.pattern import Pattern
from guest.programs import Program
from guest.replay import replay
from guest.slices import finish
from guest.spec import NATIVE, ProgramSpec
from guest.states import VcpuState
from protocol.geometry import Geometry, RamBlock

# Two blocks, of pages of two sizes, so that a flat target page has to be looked up.
GEOMETRY = Geometry((RamBlock("ram", 8 << 20, 2 << 20), RamBlock("rom", 20 << 10, 4096)))


@cache
def _why_not(kind: str) -> str:
    return why_not(kind)


def skip_without(kind: str) -> None:
    """Skip a test where there can be no guest of a kind, and say why."""
    if reason := _why_not(kind):
        pytest.skip(f"no --guest {kind} here: {reason}")


needs_kvm = pytest.mark.usefixtures("kvm")
needs_native = pytest.mark.usefixtures("native")


@dataclass(frozen=True)
class Bench:
    """A guest's memory and board in this process, with nothing that runs.

    Attributes:
        memory: Filled with the pattern.
        mapping: What vCPUs touch of it.
        board: Says that all of it is there, and that they shall run.
    """

    spec: ProgramSpec
    geometry: Geometry
    memory: GuestMemory
    mapping: GuestMapping
    board: Board

    def run(self, kind: str, steps: int) -> list[int]:
        """Run all vCPUs, one after the other, so many steps; return what each has told last."""
        if kind == NATIVE:
            return [self.run_thread(vcpu, steps)[0] for vcpu in range(self.spec.vcpu_count)]
        machine = self.machine(steps)
        try:
            return [until_told(machine, vcpu) for vcpu in range(self.spec.vcpu_count)]
        finally:
            machine.close()

    def machine(self, steps: int) -> Machine:
        """Return a virtual machine over it; `close` it."""
        addresses = self.mapping.addresses
        return Machine(self.spec, self.geometry, addresses, self.board, last_step=steps)

    def run_thread(
        self, vcpu: int, steps: int, state: StateData | None = None, code: Functions | None = None
    ) -> tuple[int, StateData]:
        """Run a vCPU in this thread until it tells something; return what, and its state.

        Args:
            vcpu: Which.
            steps: Before which step it parks.
            state: What it remembers; None for nothing.
            code: Another than the project's own.
        """
        accesses = accesses_of(self.spec, vcpu)
        addresses = Addresses(self.mapping.addresses, self.board.address, accesses.ctypes.data)
        program = fill(
            self.spec, self.geometry, vcpu, self.board, addresses,
            is_thread=True, last_step=steps,
        )  # fmt: skip
        if state is None:
            state = StateData()
        GuestClock(program, state, Calibration().ticks_per_second()).start()
        return (code or functions()).run(ctypes.addressof(program), ctypes.addressof(state)), state

    def is_as_replayed(self) -> bool:
        """Tell whether memory is what the program makes it, by the steps that vCPUs have made."""
        vcpus = range(self.spec.vcpu_count)
        before = tuple(VcpuState(vcpu, 0) for vcpu in vcpus)
        after = tuple(VcpuState(vcpu, self.board.counters(vcpu).step) for vcpu in vcpus)
        with GuestMemory.create(self.geometry, "base") as other:
            finish(Pattern(self.spec.seed).fill(other))
            finish(replay(other, Program(self.spec, self.geometry), before, after))
            pairs = zip(self.memory.views, other.views, strict=True)
            return all(bytes(ours) == bytes(theirs) for ours, theirs in pairs)


def until_told(machine: Machine, vcpu: int) -> int:
    """Enter a machine's vCPU until it tells something; return what."""
    while not (told := machine.enter(vcpu)):
        pass
    return told


@contextmanager
def bench(spec: ProgramSpec, geometry: Geometry = GEOMETRY) -> Iterator[Bench]:
    """Make memory and a board for a guest; all is given back at the end of the block."""
    with GuestMemory.create(geometry, "base") as memory:
        finish(Pattern(spec.seed).fill(memory))
        mapping = GuestMapping.attach(geometry, tuple(os.dup(fd) for fd in memory.fds))
        board = Board.create(geometry, spec.vcpu_count)
        board.set_present(slice(None))
        board.generation[0] = 1
        try:
            yield Bench(spec, geometry, memory, mapping, board)
        finally:
            with suppress(BufferError):
                board.close()
            mapping.detach()
