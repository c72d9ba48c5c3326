"""The yardstick: the same bytes between two processes over one plain socket, nothing else.

Both ends work on guest memory of the same kind as a migration's, populated beforehand, so that the
only difference is what midstream does between the two socket calls.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time

from guest.memory import GuestMemory
from guest.slices import finish
from protocol.errors import MigrationError
from protocol.geometry import Geometry, RamBlock
from scripts.processes.child import package_environment

PIECE_BYTES = 2 << 20
_CONNECT_SECONDS_MAX = 60.0
_RUN_SECONDS_MAX = 600.0


def measure(length_bytes: int, backing: str) -> float:
    """Send so many bytes to a process of its own; return bytes a second until its answer.

    Raises:
        MigrationError: The other process failed.
        GuestFailed: There is not enough memory.
    """
    with _memory(length_bytes, backing) as memory, socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(_CONNECT_SECONDS_MAX)
        port = server.getsockname()[1]
        receiver = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "scripts.figures.raw_pair",
                str(port),
                str(length_bytes),
                backing,
            ],
            env=package_environment(),
            stdin=subprocess.DEVNULL,
        )
        try:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(_RUN_SECONDS_MAX)
                return _send(connection, memory.views[0])
        except OSError as error:
            raise MigrationError(f"the plain socket pair failed: {error}") from error
        finally:
            receiver.kill()
            receiver.wait()


def _send(connection: socket.socket, view: memoryview) -> float:
    # The receiver says when its memory is ready.
    connection.recv(1)
    started = time.monotonic()
    for offset in range(0, len(view), PIECE_BYTES):
        connection.sendall(view[offset : offset + PIECE_BYTES])
    if not connection.recv(1):
        raise ConnectionError("the receiver ended early")
    return len(view) / (time.monotonic() - started)


def _receive(port: int, length_bytes: int, backing: str) -> None:
    with (
        _memory(length_bytes, backing) as memory,
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        view = memory.views[0]
        connection.sendall(b"r")
        have = 0
        while have < len(view):
            count = connection.recv_into(view[have : have + PIECE_BYTES])
            if not count:
                return
            have += count
        connection.sendall(b"d")


def _memory(length_bytes: int, backing: str) -> GuestMemory:
    memory = GuestMemory.create(Geometry((RamBlock("ram", length_bytes, PIECE_BYTES),)), backing)
    finish(memory.populate())
    return memory


if __name__ == "__main__":
    _receive(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
