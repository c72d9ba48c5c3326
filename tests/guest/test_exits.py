"""The end of a child process is noticed, with the kernel's word and without."""

import errno
import os
import signal
import subprocess
import sys
from unittest.mock import Mock

import pytest
import trio
import trio.testing

from guest.exits import wait_exit
from tests.bounds import nothing_left

CHILD = "import sys; sys.exit(len(sys.stdin.read()))"


def started() -> subprocess.Popen[bytes]:
    """Start a process that ends with its standard input, and with that one's length."""
    return subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE)


@pytest.mark.parametrize("denied", [False, True])
async def test_an_end_is_waited_for(monkeypatch: pytest.MonkeyPatch, denied: bool) -> None:
    """It comes while somebody waits, also where nobody may have a descriptor of a process."""
    if denied:
        refusal = OSError(errno.EPERM, "Operation not permitted")
        monkeypatch.setattr(os, "pidfd_open", Mock(side_effect=refusal))
    with nothing_left(), started() as child:
        assert child.stdin is not None
        statuses: list[int] = []

        async def hear() -> None:
            statuses.append(await wait_exit(child))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            await trio.testing.wait_all_tasks_blocked()
            assert not statuses
            child.stdin.write(b"seven..")
            child.stdin.close()
        assert statuses == [7]
        # And once more, when it has ended.
        assert await wait_exit(child) == 7


async def test_a_signal_is_told() -> None:
    """A process that was killed has the signal's number, negative."""
    with started() as child:
        child.kill()
        assert await wait_exit(child) == -signal.SIGKILL


async def test_who_gives_up_leaves_nothing() -> None:
    """A wait that is cancelled gives its descriptor back, and the process runs on."""
    with nothing_left(), started() as child:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_exit, child)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert child.poll() is None
        child.communicate(b"")
