"""The yardstick: the same bytes between two processes over one plain socket, nothing else.

Both ends work on guest memory of the same kind as a migration's, populated beforehand, so that the
only difference is what midstream does between the two socket calls.
"""

from __future__ import annotations

import socket
import sys
import time
from dataclasses import dataclass
from functools import partial

import trio

from guest.memory import GuestMemory
from guest.slices import finish
from protocol.errors import MidstreamError, MigrationError, root_cause
from protocol.geometry import Geometry, RamBlock
from scripts.configure import parse_address
from scripts.links.link import LOOPBACK, Link
from scripts.options import DEST, SOURCE
from scripts.processes.child import Child
from scripts.runtime.interrupts import exit_when_signalled
from scripts.runtime.looping import run_until_signalled
from scripts.runtime.parent import follow_parent
from scripts.runtime.spawn import spawn
from scripts.screen.output import print_result, tell_failure

PIECE_BYTES = 2 << 20
_CONNECT_SECONDS_MAX = 60.0
_RUN_SECONDS_MAX = 600.0

_MODULE = "scripts.figures.raw_pair"
_LISTENING = "listening on "
_RATE = "bytes per second: "
_CPU = "CPU seconds: "


@dataclass(frozen=True)
class RawRun:
    """One transfer.

    Attributes:
        bytes_per_second: From the first byte to the receiver's answer.
        cpu_seconds: Of both processes meanwhile, user and system.
    """

    bytes_per_second: float
    cpu_seconds: float


def measure(length_bytes: int, backing: str, link: Link = LOOPBACK) -> RawRun:
    """Send so many bytes from one process to another.

    Raises:
        MigrationError: A process failed, or there is not enough memory.
    """
    return run_until_signalled(partial(_measure, length_bytes, backing, link))


async def _measure(length_bytes: int, backing: str, link: Link) -> RawRun:
    children: list[Child] = []

    def start(side: str, *arguments: str) -> Child:
        arguments = (*arguments, str(length_bytes), backing)
        child = Child(
            spawn(side, arguments, module=_MODULE, capture=True, prefix=link.prefixes[side])
        )
        children.append(child)
        return child

    failure: BaseException | None = None
    run = RawRun(0.0, 0.0)
    try:
        with trio.fail_after(_RUN_SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                dest, source = start(DEST, link.listen_host), start(SOURCE, "-")
                address = await dest.read_line(_LISTENING)
                source.write_line(await link.lead_to(address, nursery))
                rate, sender = (await source.read_line(_RATE)).split()
                receiver = await dest.read_line(_CPU)
                run = RawRun(float(rate), float(sender) + float(receiver))
                nursery.cancel_scope.cancel()
    except (trio.TooSlowError, BaseExceptionGroup) as error:
        failure = root_cause(error)
        if not isinstance(failure, (MigrationError, trio.TooSlowError)):
            raise
    finally:
        for child in children:
            child.kill()
            await child.end(0.0)
    if failure is not None:
        reasons = [child.reason for child in children if child.reason]
        raise MigrationError(f"the plain socket pair failed: {[*reasons, failure][0]}")
    return run


def _send(host: str, port: int, view: memoryview) -> None:
    with socket.create_connection((host, port), _CONNECT_SECONDS_MAX) as connection:
        connection.settimeout(_RUN_SECONDS_MAX)
        # The receiver says when its memory is ready.
        connection.recv(1)
        started, cpu_started = time.monotonic(), time.process_time()
        for offset in range(0, len(view), PIECE_BYTES):
            connection.sendall(view[offset : offset + PIECE_BYTES])
        if not connection.recv(1):
            raise ConnectionError("the receiver ended early")
        rate = len(view) / (time.monotonic() - started)
        print_result(f"{_RATE}{rate} {time.process_time() - cpu_started}\n")


def _receive(host: str, view: memoryview) -> None:
    with socket.create_server((host, 0)) as server:
        server.settimeout(_CONNECT_SECONDS_MAX)
        print_result(f"{_LISTENING}{host}:{server.getsockname()[1]}\n")
        connection, _ = server.accept()
    with connection:
        connection.settimeout(_RUN_SECONDS_MAX)
        connection.sendall(b"r")
        cpu_started = time.process_time()
        have = 0
        while have < len(view):
            count = connection.recv_into(view[have : have + PIECE_BYTES])
            if not count:
                return
            have += count
        connection.sendall(b"d")
        print_result(f"{_CPU}{time.process_time() - cpu_started}\n")


def _memory(length_bytes: int, backing: str) -> GuestMemory:
    memory = GuestMemory.create(Geometry((RamBlock("ram", length_bytes, PIECE_BYTES),)), backing)
    finish(memory.populate())
    return memory


def main(side: str, address: str, length_bytes: str, backing: str) -> None:
    """Be one end: `dest HOST` listens and receives, `source -` is told where to, and sends."""
    follow_parent()
    exit_when_signalled()
    try:
        with _memory(int(length_bytes), backing) as memory:
            if side == DEST:
                _receive(address, memory.views[0])
            else:
                address = sys.stdin.readline().strip()
                _send(*parse_address(address, "ADDRESS"), memory.views[0])
    except (MidstreamError, OSError) as error:
        tell_failure(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
