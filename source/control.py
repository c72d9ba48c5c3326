"""The door of a paused source: another process tells it where the destination can be reached now.

A paused source holds the only copy of what the destination misses, so nobody can resume for it.
While it is paused it listens on a unix socket in a folder that only its user can enter; it takes
one line, HOST:PORT, and answers with one.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from protocol.errors import MigrationError

# A host's name, a port, and what there is around them.
_LINE_BYTES_MAX = 512
_TALK_SECONDS_MAX = 5.0
# How long a socket may be there before somebody listens on it.
_MAKING_SECONDS_MAX = 60.0
OK = "ok"

Redirect = Callable[[str, int], None]


def runtime_folder() -> Path:
    """Return the folder for the sockets of this user's paused sources; it may not be there."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and Path(given).is_dir():
        return Path(given) / "midstream"
    return Path("/tmp") / f"midstream-{os.geteuid()}"


@asynccontextmanager
async def control_socket(session: str, redirect: Redirect) -> AsyncIterator[bool]:
    """Listen for a user's word until the block is left; yields whether that can be done here.

    Args:
        session: The session's name.
        redirect: Called with a host and a port.
    """
    path = runtime_folder() / f"{session}.sock"
    try:
        _make_folder(path.parent)
        _sweep(path.parent)
        sock = trio.socket.socket(trio.socket.AF_UNIX)
    except OSError:
        yield False
        return
    with sock:
        try:
            await sock.bind(str(path))
            sock.listen(1)
        except OSError:
            yield False
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_serve, sock, redirect)
                yield True
                nursery.cancel_scope.cancel()
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                # Not while another paused source of this user needs it.
                path.parent.rmdir()


def _sweep(folder: Path) -> None:
    """Remove the sockets of sources that were killed while they were paused."""
    for path in folder.glob("*.sock"):
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.setblocking(False)
            # One that is being made refuses, too.
            if time.time() - path.stat().st_mtime < _MAKING_SECONDS_MAX:
                continue
            if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
                path.unlink()


async def tell_paused(session: str, address: str) -> None:
    """Tell a paused source of this user to resume at an address.

    Raises:
        MigrationError: There is none of that name, or it does not take the address.
    """
    path = runtime_folder() / f"{session}.sock"
    answer = b""
    try:
        with trio.fail_after(_TALK_SECONDS_MAX):
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(f"{address}\n".encode())
                async for data in stream:
                    answer = (answer + data)[:_LINE_BYTES_MAX]
    except (OSError, trio.BrokenResourceError):
        raise MigrationError(f"no source of session {session} is paused here") from None
    except trio.TooSlowError:
        raise MigrationError(f"the source of session {session} does not answer") from None
    text = answer.decode(errors="replace").strip()
    if text != OK:
        raise MigrationError(f"the source of session {session} says: {text}")


async def _serve(sock: trio.socket.SocketType, redirect: Redirect) -> None:
    """Answer one after the other until cancelled."""
    while True:
        near, _ = await sock.accept()
        stream = trio.SocketStream(near)
        with trio.move_on_after(_TALK_SECONDS_MAX), suppress(trio.BrokenResourceError):
            async with stream:
                await _converse(stream, redirect)


async def _converse(stream: trio.SocketStream, redirect: Redirect) -> None:
    line = b""
    while b"\n" not in line and len(line) < _LINE_BYTES_MAX:
        data = await stream.receive_some()
        if not data:
            return
        line += data
    host, _, port = line.partition(b"\n")[0].decode(errors="replace").rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        await stream.send_all(b"that is no HOST:PORT\n")
        return
    redirect(host.removeprefix("[").removesuffix("]"), int(port))
    await stream.send_all(f"{OK}\n".encode())


def _make_folder(path: Path) -> None:
    """Make a folder that is this user's alone, or see that it is.

    Raises:
        OSError: It is somebody else's, or others can enter it.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not mine or stat.S_IMODE(status.st_mode) & 0o077:
        raise PermissionError(f"{path} is not private")
