"""Start a guest process, talk to it, learn how it died, and leave nothing of it behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from guest import services
from guest.exits import wait_exit
from guest.messages import MESSAGE_BYTES_MAX, check_passed, pack, socket_pair, unpack
from guest.services import Service
from protocol.errors import GuestFailed

# An interpreter and NumPy on a slow, busy machine; half a second is usual.
_START_SECONDS_MAX = 60.0

_PACKAGE_ROOT = Path(__file__).resolve().parent.parent


class GuestProcess:
    """A running guest process and the two sockets to it (guest/messages.py).

    Attributes:
        pid: Its process id.
    """

    def __init__(self) -> None:
        """Start the process; it then waits for `assemble`.  Call `end` in any case.

        This blocks for the few milliseconds of a fork and exec.  A worker thread would not do: the
        kernel ends the process when the *thread* that started it ends (libc.die_with_parent).

        Raises:
            GuestFailed: The system refused to start a process.
        """
        control, far_control = socket_pair()
        events, self._far_events = socket_pair()
        # Our ends alone: this makes them non-blocking, and vCPUs shall wait while a socket is full.
        self._control = trio.socket.from_stdlib_socket(control)
        self._events = trio.socket.from_stdlib_socket(events)
        try:
            with far_control:
                self._child = _spawn(far_control)
        except OSError as error:
            self._close_sockets()
            raise GuestFailed(f"cannot start the guest process: {error.strerror}") from error
        self.pid = self._child.pid

    async def assemble(
        self,
        spec_fd: int,
        board_fd: int,
        memory_fds: Sequence[int],
        wake_fds: Sequence[int],
        *,
        kinds: Sequence[str] = (),
        service: str = services.NONE,
    ) -> Service:
        """Hand the process all that its vCPUs work with; return when they are ready and parked.

        The descriptors stay the caller's, who may close them afterwards; the service that is
        returned is the caller's, too.

        Args:
            spec_fd: A file with what `open_guest` writes.
            board_fd: The board.
            memory_fds: The memfd of each block.
            wake_fds: The eventfd of each vCPU.
            kinds: The kind of memory of each block.
            service: What the process is asked to have the kernel do (guest/services.py).

        Raises:
            GuestFailed: The process died or does not answer.
        """
        fds = array("i", [self._far_events.fileno(), spec_fd, board_fd, *memory_fds, *wake_fds])
        start = pack("start", len(wake_fds), list(kinds), len(memory_fds), service)
        with trio.move_on_after(_START_SECONDS_MAX) as patience:
            try:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)
                await self._control.sendmsg([start], [rights])
            except ConnectionError:
                raise await self._failure() from None
            # From now on the process has the only other end: its death is an end of file.
            self._far_events.close()
            return await self._hear_ready()
        if patience.cancelled_caught:
            raise GuestFailed(f"the guest process did not start in {_START_SECONDS_MAX:.0f} s")
        raise AssertionError

    async def _hear_ready(self) -> Service:
        """Take the answer to `start`, with what the process passes."""
        try:
            packet, passed, flags, _ = await self._control.recvmsg(
                MESSAGE_BYTES_MAX, socket.CMSG_SPACE(services.FD_COUNT_MAX * array("i").itemsize)
            )
        except ConnectionError:
            packet, passed, flags = b"", [], 0
        if not packet:
            raise await self._failure()
        fds = array("i", b"".join(data for *_, data in passed))
        check_passed(fds, flags)
        name, *values = unpack(packet)
        if name == "failed":
            raise _describe_failure(values)
        if name == "refused":
            raise GuestFailed(str(values[0]))
        service, reason, addresses, thread_ids = values
        return Service.of_answer(service, reason, tuple(addresses), tuple(thread_ids), tuple(fds))

    async def tell(self, packet: bytes) -> None:
        """Send an order.

        Raises:
            GuestFailed: The process died.
        """
        try:
            await self._control.send(packet)
        except ConnectionError:
            raise await self._failure() from None

    async def hear(self) -> list[Any]:
        """Return the next answer, its name and values.  Safe to cancel.

        Raises:
            GuestFailed: The process died, or says that it will.
        """
        heard, *values = unpack(await self._receive(self._control))
        if heard == "failed":
            raise _describe_failure(values)
        return [heard, *values]

    async def wait_answer(self) -> None:
        """Wait until there is an answer that `hear` has not returned, or the process is gone."""
        await trio.lowlevel.wait_readable(self._control)

    async def receive_event(self) -> bytes:
        """Return the packet of the next event.  Safe to cancel.

        Raises:
            GuestFailed: The process died.
        """
        return await self._receive(self._events)

    def take_event(self) -> bytes | None:
        """Return the packet of the next event, None where `receive_event` would wait or fail."""
        try:
            return os.read(self._events.fileno(), MESSAGE_BYTES_MAX) or None
        except (BlockingIOError, ConnectionError):
            return None

    async def end(self) -> None:
        """Kill the process and wait until it is gone, whatever is being cancelled meanwhile."""
        self._close_sockets()
        self._child.kill()
        with trio.CancelScope(shield=True):
            await wait_exit(self._child)

    async def _receive(self, source: trio.socket.SocketType) -> bytes:
        try:
            packet = await source.recv(MESSAGE_BYTES_MAX)
        except ConnectionError:
            packet = b""
        if not packet:
            raise await self._failure()
        return packet

    async def _failure(self) -> GuestFailed:
        """Wait until the process is gone and return why: its own words, or its exit status."""
        status = await wait_exit(self._child)
        try:
            while packet := await self._control.recv(MESSAGE_BYTES_MAX):
                heard, *values = unpack(packet)
                if heard == "failed":
                    return _describe_failure(values)
        except ConnectionError:
            pass
        if status < 0:
            return GuestFailed(f"the guest process was killed by {signal.Signals(-status).name}")
        return GuestFailed(f"the guest process ended with exit status {status}")

    def _close_sockets(self) -> None:
        for each in (self._control, self._events, self._far_events):
            each.close()


def _describe_failure(values: list[Any]) -> GuestFailed:
    return GuestFailed(f"the guest process failed: {values[0]}")


def _spawn(control: socket.socket) -> subprocess.Popen[bytes]:
    """Start the interpreter, so that it finds this very package whatever the working directory."""
    search_path = [str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "guest.process", str(control.fileno()), str(os.getpid())],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(search_path),
            # NumPy's linear algebra, which nobody calls, else starts a thread for every processor.
            "OPENBLAS_NUM_THREADS": "1",
        },
        stdin=subprocess.DEVNULL,
        # Standard output may be where the engine writes its report.
        stdout=subprocess.DEVNULL,
        pass_fds=[control.fileno()],
        # Ctrl-C goes to the terminal's process group, which this process had better leave before it
        # has a handler: an interpreter that is interrupted while it starts prints a traceback.
        process_group=0,
    )
