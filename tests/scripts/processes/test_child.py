"""A side as a child: what it says and how it ends reaches its parent, and it never stays behind."""

import errno
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
import trio

from protocol.errors import MigrationError
from scripts.processes.child import Child
from scripts.runtime.spawn import spawn

# Serves nobody, until it is ended.
LISTENING = ["--listen=127.0.0.1:0", "--verbose"]


@asynccontextmanager
async def started(side: str, *arguments: str) -> AsyncIterator[Child]:
    """Start a side whose output is read here; it is gone when the block is left."""
    with trio.fail_after(30):
        child = Child(spawn(side, arguments, capture=True))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child.collect_errors, lambda _: None)
                yield child
                await child.end(0)
        finally:
            await child.end(0)


async def test_a_side_says_why_it_fails() -> None:
    """Its reason comes as it is, without what a user would see around it."""
    async with started("dest", "--frob") as child:
        assert await child.wait() == 2
        await child.end(5)
        assert child.reason == "No such option '--frob'."
        assert child.last_words == child.reason
        assert not child.put_down


async def test_a_side_that_was_killed_is_told_by_the_signal() -> None:
    """Who could not say anything has last words all the same."""
    async with started("dest", *LISTENING) as child:
        await child.read_line("listening on ")
        os.kill(child._process.pid, signal.SIGKILL)
        assert await child.wait() == -signal.SIGKILL
        await child.end(5)
        assert child.last_words == "the destination was killed by SIGKILL"
        assert not child.put_down


async def test_a_kernel_that_does_not_tell_of_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody may have a descriptor of a process, its end is found all the same."""
    denied = OSError(errno.EPERM, "Operation not permitted")
    monkeypatch.setattr(os, "pidfd_open", Mock(side_effect=denied))
    async with started("dest", "--frob") as child:
        assert await child.wait() == 2


async def test_a_line_is_waited_for() -> None:
    """The address comes as soon as it is printed; a side that ends without it is an error."""
    async with started("dest", *LISTENING) as child:
        assert (await child.read_line("listening on ")).startswith("127.0.0.1:")
    async with started("dest", "--frob") as child:
        with pytest.raises(MigrationError, match="the destination ended before"):
            await child.read_line("listening on ")


async def test_ctrl_c_at_once_is_no_traceback() -> None:
    """A side that is interrupted before its first line of code has run ends as a cancelled one."""
    async with started("dest", *LISTENING) as child:
        child.interrupt()
        assert await child.wait() == 130
        await child.end(5)
        assert child._errors == b""


async def test_a_side_that_hangs_is_put_down() -> None:
    """`end` returns with the process gone, whatever it does."""
    async with started("dest", *LISTENING) as child:
        await child.read_line("listening on ")
        os.kill(child._process.pid, signal.SIGSTOP)
        await child.end(0.01)
        assert child.status == -signal.SIGKILL
        assert child.put_down


async def test_a_side_hears_its_address_from_its_parent() -> None:
    """What is not an address is refused, by the source itself; who has gone hears nothing."""
    async with started("source", "--connect=-") as child:
        child.write_line("nonsense")
        assert await child.wait() == 2
        await child.end(5)
        assert "'nonsense' is not HOST:PORT" in child.reason
    async with started("source", "--frob") as child:
        await child.wait()
        child.write_line("too late")


def test_a_side_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process and no descriptor are left of the attempt."""
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(MigrationError, match="cannot start the source: No such file"):
        spawn("source", [], capture=False)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
