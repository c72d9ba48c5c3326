"""A process that this program has started does what it was handed, and has no command line."""

import os
import subprocess
import sys
from contextlib import closing

import pytest

from scripts.runtime.spawn import package_environment, spawn


@pytest.mark.parametrize(
    "data", [b"", b"frob", b'{"kind": "source", "run": {"config": {}}}', b'{"kind": "x", "run": 1}']
)
def test_what_is_nothing_to_do_is_one_line(data: bytes) -> None:
    """It ends before it begins anything, and its parent hears why."""
    started = spawn("source", capture=True, run=data)
    with closing(started):
        assert started.process.wait(60) == 1
        assert (started.reason.read() or b"").startswith(b"this is no ")
        assert started.process.stderr is not None
        assert started.process.stderr.read() == b""


def test_a_command_line_does_not_count_beside_it() -> None:
    """Whoever is handed something does that, whatever else its command line says."""
    fd = os.memfd_create("run")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "scripts", "--help"], pass_fds=[fd], check=False, timeout=60,
        env={**package_environment(), "MIDSTREAM_RUN_FD": str(fd)}, capture_output=True,
    )  # fmt: skip
    os.close(fd)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"midstream: this is no ")
