"""Whether a guest can be a virtual machine here: each part tried, in the order of its need.

A small guest is made over memory of its own, in this process: its vCPU enters user mode, is stopped
at a page that is missing, is kicked out from there, and goes on when it has the page.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from guest import abi, libc, services
from guest.backing import make_block
from guest.board import Board
from guest.kvm.machine import Machine
from guest.kvm.vm import open_vm
from guest.mapping import GuestMapping
from guest.messages import KICK
from guest.native.code import Told
from guest.services import Service, provided
from guest.spec import ProgramSpec
from protocol.errors import GuestFailed
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock

# What takes microseconds is given so long; a vCPU that cannot be kicked hangs for ever.
_PATIENCE_SECONDS = 10.0

_GEOMETRY = Geometry((RamBlock("probe", 16 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES),))
# Nothing is known of what lies there; it is read from beginning to end, once.
_SPEC = ProgramSpec("sequential", image=True)


@dataclass(frozen=True)
class _Probe:
    """A machine that is to be tried.

    Attributes:
        machine: It has one processor.
        mapping: Its memory.
        kinds: What that is made of.
    """

    machine: Machine
    mapping: GuestMapping
    kinds: tuple[str, ...]


def try_device() -> None:
    """Open KVM's device and make a virtual machine.

    Raises:
        GuestFailed: That cannot be done.
    """
    with open_vm():
        pass


def try_user_mode() -> None:
    """Have a vCPU run an instruction in user mode.

    Raises:
        GuestFailed: That cannot be done.
    """
    # Its clock is asked for as it is made.
    with _probe():
        pass


def try_machine() -> None:
    """Try all that a guest needs that is a virtual machine.

    Raises:
        GuestFailed: That cannot be done; says what.
    """
    with _probe() as probe:
        service = services.USERFAULT
        with provided(service, probe.mapping, probe.kinds, kernel_faults=True) as (reason, fds):
            if reason:
                raise GuestFailed(reason)
            answer = Service.of_answer(
                service, "", probe.mapping.addresses, (), tuple(os.dup(fd) for fd in fds)
            )
            with closing(answer):
                _try_fault(probe, answer)


def _try_fault(probe: _Probe, service: Service) -> None:
    """Have a vCPU stopped at a missing page, kicked out of that, and let on."""
    faults = service.userfaultfd
    assert faults is not None
    length = _GEOMETRY.length_bytes
    libc.madvise(probe.mapping.address(0), length, abi.MADV_DONTNEED)
    run = _Run(probe.machine)
    run.start()
    try:
        if not select.select([faults.fd], [], [], _PATIENCE_SECONDS)[0]:
            raise GuestFailed("KVM's page faults do not come to userfaultfd")
        if not faults.read_faults():
            raise GuestFailed("userfaultfd does not tell of KVM's page faults")
        run.kick()
        if not run.kicked.wait(_PATIENCE_SECONDS):
            raise GuestFailed("a vCPU that waits for a page cannot be kicked out of KVM")
    finally:
        # Whatever has come of it, the thread is to end.
        faults.unregister(probe.mapping.address(0), length)
        run.go_on.set()
        run.join(_PATIENCE_SECONDS)
    if run.told != Told.PARKED:
        raise GuestFailed(f"a vCPU did not go on after it was kicked: {run.failure or run.told}")


class _Run(threading.Thread):
    """Runs the machine's vCPU until it has read all; once it is kicked out it waits for `go_on`.

    Attributes:
        kicked: It was kicked.
        go_on: It may go on.
        told: What the program has told last.
        failure: Why it has not.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(name="probe", daemon=True)
        self.kicked, self.go_on = threading.Event(), threading.Event()
        self.told = 0
        self.failure = ""
        self._machine = machine

    def run(self) -> None:  # type: ignore[explicit-override]
        """Run it."""
        try:
            self._machine.cpus[0].let_kicks_in()
            while not (told := self._machine.enter(0)):
                self.kicked.set()
                self.go_on.wait()
            self.told = told
        except GuestFailed as error:
            self.failure = str(error)

    def kick(self) -> None:
        """Kick it."""
        assert self.ident is not None
        signal.pthread_kill(self.ident, KICK)


@contextmanager
def _probe() -> Iterator[_Probe]:
    """Make a machine over some pages, which gives all back at the end of the block."""
    made = make_block(_GEOMETRY.blocks[0], "base")
    try:
        mapping = GuestMapping.attach(_GEOMETRY, (os.dup(made.fd),))
        try:
            mapping.populate()
            with closing(Board.create(_GEOMETRY, 1)) as board:
                board.generation[0] = 1
                last_step = _GEOMETRY.target_page_count
                machine = Machine(_SPEC, _GEOMETRY, mapping.addresses, board, last_step=last_step)
                with closing(machine):
                    yield _Probe(machine, mapping, (made.kind,))
        finally:
            mapping.detach()
    finally:
        made.close()
