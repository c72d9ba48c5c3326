"""The guest process: `python -m guest.process FD PARENT_PID`, started by guest/handle.py.

All vCPUs of a guest are threads of this process, which is a child of the engine and lives no longer
than it.  FD is the control socket (guest/messages.py).  The main thread waits there for orders, and
for its end: when the engine goes, for whatever reason, the process exits at once and silently.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

import msgpack

from guest import abi, libc, services
from guest.board import Board
from guest.collapser import Collapser
from guest.crew import Crew
from guest.mapping import GuestMapping
from guest.messages import (
    MESSAGE_BYTES_MAX,
    ORDER_BYTES_MAX,
    check_passed,
    pack,
    unpack,
    unpack_ranges,
)
from guest.programs import Program
from guest.spec import KVM, NATIVE, ProgramSpec
from guest.vcpu import Vcpu
from protocol.errors import GuestFailed, MidstreamError
from protocol.geometry import Geometry, RamBlock
from protocol.limits import BLOCK_COUNT_MAX, REASON_CHARS_MAX, VCPU_COUNT_MAX

# Memories, board, specification, events socket, and an eventfd for each vCPU.
_FD_COUNT_MAX = BLOCK_COUNT_MAX + 3 + VCPU_COUNT_MAX

# How long a thread may keep the interpreter from another one, for each vCPU.  The default, 5 ms, is
# longer than many of the page waits that are measured here: a woken vCPU would wait again, for its
# neighbour.  But every thread that waits for the interpreter looks again after each such interval,
# and 64 of them, every 50 us, would leave no time for anything else.
_SWITCH_INTERVAL_S = 50e-6


# Why a guest is refused that would have to look and mark for itself, and does not.
_NEEDS_KERNEL = (
    "a virtual machine neither looks whether a page is there nor marks what it writes: it needs "
    "--placement userfault, and --dirty-log kvm or kernel"
)


def main(arguments: list[str]) -> NoReturn:
    """Run a guest until the engine goes.

    Args:
        arguments: The number of the control socket, and the engine's process id.
    """
    # What ends a command is the engine's business: it ends this process when it is done with it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    # The machine code that vCPUs run, or a page that cannot be had (SIGBUS), may crash all of it.
    faulthandler.enable(2)
    control = socket.socket(fileno=int(arguments[0]))
    libc.die_with_parent(int(arguments[1]))
    sys.excepthook = _report_failure_on(control)
    threading.excepthook = lambda what: sys.excepthook(
        what.exc_type, what.exc_value or what.exc_type(), what.exc_traceback
    )
    try:
        crew, mapping, events, kinds, service = _assemble(control)
    except GuestFailed as error:
        _refuse(control, str(error))
    sys.setswitchinterval(_SWITCH_INTERVAL_S * len(crew))
    # Nothing here makes reference cycles, and a search for some would stop all vCPUs for
    # milliseconds that would be charged to the migration.
    gc.disable()
    if service == services.USERFAULT:
        mapping.populate()
    with crew.provided(service, kinds) as (reason, fds):
        granted = services.NONE if reason else service
        if crew.needs_kernel and granted == services.NONE:
            _refuse(control, f"--guest {KVM}: {reason or _NEEDS_KERNEL}")
        thread_ids = crew.start(is_stopped_by_kernel=granted == services.USERFAULT)
        answer = pack("ready", granted, reason, mapping.addresses, thread_ids)
        socket.send_fds(control, [answer], fds)
    _obey(control, crew, Collapser(events))


def _assemble(
    control: socket.socket,
) -> tuple[Crew, GuestMapping, socket.socket, tuple[str, ...], str]:
    """Receive and map all that the vCPUs work with.

    Returns:
        All vCPUs, what they touch, where events go, the kind of memory of each block, and the
        service wanted.

    Raises:
        GuestFailed: This process may have no such guest, or not so many descriptors.
    """
    data, fds, flags, _ = socket.recv_fds(control, MESSAGE_BYTES_MAX, _FD_COUNT_MAX)
    if not data:
        os._exit(0)
    check_passed(fds, flags)
    _, vcpu_count, kinds, block_count, service = unpack(data)
    events_fd, spec_fd, board_fd, *rest = fds
    memory_fds, wake_fds = rest[:block_count], rest[block_count:]
    with os.fdopen(spec_fd, "rb") as file:
        blocks, plain = msgpack.unpackb(file.read())
    geometry = Geometry(tuple(RamBlock(*block) for block in blocks))
    mapping = GuestMapping.attach(geometry, tuple(memory_fds))
    board = Board.attach(geometry, vcpu_count, board_fd)
    spec = ProgramSpec.from_plain(plain, geometry)
    events = socket.socket(fileno=events_fd)
    crew = _make_crew(spec, geometry, mapping, board, wake_fds, (control, events))
    return crew, mapping, events, tuple(kinds), service


def _make_crew(
    spec: ProgramSpec,
    geometry: Geometry,
    mapping: GuestMapping,
    board: Board,
    wake_fds: list[int],
    sockets: tuple[socket.socket, socket.socket],
) -> Crew:
    """Return the vCPUs of a guest of the kind that it is; `sockets` are control and events.

    What a kind takes is loaded for it alone: the engine waits for this process.

    Raises:
        GuestFailed: This kind of guest cannot be had here.
    """
    try:
        if spec.kind == KVM:
            from guest.kvm.vcpu import make_crew as make_machine  # noqa: PLC0415

            return make_machine(spec, geometry, mapping, board, wake_fds, sockets)
        if spec.kind == NATIVE:
            from guest.native.vcpu import make_crew as make_threads  # noqa: PLC0415

            return make_threads(spec, geometry, mapping, board, wake_fds, sockets)
    except GuestFailed as error:
        raise GuestFailed(f"--guest {spec.kind}: {error}") from error
    program = Program(spec, geometry)
    vcpus = [
        Vcpu(number, program, mapping, board, wake_fd, sockets)
        for number, wake_fd in enumerate(wake_fds)
    ]
    return Crew(vcpus, mapping)


def _refuse(control: socket.socket, reason: str) -> NoReturn:
    """Tell the engine why there is no such guest here, and exit."""
    with contextlib.suppress(OSError):
        control.send(pack("refused", reason[:REASON_CHARS_MAX]))
    os._exit(1)


def _obey(control: socket.socket, crew: Crew, collapser: Collapser) -> NoReturn:
    """Pass the engine's orders on, until it goes."""
    while True:
        try:
            data = control.recv(ORDER_BYTES_MAX)
        except ConnectionError:
            data = b""
        if not data:
            os._exit(0)
        match unpack(data):
            case ["touch", number, flat_page]:
                crew.touch(number, flat_page)
            case ["load", number, state]:
                crew.load(number, state)
                control.send(pack("loaded"))
            case ["discard", ranges]:
                for address, length_bytes in unpack_ranges(ranges):
                    libc.madvise(address, length_bytes, abi.MADV_DONTNEED)
                control.send(pack("discarded"))
            case ["collapse", ranges]:
                collapser.collapse(unpack_ranges(ranges))


def _report_failure_on(
    control: socket.socket,
) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """Return an excepthook that tells the engine and exits, where Python would print a traceback.

    It serves all threads.  An engine that is gone is no failure, and nobody is left to be told.
    """

    def report(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, ConnectionError):
            os._exit(0)
        reason = str(error)
        if not issubclass(kind, MidstreamError):
            import traceback  # noqa: PLC0415 - who does not fail need not wait for it

            last = traceback.extract_tb(trace)[-1]
            reason = f"{kind.__name__} in {last.filename}:{last.lineno}: {error}"
        with contextlib.suppress(OSError):
            control.send(pack("failed", reason[:REASON_CHARS_MAX]))
        os._exit(1)

    return report


if __name__ == "__main__":
    main(sys.argv[1:])
