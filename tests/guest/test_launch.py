"""A guest process starts wherever the engine stands, and says how it died."""

import errno
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import trio
import trio.testing

from guest.handle import open_guest, start_process
from guest.launch import GuestProcess
from guest.memory import GuestMemory
from guest.messages import pack
from guest.programs import ProgramSpec
from protocol.errors import GuestFailed
from tests.bounds import open_files

SCRIPTED = ProgramSpec("scripted", 2)


async def test_the_process_finds_its_package_from_anywhere(
    memory: GuestMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Working directory, a package of the same name in it, and PYTHONPATH do not matter."""
    (tmp_path / "guest").mkdir()
    (tmp_path / "guest" / "__init__.py").write_text("raise SystemExit(9)", encoding="ascii")
    monkeypatch.chdir(tmp_path)
    for value in (None, "", str(tmp_path)):
        if value is None:
            monkeypatch.delenv("PYTHONPATH", raising=False)
        else:
            monkeypatch.setenv("PYTHONPATH", value)
        with trio.fail_after(20):
            async with open_guest(memory, SCRIPTED):
                pass


async def test_a_killed_process_is_reported_to_all_who_wait(memory: GuestMemory) -> None:
    """Every call that needs the process fails with the signal's name."""
    failures = []

    async def expect_failure(wait: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(GuestFailed, match="killed by SIGKILL") as failed:
            await wait()
        failures.append(failed.value)

    with trio.fail_after(10):
        async with open_guest(memory, SCRIPTED) as guest:
            await guest.run()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_failure, guest.receive)
                await trio.testing.wait_all_tasks_blocked()
                os.kill(guest.pid, signal.SIGKILL)
                nursery.start_soon(expect_failure, guest.pause)
            with pytest.raises(GuestFailed, match="SIGKILL"):
                await guest.touch(0, 0)
    assert len(failures) == 2


async def test_a_process_may_be_started_ahead(memory: GuestMemory) -> None:
    """A guest takes the process that loads already, and that is gone with either of them."""
    with trio.fail_after(20):
        async with start_process() as process:
            async with open_guest(memory, SCRIPTED, process=process) as guest:
                assert guest.pid == process.pid
                await guest.run()
                await guest.pause()
            assert process._child.returncode is not None
        with pytest.raises(KeyError):
            async with start_process() as unused:
                raise KeyError
        assert unused._child.returncode is not None


@pytest.mark.parametrize("denied", [False, True])
async def test_an_exit_status_is_reported(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch, denied: bool
) -> None:
    """A process that ends by itself is told by its status, also where nobody may have a pidfd."""
    if denied:
        refusal = OSError(errno.EPERM, "Operation not permitted")
        monkeypatch.setattr(os, "pidfd_open", Mock(side_effect=refusal))
    process = GuestProcess()
    try:
        # An engine that goes before it says anything.
        process._control.shutdown(socket.SHUT_WR)
        with trio.fail_after(20), pytest.raises(GuestFailed, match="exit status 0"):
            await process.hear()
    finally:
        await process.end()


async def test_the_process_says_itself_why_it_failed() -> None:
    """What goes wrong inside comes out as a line, not as a traceback."""
    process = GuestProcess()
    spec_fd = os.memfd_create("nonsense")
    try:
        os.write(spec_fd, pack("nonsense"))
        os.lseek(spec_fd, 0, os.SEEK_SET)
        with trio.fail_after(20), pytest.raises(GuestFailed, match="guest process failed: ") as no:
            await process.assemble(spec_fd, spec_fd, [], [])
        assert "\n" not in str(no.value)
    finally:
        os.close(spec_fd)
        await process.end()


async def test_a_system_that_starts_no_process_is_reported(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is the system's; nothing stays open."""
    before = open_files()
    monkeypatch.setattr("sys.executable", "/missing/python")
    with pytest.raises(GuestFailed, match="cannot start the guest process: No such file"):
        async with open_guest(memory, SCRIPTED):
            pass
    assert open_files() - before == set()


async def test_a_process_that_does_not_answer_is_given_up(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for its start is bounded, and it is killed."""
    monkeypatch.setattr("guest.launch._START_SECONDS_MAX", 0.01)
    with trio.fail_after(10), pytest.raises(GuestFailed, match="did not start"):
        async with open_guest(memory, SCRIPTED):
            pass


async def test_ending_twice_is_ending_once() -> None:
    """A process that is gone can be ended again."""
    process = GuestProcess()
    await process.end()
    await process.end()
