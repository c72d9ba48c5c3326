"""Has a QEMU migrate its memory to a destination, with postcopy, and waits for the end.

QEMU has no option for how much of a stream its sockets may hold.  What it has written to one it
cannot put off any more, and how much it may write is the kernel's to say: a multiple of the
congestion window (net/ipv4/tcp_input.c, tcp_sndbuf_expand), for BBR far more than for others.  Only
a size that is set at QEMU's own end holds under all of them, so this reaches into it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from guest import libc
from protocol import events
from protocol.addresses import host_port
from protocol.errors import ConnectionLost, MigrationError
from protocol.events import Emit
from scripts.qemu.qmp import Qmp
from scripts.screen.output import tell

# Where QEMU has no `error-desc`; the destination may know.
NO_REASON = "it does not say why"

# migration/migration.c: where a migration ends, or goes no further by itself.
_ENDS = ("completed", "failed", "cancelled", "postcopy-paused")

# How often, and how long apart, QEMU is asked for the figures of what it has completed.
_FIGURES_ASKED_MAX, _FIGURES_SECONDS = 50, 0.02

# How often it is asked how much it has sent: it sends for each tenth of a second.
_SENT_SECONDS = 0.02

# How long QEMU is let alone before it is to try again.
_RECONNECT_SECONDS = 0.5

# QEMU's own words for no limit: what fits in its 64 bits of bytes a second.
_NO_LIMIT = 1 << 60

# The order to switch over can be given only when QEMU migrates already, and on a busy machine comes
# late: before it comes a small guest would be over.  At this rate no page fits into a tenth of a
# second's allowance, by which QEMU reckons; a tenth of less than 10 would be none, and no limit.
_AT_ONCE_BANDWIDTH = 10


@dataclass(frozen=True, kw_only=True)
class Orders:
    """How QEMU is to migrate.

    Attributes:
        preempt: With a connection of its own for urgent pages.
        postcopy_after: Precopy passes before the switch-over.
        precopy_bytes: What is sent before the switch-over at least, where no passes are asked for.
        bandwidth: Bytes a second in precopy; 0 for no limit.
        postcopy_bandwidth: The same in postcopy, for the background.
        reconnect_seconds: How long it is had to try again when its connections break in postcopy.
        compress: With the capability compress: pages go deflated, by several threads.
    """

    preempt: bool
    postcopy_after: int
    bandwidth: int
    postcopy_bandwidth: int
    reconnect_seconds: float = 0.0
    precopy_bytes: int = 0
    compress: bool = False


async def migrate(qmp: Qmp, host: str, port: int, orders: Orders, emit: Emit) -> dict[str, Any]:
    """Migrate; return what `query-migrate` says in the end.

    Every state that QEMU enters is told as an event.

    Raises:
        MigrationError: It failed; with QEMU's reason where it has one.
        ConnectionLost: The destination is gone in postcopy.
    """
    capabilities = {"events": True, "postcopy-ram": True, "postcopy-preempt": orders.preempt}
    if orders.compress:
        # Gone since QEMU 9.1, which does not know its name.
        capabilities["compress"] = True
    await qmp.call(
        "migrate-set-capabilities",
        capabilities=[{"capability": name, "state": on} for name, on in capabilities.items()],
    )
    at_once = not (orders.postcopy_after or orders.precopy_bytes)
    parameters = {
        "max-bandwidth": _AT_ONCE_BANDWIDTH if at_once else orders.bandwidth or _NO_LIMIT,
        "max-postcopy-bandwidth": orders.postcopy_bandwidth,
        # Precopy alone never ends it.
        "downtime-limit": 0,
    }
    await qmp.call("migrate-set-parameters", **parameters)
    uri = f"tcp:{host_port(host, port)}"
    await qmp.call("migrate", uri=uri)
    if not orders.postcopy_after:
        await _wait_sent(qmp, orders.precopy_bytes)
        await qmp.call("migrate-start-postcopy")
    state = await _follow(qmp, orders.postcopy_after, emit)
    with trio.move_on_after(orders.reconnect_seconds):
        while state == "postcopy-paused":
            state = await _resume(qmp, uri, emit)
    if state == "completed":
        return await _figures(qmp)
    told: dict[str, Any] = await qmp.call("query-migrate")
    reason = told.get("error-desc", NO_REASON)
    if state == "postcopy-paused":
        raise ConnectionLost(f"the destination is gone in postcopy: {reason}")
    raise MigrationError(f"QEMU's migration has {state}: {reason}")


async def _wait_sent(qmp: Qmp, count: int) -> None:
    """Return when QEMU has sent so many bytes, or has ended before."""
    while count:
        told: dict[str, Any] = await qmp.call("query-migrate")
        if told.get("ram", {}).get("transferred", 0) >= count or told.get("status") in _ENDS:
            return
        await trio.sleep(_SENT_SECONDS)


async def _resume(qmp: Qmp, uri: str, emit: Emit) -> str:
    """Resume a paused migration over new connections; return the state that it comes to."""
    await trio.sleep(_RECONNECT_SECONDS)
    await qmp.call("migrate", uri=uri, resume=True)
    return await _follow(qmp, 0, emit)


async def _figures(qmp: Qmp) -> dict[str, Any]:
    """Return QEMU's figures, which it has a moment after it has said that all is done."""
    told: dict[str, Any] = {}
    for _ in range(_FIGURES_ASKED_MAX):
        told = await qmp.call("query-migrate")
        if told.get("total-time"):
            break
        await trio.sleep(_FIGURES_SECONDS)
    return told


async def _follow(qmp: Qmp, postcopy_after: int, emit: Emit) -> str:
    """Emit each state, switch over when it is time; return the last state."""
    while True:
        event = await qmp.next_event()
        match event:
            case {"event": "MIGRATION", "data": {"status": str(state)}}:
                emit(events.State(state=state))
                if state in _ENDS:
                    return state
            # The number of the pass that begins, from 1; the first is told before all else.
            case {"event": "MIGRATION_PASS", "data": {"pass": int(number)}}:
                if number == postcopy_after + 1 and postcopy_after:
                    await qmp.call("migrate-start-postcopy")
        await trio.lowlevel.checkpoint()


class Shortened:
    """Passes a QEMU's events on, and with each change of state shortens what is connected by then.

    Its main connection is there when it is active, and the other when postcopy begins.
    """

    def __init__(self, emit: Emit, pid: int, port: int, window_bytes: int) -> None:
        """Pass on events to `emit`, and shorten as `shorten` does; 0 bytes for not at all."""
        self._emit = emit
        self._pid = pid
        self._port = port
        self._window_bytes = window_bytes

    def __call__(self, event: events.Event, /) -> None:
        """Receive one event."""
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
    for sock in connections_to(port, pid):
        # The kernel doubles it, for what it needs beside the bytes.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, window_bytes // 2)
        found += 1
    return found


def connections_to(port: int, pid: int) -> Iterator[socket.socket]:
    """Yield a process's TCP connections to a port, each to be used until the next is asked for.

    Args:
        port: The far end's.
        pid: A child of this process, or any process of a privileged user.

    Raises:
        OSError: The kernel does not let anybody reach into processes, or not into this one.
    """
    for sock in _sockets_of(pid):
        with sock:
            if _peer_port(sock) == port:
                yield sock


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
