"""Finding a source from whatever environment, and what is said when that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from protocol.errors import MigrationError
from source import control_client, control_paths
from source.control import Commands, control_socket
from source.control_client import tell_source
from tests.bounds import bounded

NAME, OTHER = "0" * 32, "f" * 32


def make(folder: Path) -> None:
    """Make a folder as a source does."""
    folder.mkdir(mode=0o700)


def open_to_all(folder: Path) -> None:
    """Let everybody enter a folder."""
    folder.chmod(0o777)


def commands(state: str) -> Commands:
    """Return what a source in some state can be told."""

    async def status(_: str) -> str:
        return state

    return {"status": status}


@pytest.mark.parametrize("made_in", ["given", "login", "fallback"])
@pytest.mark.parametrize("sought_in", ["none", "another"])
async def test_any_environment_finds_it(
    made_in: str, sought_in: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A source is found from an environment that differs from its own."""
    login = control_paths.LOGINS / str(os.geteuid())
    login.mkdir(parents=True)
    if made_in == "login":
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(login))
    elif made_in == "fallback":
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    with bounded():
        async with control_socket(NAME, commands("active")) as control:
            if sought_in == "another":
                monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
            else:
                monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
            assert await tell_source(str(control.path), "status") == "active"
            if made_in == "given":
                # Nobody can know of a folder that only the source was told of.
                with pytest.raises(MigrationError, match=f"session {NAME} runs here: none in /"):
                    await tell_source(NAME, "status")
            else:
                assert await tell_source(NAME, "status") == "active"
                assert await tell_source(None, "status") == "active"


async def test_the_only_source_needs_no_name() -> None:
    """One source is meant when none is named; several are listed, with what they do."""
    with bounded():
        with pytest.raises(MigrationError, match="no source of this user runs here: none in /"):
            await tell_source(None, "status")
        async with control_socket(NAME, commands("active")):
            assert await tell_source(None, "status") == "active"
            async with control_socket(OTHER, commands("postcopy-paused")):
                with pytest.raises(MigrationError) as caught:
                    await tell_source(None, "status")
                assert str(caught.value) == (
                    f"2 sources run here, say which session: {NAME} (active), "
                    f"{OTHER} (postcopy-paused)"
                )
                assert await tell_source(OTHER, "status") == "postcopy-paused"


async def test_a_killed_source_is_no_source(control_folder: Path) -> None:
    """A socket behind which nobody listens is not taken for a source."""
    make(control_folder)
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(control_folder / f"{OTHER}.sock"))
    sock.close()
    with pytest.raises(MigrationError, match="Connection refused"):
        await tell_source(OTHER, "status")
    async with control_socket(NAME, commands("active")):
        assert await tell_source(None, "status") == "active"


async def test_a_folder_that_others_can_enter_is_not_searched(control_folder: Path) -> None:
    """What lies in a folder where anybody could have put it is not talked to."""
    async with control_socket(NAME, commands("active")):
        open_to_all(control_folder)
        with pytest.raises(MigrationError, match="no source of session"):
            await tell_source(NAME, "status")


@pytest.mark.parametrize(
    ("session", "why"),
    [
        ("/" + "d" * 200, "too long for a socket: 201 bytes, 107 at most"),
        ("/nowhere/at/all.sock", "No such file or directory"),
    ],
)
async def test_a_path_that_is_no_socket(session: str, why: str) -> None:
    """A path that is given says itself what is wrong with it."""
    with pytest.raises(MigrationError, match=why):
        await tell_source(session, "status")


async def test_a_source_that_does_not_answer(
    autojump_clock: trio.testing.MockClock, control_folder: Path
) -> None:
    """One that is stopped is given up after a while."""
    make(control_folder)
    autojump_clock.autojump_threshold = 0.1
    with trio.socket.socket(trio.socket.AF_UNIX) as sock:
        await sock.bind(str(control_folder / f"{NAME}.sock"))
        sock.listen(1)
        began = trio.current_time()
        with pytest.raises(MigrationError, match="does not answer"):
            await tell_source(NAME, "status")
        assert trio.current_time() - began == pytest.approx(control_client.ANSWER_SECONDS_MAX)


async def test_what_is_said_is_bounded() -> None:
    """A request that is no line is refused before anybody hears it."""
    async with control_socket(NAME, commands("active")):
        for argument in ("x" * 600, "a\nb"):
            with pytest.raises(MigrationError, match="no line of at most 512"):
                await tell_source(NAME, "status", argument)
