"""The control socket of a source: its user's commands, from another process, while it migrates.

It is there from the start of the session to its end, in a folder that only its user can enter.  A
conversation is one line each way:

    NAME [ARGUMENT]         at most REQUEST_BYTES_MAX bytes
    ok [TEXT]               it is done, or has begun
    error TEXT              it is not, and why; nothing has changed

A command is a name and a handler; who has more commands adds rows to the mapping.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from protocol.errors import MidstreamError
from protocol.text import one_line
from source.control_paths import SUFFIX, check_length, folders_to_make, make_folder, sweep

# A command's name, a host's name, a port, and what there is around them.
REQUEST_BYTES_MAX = 512
ANSWER_BYTES_MAX = 4096

OK = "ok"
ERROR = "error"

# How long a visitor has for his line, and to take the answer.
TALK_SECONDS_MAX = 5.0
# Who comes while so many are answered waits in the socket's backlog.
_VISITORS_MAX = 16
_BACKLOG = 64
# What is read at once: what is left unread would take the answer with it.
_READ_BYTES = 64 * 1024
# A folder may go, with the last other source, between being made and being used.
_TRIES_MAX = 3

# Takes the argument, empty where none is given; returns what to answer.  Raises a MidstreamError to
# refuse.
Handler = Callable[[str], Awaitable[str]]
Commands = Mapping[str, Handler]


@dataclass(frozen=True)
class ControlSocket:
    """Where a source can be told something.

    Attributes:
        path: The socket; None where it could not be made.
        problem: Why it is not there, or not where it should be; empty if all is well.
    """

    path: Path | None
    problem: str = ""


@asynccontextmanager
async def control_socket(session: str, commands: Commands) -> AsyncIterator[ControlSocket]:
    """Listen for a user's commands until the block is left; without a socket it goes on, too.

    Args:
        session: The session's name.
        commands: What can be said, by name; read anew for each request.
    """
    sock, control = await _listen(f"{session}{SUFFIX}")
    if sock is None or control.path is None:
        yield control
        return
    with sock:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_serve, sock, commands)
                yield control
                nursery.cancel_scope.cancel()
        finally:
            control.path.unlink(missing_ok=True)
            with suppress(OSError):
                # Not while another source of this user needs it.
                control.path.parent.rmdir()


async def _listen(name: str) -> tuple[trio.socket.SocketType | None, ControlSocket]:
    """Return a listening socket in the first folder that can be had."""
    problems: list[str] = []
    for folder in folders_to_make():
        path = folder / name
        for left in reversed(range(_TRIES_MAX)):
            try:
                return await _bind(path), ControlSocket(path, "; ".join(problems))
            except FileNotFoundError as error:
                if not left:
                    problems.append(_words(error, path))
            except OSError as error:
                problems.append(_words(error, path))
                break
    return None, ControlSocket(None, "; ".join(problems))


async def _bind(path: Path) -> trio.socket.SocketType:
    """Listen on a socket that was not there.

    Raises:
        OSError: It cannot be had.
    """
    check_length(path)
    make_folder(path.parent)
    sweep(path.parent)
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    try:
        await sock.bind(str(path))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _words(error: OSError, path: Path) -> str:
    return f"{error.filename or path} is no control socket's: {error.strerror or error}"


async def _serve(sock: trio.socket.SocketType, commands: Commands) -> None:
    """Answer whoever comes until cancelled; a command that takes its time keeps nobody waiting."""
    limit = trio.CapacityLimiter(_VISITORS_MAX)
    async with trio.open_nursery() as nursery:
        while True:
            await limit.acquire_on_behalf_of(token := object())
            try:
                near, _ = await sock.accept()
            except OSError:
                # Out of descriptors, perhaps: the migration's, and not this visitor's, count.
                limit.release_on_behalf_of(token)
                await trio.sleep(1)
                continue
            nursery.start_soon(_receive, near, commands, limit, token)


async def _receive(
    near: trio.socket.SocketType, commands: Commands, limit: trio.CapacityLimiter, token: object
) -> None:
    try:
        async with trio.SocketStream(near) as stream:
            with suppress(trio.BrokenResourceError):
                await _converse(stream, commands)
    finally:
        limit.release_on_behalf_of(token)


async def _converse(stream: trio.SocketStream, commands: Commands) -> None:
    line = b""
    with trio.move_on_after(TALK_SECONDS_MAX):
        while b"\n" not in line and len(line) < REQUEST_BYTES_MAX:
            data = await stream.receive_some(_READ_BYTES)
            if not data:
                return
            line += data
    if b"\n" not in line[:REQUEST_BYTES_MAX]:
        answer = f"{ERROR} that is no line of at most {REQUEST_BYTES_MAX} bytes"
    else:
        answer = await _answer(line.partition(b"\n")[0].decode(errors="replace"), commands)
    with trio.move_on_after(TALK_SECONDS_MAX):
        await stream.send_all(f"{answer[: ANSWER_BYTES_MAX - 1]}\n".encode())


async def _answer(request: str, commands: Commands) -> str:
    name, _, argument = request.strip().partition(" ")
    handler = commands.get(name)
    if handler is None:
        known = ", ".join(sorted(commands))
        return f"{ERROR} {one_line(name)!r} is no command here; there are: {known}"
    try:
        return f"{OK} {one_line(await handler(argument.strip()))}".rstrip()
    except MidstreamError as error:
        return f"{ERROR} {one_line(str(error))}"
    except Exception as error:  # noqa: BLE001 - no mistake in a command may cost a guest
        return f"{ERROR} internal: {type(error).__name__}: {one_line(str(error))}"
