"""The control socket of a source: who may come in, what is answered, and that it is gone after."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
import trio

from protocol.errors import MigrationError
from source import control_paths
from source.control import (
    ANSWER_BYTES_MAX,
    REQUEST_BYTES_MAX,
    TALK_SECONDS_MAX,
    Commands,
    control_socket,
)
from source.control_client import tell_source
from tests.bounds import bounded, nothing_left

NAME = "0" * 32


async def echo(argument: str) -> str:
    """Answer with what was said."""
    return argument


async def refuse(argument: str) -> str:
    """Refuse, in more words than one line has."""
    raise MigrationError(f"not {argument}\nnot now")


async def stumble(argument: str) -> str:
    """Make a mistake."""
    raise ValueError(argument)


COMMANDS: Commands = {"echo": echo, "refuse": refuse, "stumble": stumble}


def entries(folder: Path) -> int | None:
    """Return how many sockets are in a folder, None if it is not there."""
    return len(list(folder.iterdir())) if folder.exists() else None


def mode_of(folder: Path) -> int:
    """Return who may do what with a folder."""
    return stat.S_IMODE(folder.stat().st_mode)


def make(folder: Path, how: str) -> None:
    """Make what no private folder is."""
    if how == "a file":
        folder.write_text("")
    else:
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)


async def say(path: Path, data: bytes) -> bytes:
    """Return what is answered to some bytes."""
    answer = b""
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(data)
        await stream.send_eof()
        async for more in stream:
            answer += more
    return answer


async def test_a_command_is_answered(control_folder: Path) -> None:
    """What another process says reaches its handler; the socket is private, and gone at the end."""
    await trio.to_thread.run_sync(int)
    with nothing_left(), bounded():
        async with control_socket(NAME, COMMANDS) as control:
            assert control.path == control_folder / f"{NAME}.sock"
            assert not control.problem
            assert mode_of(control_folder) == 0o700
            assert await tell_source(NAME, "echo", "there:5") == "there:5"
            assert await tell_source(str(control.path), "echo") == ""
        assert entries(control_folder) is None


async def test_what_is_not_done_is_said() -> None:
    """A refusal, an unknown command and a mistake are answered in one line; others follow."""
    with bounded():
        async with control_socket(NAME, COMMANDS):
            for command, why in (
                ("refuse", "session 0000.*says: not there:5 not now$"),
                ("dance", "'dance' is no command here; there are: echo, refuse, stumble"),
                ("stumble", "internal: ValueError: there:5"),
            ):
                with pytest.raises(MigrationError, match=why):
                    await tell_source(NAME, command, "there:5")
            assert await tell_source(NAME, "echo", "still here") == "still here"


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"echo a b \n", b"ok a b\n"),
        (b"echo a\necho b\n", b"ok a\n"),
        (b"echo", b""),
        (b"", b""),
        (b"\n", b"error '' is no command here; there are: echo, refuse, stumble\n"),
        (b"\xff\xfe\n", b"error"),
        (b"echo " + b"x" * REQUEST_BYTES_MAX + b"\n", b"error that is no line of at most 512"),
        (b"echo \x1b[2J\n", b"ok [2J\n"),
    ],
)
async def test_any_bytes(data: bytes, answer: bytes) -> None:
    """Whatever is said, the answer is one line or none, and the next is heard."""
    with bounded():
        async with control_socket(NAME, COMMANDS) as control:
            assert control.path is not None
            heard = await say(control.path, data)
            assert heard.startswith(answer)
            assert heard.count(b"\n") == bool(answer)
            assert len(heard) <= ANSWER_BYTES_MAX
            assert await tell_source(NAME, "echo") == ""


async def test_nobody_keeps_others_waiting(autojump_clock: trio.testing.MockClock) -> None:
    """Silent visitors and a command that takes its time keep nobody else from being heard."""
    autojump_clock.autojump_threshold = 0.1
    begun = trio.Event()

    async def wait(_: str) -> str:
        begun.set()
        await trio.sleep_forever()
        raise AssertionError

    with bounded(100):
        async with (
            control_socket(NAME, {**COMMANDS, "wait": wait}) as control,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(tell_source, NAME, "wait")
            await begun.wait()
            silent = [await trio.open_unix_socket(str(control.path)) for _ in range(40)]
            began = trio.current_time()
            assert await tell_source(NAME, "echo", "now") == "now"
            assert trio.current_time() - began <= 3 * TALK_SECONDS_MAX
            for stream in silent:
                await stream.aclose()
            nursery.cancel_scope.cancel()


async def test_a_session_that_ends_answers_no_more() -> None:
    """Who waits for an answer when the source ends hears that it ended."""
    begun = trio.Event()

    async def wait(_: str) -> str:
        begun.set()
        await trio.sleep_forever()
        raise AssertionError

    async def ask() -> None:
        with pytest.raises(MigrationError, match="ended before it answered"):
            await tell_source(NAME, "wait")

    with bounded():
        async with trio.open_nursery() as nursery, control_socket(NAME, {"wait": wait}):
            nursery.start_soon(ask)
            await begun.wait()


@pytest.mark.parametrize("how", ["open to all", "a file"])
async def test_a_folder_that_is_not_private_is_not_used(
    how: str, control_folder: Path, fallback: Path
) -> None:
    """Where others could reach the socket there is none: it is in the other folder, or nowhere."""
    make(control_folder, how)
    with bounded():
        async with control_socket(NAME, COMMANDS) as control:
            assert control.path == fallback / f"{NAME}.sock"
            assert control.problem == (
                f"{control_folder} is no control socket's: not this user's alone"
            )
            assert await tell_source(NAME, "echo", "found") == "found"
        make(fallback, how)
        async with control_socket(NAME, COMMANDS) as control:
            assert control.path is None
            assert control.problem.count("not this user's alone") == 2
            await trio.lowlevel.checkpoint()


async def test_a_path_too_long_for_a_socket(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fallback: Path
) -> None:
    """A runtime folder whose name leaves no room is said, and the other folder is used."""
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    async with control_socket(NAME, COMMANDS) as control:
        assert control.path == fallback / f"{NAME}.sock"
        assert "too long for a socket" in control.problem
        assert "107 at most" in control.problem
        assert await tell_source(NAME, "echo", "found") == "found"
    assert not list(deep.iterdir())


async def test_two_sources_share_the_folder(control_folder: Path) -> None:
    """The folder stays as long as one needs it."""
    with bounded():
        async with control_socket("1" * 32, COMMANDS):
            async with control_socket(NAME, COMMANDS):
                assert entries(control_folder) == 2
            assert entries(control_folder) == 1
        assert entries(control_folder) is None


async def test_a_folder_that_goes_meanwhile(
    monkeypatch: pytest.MonkeyPatch, control_folder: Path
) -> None:
    """A folder that its last other user removes before the socket is in it is made anew."""
    removals = 2
    sweep = control_paths.sweep

    def remove(folder: Path) -> None:
        nonlocal removals
        sweep(folder)
        if removals:
            removals -= 1
            folder.rmdir()

    monkeypatch.setattr("source.control.sweep", remove)
    async with control_socket(NAME, COMMANDS) as control:
        assert control.path == control_folder / f"{NAME}.sock"
        assert not control.problem


def leave(folder: Path, name: str, age_seconds: float) -> None:
    """Leave a socket behind which nobody listens, as old as that."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{name}.sock"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    make_old(folder, name, age_seconds)


def make_old(folder: Path, name: str, age_seconds: float = 3600.0) -> None:
    """Have a socket be as old as that."""
    path = folder / f"{name}.sock"
    then = path.stat().st_mtime - age_seconds
    os.utime(path, (then, then))


def names(folder: Path) -> set[str]:
    """Return the sessions of the sockets in a folder."""
    return {path.stem for path in folder.iterdir()}


async def test_what_killed_sources_left_is_removed(control_folder: Path) -> None:
    """A socket without a listener goes, unless it is new; those of living sources stay."""
    leave(control_folder, "killed", 3600)
    leave(control_folder, "being-made", 0)
    async with control_socket(NAME, COMMANDS):
        make_old(control_folder, NAME)
        async with control_socket("f" * 32, COMMANDS):
            assert names(control_folder) == {NAME, "f" * 32, "being-made"}
