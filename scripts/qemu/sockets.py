"""Reaches into a QEMU for its sockets: QEMU has no option for how much of a stream they may hold.

What QEMU has written to a socket it cannot put off any more, and how much it may write is the
kernel's to say: a multiple of the congestion window (net/ipv4/tcp_input.c, tcp_sndbuf_expand), for
BBR far more than for others.  Only a size that is set at QEMU's own end holds under all of them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from guest import libc
from protocol import events
from protocol.events import Emit
from scripts.screen.output import tell


class Shortened:
    """Passes a QEMU's events on, and with each change of state shortens what is connected by then.

    Its main connection is there when it is active, and the other when postcopy begins.
    """

    def __init__(self, emit: Emit, pid: int, port: int, window_bytes: int) -> None:
        """Take who hears of events, and what `shorten` takes; 0 bytes for leaving it."""
        self._emit = emit
        self._pid = pid
        self._port = port
        self._window_bytes = window_bytes

    def __call__(self, event: events.Event, /) -> None:
        """Take one event."""
        if self._window_bytes and isinstance(event, events.State):
            try:
                shorten(self._pid, self._port, self._window_bytes)
            except OSError as error:
                tell(f"QEMU's sockets keep their size: {error.strerror}")
                self._window_bytes = 0
        self._emit(event)


def shorten(pid: int, port: int, window_bytes: int) -> int:
    """Let a process's TCP connections to a port hold little that is not sent; return how many.

    Args:
        pid: A child of this process, or any process of a privileged user.
        port: The far end's.
        window_bytes: What may lie in a connection's sockets, both ends together.

    Raises:
        OSError: The kernel does not let anybody reach into processes, or not into this one.
    """
    found = 0
    for sock in _sockets_of(pid):
        with sock:
            if _peer_port(sock) == port:
                # The kernel doubles it, for what it needs beside the bytes.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, window_bytes // 2)
                found += 1
    return found


def _sockets_of(pid: int) -> Iterator[socket.socket]:
    pidfd = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            # What it closes meanwhile is not there any more.
            with suppress(FileNotFoundError):
                if str(entry.readlink()).startswith("socket:"):
                    yield socket.socket(fileno=libc.pidfd_getfd(pidfd, int(entry.name)))
    finally:
        os.close(pidfd)


def _peer_port(sock: socket.socket) -> int | None:
    if sock.family not in {socket.AF_INET, socket.AF_INET6} or sock.type != socket.SOCK_STREAM:
        return None
    try:
        port: int = sock.getpeername()[1]
    except OSError:
        return None
    return port
