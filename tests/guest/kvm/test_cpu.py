"""One vCPU of KVM: what it is is taken from one and given to another, and a kick ends its run."""

import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from guest.kvm.machine import Machine
from guest.kvm.record import MachineState, unpack_machine_state
from guest.messages import KICK
from guest.native.code import Told
from guest.spec import KVM, ProgramSpec
from protocol.errors import GuestFailed
from tests.machines import bench, needs_kvm, until_told

pytestmark = needs_kvm

SPEC = ProgramSpec("uniform", seed=7, kind=KVM)

# x87 and SSE registers, and those of AVX and AVX-512 where XSAVE has them: offset and length.
CANARIES = ((32, 128), (160, 256), (576, 256))
XSTATE_BV = slice(512, 520)


@contextmanager
def machines(count: int, steps: int = 1 << 40) -> Iterator[list[Machine]]:
    """Make machines over one memory."""
    with bench(SPEC) as made:
        open_ones = [made.machine(steps) for _ in range(count)]
        try:
            yield open_ones
        finally:
            for machine in open_ones:
                machine.close()


def save(machine: Machine) -> MachineState:
    """Return all of a machine's vCPU, as it is after it has crossed."""
    state = machine.cpus[0].save(machine.memory_of(0), *machine.clocks[0].read())
    return unpack_machine_state(0, state.pack())


def test_all_of_a_processor_is_another_processors() -> None:
    """Registers of the floating-point unit come over as all else does, byte for byte."""
    with machines(2) as (one, other):
        image = bytearray(one.cpus[0].get("xsave"))
        for offset, length in CANARIES:
            image[offset : offset + length] = random.Random(offset).randbytes(length)
        image[XSTATE_BV] = (0x7).to_bytes(8, "little")
        one.cpus[0].set("xsave", image)
        saved = save(one)
        other.set_memory_of(0, saved.memory)
        other.cpus[0].restore(saved)
        again = save(other)
        for name in ("regs", "sregs", "xcrs", "debugregs", "events", "mp_state", "xsave", "msrs"):
            assert getattr(again, name) == getattr(saved, name), name
        for offset, length in CANARIES:
            assert again.xsave[offset : offset + length] == bytes(image[offset : offset + length])


def test_a_kick_ends_a_run_in_the_middle() -> None:
    """A vCPU without end comes back; it was stopped, and goes on when it is entered again."""
    with machines(1) as (machine,):
        told: list[int] = []
        ready = threading.Event()

        def work() -> None:
            machine.cpus[0].let_kicks_in()
            ready.set()
            told.append(machine.enter(0))

        thread = threading.Thread(target=work)
        thread.start()
        assert ready.wait(10)
        assert thread.ident is not None
        signal.pthread_kill(thread.ident, KICK)
        thread.join(10)
        assert told == [0]
        machine.programs[0].last_step = 0
        assert until_told(machine, 0) == Told.PARKED


def test_a_kick_that_comes_too_early_is_not_lost() -> None:
    """It ends the next run at once, and no other."""
    with machines(1) as (machine,):
        told: list[int] = []

        def work() -> None:
            machine.cpus[0].let_kicks_in()
            signal.pthread_kill(threading.get_ident(), KICK)
            told.append(machine.enter(0))
            machine.programs[0].last_step = 1000
            told.append(machine.enter(0))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)
        assert told == [0, Told.PARKED]


def test_a_write_that_was_left_for_is_finished_and_not_done_twice() -> None:
    """A state that is taken while the program is telling something goes on behind that."""
    with machines(2, steps=100) as (one, other):
        assert until_told(one, 0) == Told.PARKED
        saved = save(one)
        other.set_memory_of(0, saved.memory)
        other.cpus[0].restore(saved)
        other.programs[0].last_step = 200
        assert until_told(other, 0) == Told.PARKED
        assert other.states[0].step == 200


def test_registers_that_are_not_here_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One model-specific register that KVM does not take is named; no other is left out for it."""
    with machines(1) as (machine,):
        saved = save(machine)
        monkeypatch.setattr("guest.kvm.cpu.unpack_msrs", lambda _: {0x277: 0, 0x12345678: 1})
        with pytest.raises(GuestFailed, match=r"does not take the guest's MSR 0x(277|12345678)"):
            machine.cpus[0].restore(saved)
