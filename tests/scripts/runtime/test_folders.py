"""A temporary folder is gone with its block, and with its process however that ends."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.errors import MidstreamError, MigrationCancelled
from scripts.runtime import folders
from scripts.runtime.folders import temporary_folder
from scripts.runtime.interrupts import raise_when_signalled
from tests.processes import ROOT, SECONDS_MAX, until


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have temporary folders made in one of the test's own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_folder_is_gone_with_its_block(tmp_path: Path) -> None:
    """It is there meanwhile, for this user alone, and goes with all that is in it."""
    with temporary_folder("test") as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith("midstream-test-")
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_folder_is_gone_with_its_process(tmp_path: Path, number: signal.Signals) -> None:
    """Also if it and all of its group are ended by a signal that leaves it no time."""
    code = (
        "import os, signal, tempfile\n"
        "from scripts.runtime.folders import temporary_folder\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "with temporary_folder('test') as folder:\n"
        "    (folder / 'file').write_bytes(b'x')\n"
        f"    os.killpg(0, {int(number)})\n"
        "    signal.pause()\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True, timeout=SECONDS_MAX, check=False,
    )  # fmt: skip
    assert done.returncode == -number
    until(lambda: not list(tmp_path.iterdir()))


def test_a_folder_is_gone_if_its_process_is_killed_while_it_is_made(tmp_path: Path) -> None:
    """From the moment on that it is there, somebody knows of it who removes it."""
    tools, place = tmp_path / "tools", tmp_path / "place"
    tools.mkdir()
    place.mkdir()
    mkdir = tools / "mkdir"
    mkdir.write_text(f'#!/bin/sh\n{shutil.which("mkdir")} "$@" && kill -KILL "$VICTIM"\n')
    mkdir.chmod(0o755)
    code = (
        "import os, tempfile\n"
        "from scripts.runtime.folders import temporary_folder\n"
        f"tempfile.tempdir = {str(place)!r}\n"
        "os.environ['VICTIM'] = str(os.getpid())\n"
        "with temporary_folder('test'):\n"
        "    pass\n"
    )
    path = f"{tools}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], timeout=SECONDS_MAX, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    until(lambda: not list(place.iterdir()))


def test_a_signal_while_a_folder_is_made_is_answered_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception that it raises comes when the folder has somebody to remove it."""
    make = folders._make

    def make_and_be_signalled(purpose: str) -> tuple[Path, subprocess.Popen[bytes] | None]:
        folder, broom = make(purpose)
        signal.raise_signal(signal.SIGTERM)
        assert folder.is_dir()
        return folder, broom

    monkeypatch.setattr(folders, "_make", make_and_be_signalled)
    with pytest.raises(MigrationCancelled), raise_when_signalled(), temporary_folder("test"):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGTERM}


def test_without_a_shell_there_is_a_folder_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody then sees to it when the process is killed; all else is as it was."""

    def refuse(*_: object, **_more: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with temporary_folder("test") as folder:
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_no_place_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says where there was none."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no"))
    with (
        pytest.raises(MidstreamError, match=r"cannot make a folder in .*no: No such file"),
        temporary_folder("test"),
    ):
        pass
