"""Finds a source of this user and tells it something over its control socket."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from protocol.errors import MigrationError
from protocol.text import one_line
from source.control import ANSWER_BYTES_MAX, ERROR, OK, REQUEST_BYTES_MAX
from source.control_paths import (
    SUFFIX,
    check_length,
    folders_to_search,
    has_listener,
    is_private,
)

# A command may take its time; a source bounds each of its own.
ANSWER_SECONDS_MAX = 60.0
# To tell several sources apart, no more than this is waited for each of them.
_STATUS_SECONDS_MAX = 2.0
_LISTED_MAX = 4

STATUS = "status"


async def tell_source(session: str | None, command: str, argument: str = "") -> str:
    """Tell a source of this user something; return what it answers.

    Args:
        session: The session's name, or its socket's path (with a slash); None for the only source.
        command: The command's name.
        argument: What goes with it, one line.

    Raises:
        MigrationError: There is no such source, or several; or it refuses, and why.
    """
    path = await _find(session)
    name = f"session {path.stem}"
    try:
        return await _ask(path, f"{command} {argument}".strip(), ANSWER_SECONDS_MAX)
    except trio.TooSlowError:
        raise MigrationError(f"the source of {name} does not answer") from None
    except EOFError:
        raise MigrationError(f"the source of {name} ended before it answered") from None
    except OSError as error:
        raise MigrationError(
            f"no source of {name} runs here: {path}: {error.strerror or error}"
        ) from None


async def _find(session: str | None) -> Path:
    """Return a source's control socket.

    Raises:
        MigrationError: There is none, or there are several.
    """
    if session is None:
        return await _find_only()
    if "/" in session:
        return Path(session)
    for folder in _folders():
        path = folder / f"{session}{SUFFIX}"
        if path.exists():
            return path
    raise MigrationError(f"no source of session {session} runs here: none in {_searched()}")


async def _find_only() -> Path:
    paths = [
        path
        for folder in _folders()
        for path in sorted(folder.glob(f"*{SUFFIX}"))
        if has_listener(path)
    ]
    if not paths:
        raise MigrationError(f"no source of this user runs here: none in {_searched()}")
    if len(paths) == 1:
        return paths[0]
    told = [f"{path.stem} ({await _status(path)})" for path in paths[:_LISTED_MAX]]
    if len(paths) > _LISTED_MAX:
        told.append(f"and {len(paths) - _LISTED_MAX} more")
    raise MigrationError(f"{len(paths)} sources run here, say which session: {', '.join(told)}")


def _folders() -> list[Path]:
    """Return where to look; in what others can enter anybody may have put a socket."""
    return [folder for folder in folders_to_search() if is_private(folder)]


def _searched() -> str:
    return ", ".join(str(folder) for folder in folders_to_search())


async def _status(path: Path) -> str:
    try:
        return await _ask(path, STATUS, _STATUS_SECONDS_MAX)
    except (MigrationError, OSError, EOFError, trio.TooSlowError):
        return "does not answer"


async def _ask(path: Path, request: str, seconds: float) -> str:
    """Say one line and return what is answered.

    Raises:
        EOFError: The source is gone before it has answered.
        MigrationError: It refuses.
        OSError: Nobody listens there.
        trio.TooSlowError: It does not answer.
    """
    check_length(path)
    line = f"{request}\n".encode()
    if len(line) > REQUEST_BYTES_MAX or "\n" in request:
        raise MigrationError(f"that is no line of at most {REQUEST_BYTES_MAX} bytes")
    data = b""
    with trio.fail_after(seconds):
        async with await trio.open_unix_socket(os.fspath(path)) as stream:
            try:
                await stream.send_all(line)
                while b"\n" not in data and len(data) < ANSWER_BYTES_MAX:
                    more = await stream.receive_some(ANSWER_BYTES_MAX)
                    if not more:
                        raise EOFError
                    data += more
            except trio.BrokenResourceError:
                raise EOFError from None
    word, _, text = data.partition(b"\n")[0].decode(errors="replace").partition(" ")
    if word == OK:
        return one_line(text)
    said = text if word == ERROR else "something that is no answer"
    raise MigrationError(f"the source of session {path.stem} says: {one_line(said)}")
