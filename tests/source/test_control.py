"""The door of a paused source: who may come in, what is taken, and that it is gone afterwards."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from protocol.errors import MigrationError
from source.control import control_socket, runtime_folder, tell_paused
from tests.helpers import bounded, nothing_left

NAME = "0" * 32


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder of the test's own; a socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="m") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name) / "midstream"


def entries(folder: Path) -> int | None:
    """Return how many sockets are in a folder, None if it is not there."""
    return len(list(folder.iterdir())) if folder.exists() else None


def mode_of(folder: Path) -> int:
    """Return who may do what with a folder."""
    return folder.stat().st_mode


def make(folder: Path, how: str) -> None:
    """Make what no private folder is."""
    if how == "a file":
        folder.write_text("")
    else:
        folder.mkdir(mode=0o755)


def nobody(_host: str, _port: int) -> None:
    """Be told what nobody should be told."""
    pytest.fail("an address was taken")


@pytest.mark.parametrize(
    ("address", "taken"), [("there:5", ("there", 5)), ("[::1]:65535", ("::1", 65535))]
)
async def test_an_address_is_taken(address: str, taken: tuple[str, int], folder: Path) -> None:
    """What another process says reaches the source; the socket is private, and gone at the end."""
    heard: list[tuple[str, int]] = []
    await trio.to_thread.run_sync(int)
    with nothing_left(), bounded():
        async with control_socket(NAME, lambda *where: heard.append(where)) as is_there:
            assert is_there
            assert stat.S_IMODE(mode_of(folder)) == 0o700
            await tell_paused(NAME, address)
            await tell_paused(NAME, address)
        assert heard == [taken, taken]
        assert entries(folder) is None


@pytest.mark.parametrize(
    "address", ["", "there", "there:", ":5", "there:0", "there:99999", "x" * 600]
)
async def test_what_is_no_address_is_refused(address: str) -> None:
    """Anything else is answered with why, and changes nothing."""
    with bounded():
        async with control_socket(NAME, nobody):
            with pytest.raises(MigrationError, match="that is no HOST:PORT"):
                await tell_paused(NAME, address)


async def test_nobody_is_paused() -> None:
    """Without a paused source of that name there is nobody to be told."""
    with pytest.raises(MigrationError, match="no source of session 0000"):
        await tell_paused(NAME, "there:5")


@pytest.mark.parametrize("how", ["open to all", "a file"])
async def test_a_folder_that_is_not_private_is_not_used(how: str, folder: Path) -> None:
    """Where others could reach the socket there is none; the source goes on without."""
    make(folder, how)
    with bounded():
        async with control_socket(NAME, nobody) as is_there:
            assert not is_there
            await trio.lowlevel.checkpoint()


async def test_two_paused_sources_share_the_folder(folder: Path) -> None:
    """The folder stays as long as one needs it."""
    with bounded():
        async with control_socket("1" * 32, nobody):
            async with control_socket(NAME, nobody):
                assert entries(folder) == 2
            assert entries(folder) == 1
        assert entries(folder) is None


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


async def test_what_killed_sources_left_is_removed(folder: Path) -> None:
    """A socket without a listener goes, unless it is new; those of living sources stay."""
    leave(folder, "killed", 3600)
    leave(folder, "being-made", 0)
    async with control_socket(NAME, nobody):
        make_old(folder, NAME)
        async with control_socket("f" * 32, nobody):
            assert names(folder) == {NAME, "f" * 32, "being-made"}


def test_without_a_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives none, the folder is one of this user's in /tmp."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime_folder().name.startswith("midstream-")
