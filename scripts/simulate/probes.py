"""Probes of what this machine's kernel does with connections, on a link of their own.

One process reads and another writes, at the two ends of a link; `midstream calibrate` starts both.
Nothing of a migration takes part: these are sockets that are bounded as a source bounds its own.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from statistics import median

from guest.streams.tcp import unacknowledged_bytes

# As small as a source's buffer ever is (source/buffering.py), and what of it may be unsent.
SMALL_BYTES, SMALL_UNSENT_BYTES = 64 * 1024, 16 * 1024
_SECONDS = 1.5
_PIECE = bytes(2 << 20)


Address = tuple[str, int]


def read(host: str) -> None:
    """Say on which port; answer one byte with one, and read all else, of every connection."""
    server = socket.create_server((host, 0))
    # Where it is found.
    _say(server.getsockname()[1])

    def serve(connection: socket.socket) -> None:
        place = bytearray(1 << 20)
        while count := connection.recv_into(place):
            if count == 1:
                connection.sendall(b"!")

    while True:
        connection, _ = server.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def write(host: str, port: str) -> None:
    """Say what was found, at the other end of the link."""
    address = host, int(port)
    small, unbounded = _held(address, bounded=True), _held(address, bounded=False)
    found = {
        "round-trip-ns": _round_trip_ns(address),
        "bytes-per-second": unbounded["bytes-per-second"],
        "small-full-bytes": small["full"],
        "small-writable-bytes": small["writable"],
        "default-full-bytes": unbounded["full"],
        "copy-ns-per-byte": unbounded["cpu-ns-per-byte"],
        "share-of-small": _share(address),
    }
    _say(found)


def _connect(address: Address, *, bounded: bool) -> socket.socket:
    connection = socket.create_connection(address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if bounded:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
        lowat = socket.TCP_NOTSENT_LOWAT
        connection.setsockopt(socket.IPPROTO_TCP, lowat, SMALL_UNSENT_BYTES)
    connection.setblocking(False)
    return connection


def _round_trip_ns(address: Address) -> int:
    """Return the shortest time in which a byte was answered."""
    with socket.create_connection(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = []
        for _ in range(200):
            began = time.monotonic_ns()
            connection.sendall(b"?")
            connection.recv(1)
            times.append(time.monotonic_ns() - began)
    return min(times)


def _fill(connection: socket.socket) -> int:
    """Write what goes; return how many bytes did."""
    count = 0
    try:
        while True:
            count += connection.send(_PIECE)
    except BlockingIOError:
        return count


def _held(address: Address, *, bounded: bool) -> dict[str, float]:
    """Return what is held when no more goes, and when some does again, and how fast all went."""
    with _connect(address, bounded=bounded) as connection:
        poll = select.poll()
        poll.register(connection, select.POLLOUT)
        full, writable, sent = [], [], 0
        began, cpu = time.monotonic(), time.process_time()
        while time.monotonic() < began + _SECONDS:
            sent += _fill(connection)
            full.append(unacknowledged_bytes(connection))
            poll.poll(1000)
            writable.append(unacknowledged_bytes(connection))
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    return {
        "full": median(full), "writable": median(writable), "bytes-per-second": sent / seconds,
        "cpu-ns-per-byte": cpu * 1e9 / sent,
    }  # fmt: skip


def _share(address: Address) -> float:
    """Return which share of the link a bounded connection has beside one that is not."""
    pair = [_connect(address, bounded=True), _connect(address, bounded=False)]
    poll, sent = select.poll(), [0, 0]
    for connection in pair:
        poll.register(connection, select.POLLOUT)
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until:
        for fd, _ in poll.poll(100):
            at = [each.fileno() for each in pair].index(fd)
            sent[at] += _fill(pair[at])
    for connection in pair:
        connection.close()
    return sent[0] / sum(sent)


def late_ns(count: int = 400, pause_seconds: float = 0.003) -> list[int]:
    """Return how late a process of this machine ran that slept and was woken, each time."""
    here, there = socket.socketpair()
    pid = os.fork()
    if not pid:
        here.close()
        while there.recv(1):
            there.sendall(time.monotonic_ns().to_bytes(8, "little"))
        os._exit(0)
    there.close()
    found = []
    with here:
        for _ in range(count):
            time.sleep(pause_seconds)
            began = time.monotonic_ns()
            here.sendall(b"?")
            found.append(int.from_bytes(here.recv(8), "little") - began)
    os.waitpid(pid, 0)
    return found


def _say(plain: object) -> None:
    sys.stdout.write(f"{json.dumps(plain)}\n")
    sys.stdout.flush()


_ENDS: dict[str, Callable[..., None]] = {"read": read, "write": write}

if __name__ == "__main__":
    _ENDS[sys.argv[1]](*sys.argv[2:])
