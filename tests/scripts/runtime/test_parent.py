"""A side and its parent: the reason goes to the parent, and without it the side ends."""

import os
import subprocess
import sys

from scripts.runtime.parent import PARENT_VARIABLE, REASON_VARIABLE, has_listener
from tests.processes import ROOT

COMMAND = [sys.executable, "-P", "-m", "scripts", "dest", "--listen=127.0.0.1:0", "--frob"]


def run(environment: dict[str, str], *fds: int) -> subprocess.CompletedProcess[bytes]:
    """Run a command that fails, as a side with this environment."""
    return subprocess.run(
        COMMAND, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, pass_fds=fds,
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip


def test_a_person_is_told_where_no_parent_listens() -> None:
    """A command that somebody typed tells the reason on standard error."""
    assert not has_listener()
    done = run({})
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"midstream: No such option '--frob'.\n"


def test_a_parent_is_told_instead_of_the_user() -> None:
    """With somebody to listen, standard error stays empty and the pipe has the bare reason."""
    reader, writer = os.pipe()
    done = run({PARENT_VARIABLE: str(os.getpid()), REASON_VARIABLE: str(writer)}, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as reason:
        assert reason.read() == b"No such option '--frob'."
    assert (done.returncode, done.stderr) == (2, b"")


def test_a_parent_that_listens_no_more_is_no_error() -> None:
    """A side whose parent has closed the pipe ends as it would have ended."""
    reader, writer = os.pipe()
    os.close(reader)
    done = run({REASON_VARIABLE: str(writer)}, writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (2, b"")


def test_a_side_without_its_parent_ends() -> None:
    """A side whose parent is gone before the side can follow it ends at once, and silently."""
    done = run({PARENT_VARIABLE: "1"})
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
