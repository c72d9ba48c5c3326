"""vCPUs that KVM runs, each entered by a thread of its own, and all of them together."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from guest import services
from guest.board import Board
from guest.crew import Crew
from guest.kvm.log import serve_log
from guest.kvm.machine import Machine
from guest.kvm.record import PRIVATE_BYTES, unpack_machine_state
from guest.mapping import GuestMapping
from guest.messages import KICK
from guest.native.vcpu import MachineVcpu
from guest.spec import ProgramSpec
from protocol.geometry import Geometry


class KvmProcessor:
    """A processor of a virtual machine; it stops between any two instructions when it is kicked.

    Attributes:
        program: What it does.
        state: What it remembers.
        clock: Its clock.
    """

    def __init__(self, machine: Machine, number: int) -> None:
        """Take a processor of the machine."""
        self.program = machine.programs[number]
        self.state = machine.states[number]
        self.clock = machine.clocks[number]
        self._machine = machine
        self._number = number

    def prepare(self) -> None:
        """Let kicks in, for the calling thread."""
        self._machine.cpus[self._number].let_kicks_in()

    def begin(self, step: int) -> None:
        """Do nothing: it goes on where it is."""

    def enter(self) -> int:
        """Run the guest; return bits of `Told`, 0 if it was kicked."""
        return self._machine.enter(self._number)

    def save(self) -> bytes:
        """Return all that the processor is."""
        memory = self._machine.memory_of(self._number)
        return self._machine.cpus[self._number].save(memory, *self.clock.read()).pack()

    def load(self, state: bytes, step: int) -> None:
        """Be what another's `save` has returned; for nothing, stand at a step as if begun there.

        Raises:
            GuestFailed: KVM does not take it.
        """
        machine, number = self._machine, self._number
        if not state:
            machine.set_memory_of(number, bytes(PRIVATE_BYTES))
            machine.begin(number)
            self.state.step = step
            self.clock.start()
            return
        loaded = unpack_machine_state(number, state)
        machine.set_memory_of(number, loaded.memory)
        machine.cpus[number].restore(loaded)
        self.clock.resume(loaded.guest_ns, loaded.wall_ns)


class KvmCrew(Crew):
    """All vCPUs of a virtual machine."""

    needs_kernel: ClassVar[bool] = True

    def __init__(
        self,
        vcpus: Sequence[MachineVcpu],
        mapping: GuestMapping,
        machine: Machine,
        geometry: Geometry,
    ) -> None:
        """Take the vCPUs and their machine."""
        super().__init__(vcpus, mapping)
        self._machine = machine
        self._geometry = geometry

    @contextmanager
    def provided(  # type: ignore[explicit-override]
        self, service: str, kinds: tuple[str, ...]
    ) -> Iterator[tuple[str, list[int]]]:
        """Set a service up: KVM's own log, or one of the kernel's that KVM's faults go through."""
        if service == services.KVM_LOG:
            with serve_log(self._machine, self._geometry) as fds:
                yield "", fds
            return
        with services.provided(service, self._mapping, kinds, kernel_faults=True) as given:
            yield given


def make_crew(
    spec: ProgramSpec,
    geometry: Geometry,
    mapping: GuestMapping,
    board: Board,
    wake_fds: Sequence[int],
    sockets: tuple[socket.socket, socket.socket],
) -> Crew:
    """Return all vCPUs of a guest that is a virtual machine.

    Raises:
        GuestFailed: It cannot be had here.
    """
    # A kick of a thread that is not in the guest changes nothing; by default it ends the process.
    signal.signal(KICK, lambda *_: None)
    machine = Machine(spec, geometry, mapping.addresses, board)
    vcpus = [
        MachineVcpu(number, spec, KvmProcessor(machine, number), board, wake_fd, sockets)
        for number, wake_fd in enumerate(wake_fds)
    ]
    return KvmCrew(vcpus, mapping, machine, geometry)
