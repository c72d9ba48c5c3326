"""A QEMU of one's own: a PC without devices, whose memory lies in a file that is ours to see."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from guest.memory import GuestMemory
from protocol.errors import GuestFailed, MigrationError, root_cause
from protocol.geometry import RamBlock
from scripts.qemu.qmp import Qmp
from scripts.runtime.spawn import bound_to_this, package_environment

# What is kept of QEMU's standard error: its last line is its reason.
_STDERR_BYTES_MAX = 64 * 1024
_MIB = 1 << 20

# What QEMU is given to end when its monitor is gone.
_END_SECONDS_MAX = 1.0


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    """A QEMU that is to be started.

    Attributes:
        program: QEMU's executable, a name or a path.
        accel: "kvm", "tcg", or both with a colon between: the first that can be had.
        paused: No vCPU of it ever runs; else the machine's firmware does.
        incoming: It waits to be told where to listen for a migration.
        prefix: The command line that brings it to where it is to run.
    """

    program: str
    accel: str = "kvm:tcg"
    paused: bool = True
    incoming: bool = False
    prefix: tuple[str, ...] = ()


class Machine:
    """A running QEMU; made by `open_machine`.

    Attributes:
        qmp: Its monitor, which has been greeted.
        pid: Its process.
    """

    def __init__(self, qmp: Qmp, process: subprocess.Popen[bytes]) -> None:
        """Wrap a started process; use `open_machine`."""
        self.qmp = qmp
        self.pid = process.pid


def check_block(block: RamBlock) -> None:
    """Check that a PC can have such memory.

    Raises:
        GuestFailed: It cannot.
    """
    if block.length_bytes % _MIB:
        raise GuestFailed("QEMU's memory is a whole number of MiB")


@asynccontextmanager
async def open_machine(spec: MachineSpec, memory: GuestMemory) -> AsyncIterator[Machine]:
    """Start a QEMU over memory; when the block is left, it is killed and gone.

    Raises:
        MigrationError: It did not start, or ended; its own words say why.
    """
    if shutil.which(spec.program) is None:
        raise MigrationError(f"cannot start {spec.program}: there is no such program")
    near, far = socket.socketpair()
    process: subprocess.Popen[bytes] | None = None
    words = _LastWords()
    try:
        with near, far:
            process = _start(spec, memory, far.fileno())
            far.close()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(words.collect, process)
                qmp = Qmp(trio.socket.from_stdlib_socket(near))
                nursery.start_soon(qmp.run)
                await qmp.greet()
                yield Machine(qmp, process)
                nursery.cancel_scope.cancel()
    except BaseException as error:  # noqa: BLE001 - raised again as its root cause
        cause = root_cause(error)
        if process is not None and isinstance(cause, MigrationError):
            if words.finish(process):
                raise MigrationError(_end_of(process, words.last_line, cause)) from None
            if _is_stopped(process):
                raise MigrationError(f"{cause}: its process is stopped") from None
        raise cause from None
    finally:
        if process is not None:
            process.kill()
            # A killed process is gone in a moment, whatever it was at.
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


def _start(spec: MachineSpec, memory: GuestMemory, qmp_fd: int) -> subprocess.Popen[bytes]:
    blocks, fds = memory.geometry.blocks, memory.fds
    command = [spec.program, "-machine", f"q35,accel={spec.accel}"]
    for block, fd in zip(blocks, fds, strict=True):
        # By its path, QEMU opens the very file behind our descriptor and learns the size of its
        # pages.
        backend = (
            f"memory-backend-file,id={block.name},size={block.length_bytes},"
            f"mem-path=/proc/self/fd/{fd},share=on"
        )
        command += ["-object", backend]
    if len(blocks) == 1:
        command[2] += f",memory-backend={blocks[0].name}"
    else:
        # Several are a machine's memory as that of its nodes.
        for block in blocks:
            command += ["-numa", f"node,memdev={block.name}"]
    command += [
        "-m", f"{memory.geometry.length_bytes // _MIB}M",
        "-display", "none", "-nodefaults", "-no-user-config",
        "-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control",
        *(["-S"] if spec.paused else []),
        *(["-incoming", "defer"] if spec.incoming else []),
    ]  # fmt: skip
    try:
        return subprocess.Popen(
            [*spec.prefix, *bound_to_this(command)],
            env=package_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[*fds, qmp_fd],
            process_group=0,
        )
    except OSError as error:
        raise MigrationError(f"cannot start {spec.program}: {error.strerror}") from error


def _end_of(process: subprocess.Popen[bytes], last_line: str, cause: Exception) -> str:
    """Return why a QEMU has ended; what it said last is the reason only if it ended by itself."""
    if process.returncode < 0:
        return f"QEMU was killed by {signal.Signals(-process.returncode).name}"
    return last_line or f"QEMU has ended: {cause}"


def _is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process has been stopped by a signal, or by who debugs it."""
    try:
        status = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] in {"T", "t"}


class _LastWords:
    """The end of a process's standard error."""

    def __init__(self) -> None:
        self._data = b""

    @property
    def last_line(self) -> str:
        """The last line, without the program's name."""
        lines = self._data.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def finish(self, process: subprocess.Popen[bytes]) -> bool:
        """Return whether the process has ended, and take what it said last."""
        try:
            # Its monitor is closed a moment before it has ended.
            process.wait(_END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            # It holds its standard error open, and a read of that would wait for its end.
            return False
        assert process.stderr is not None
        with suppress(BlockingIOError):
            self._data += os.read(process.stderr.fileno(), _STDERR_BYTES_MAX)
        return True

    async def collect(self, process: subprocess.Popen[bytes]) -> None:
        """Read to the end."""
        assert process.stderr is not None
        async with trio.lowlevel.FdStream(os.dup(process.stderr.fileno())) as stream:
            while data := await stream.receive_some():
                self._data = (self._data + data)[-_STDERR_BYTES_MAX:]
