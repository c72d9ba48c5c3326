"""A QEMU of one's own: started over memory that is ours, and gone when it is left."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import trio

from guest.memory import GuestMemory
from protocol.errors import GuestFailed, MigrationError
from protocol.geometry import Geometry, RamBlock
from scripts.qemu import qmp
from scripts.qemu.command import PROGRAM
from scripts.qemu.machine import MachineSpec, check_block, open_machine
from tests.bounds import bounded, nothing_left

GUEST = Geometry((RamBlock("ram", 32 << 20, 4096),))


async def test_a_machine_is_started_paused_and_ended() -> None:
    """It has our file for its memory, never does a step, and nothing of it is left."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")
    with GuestMemory.create(GUEST, "base") as memory, bounded():
        async with open_machine(MachineSpec(program=PROGRAM), memory) as machine:
            assert f"PPid:\t{os.getpid()}\n" in status_of(machine.pid)
            state = await machine.qmp.call("query-status")
            assert (state["running"], state["status"]) == (False, "prelaunch")
            (told,) = await machine.qmp.call("query-memdev")
            assert (told["id"], told["size"], told["share"]) == ("ram", 32 << 20, True)
        assert not status_of(machine.pid)


async def test_a_machine_outlives_no_failure() -> None:
    """When something else has failed, a QEMU that is well is not waited for."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")
    with (
        GuestMemory.create(GUEST, "base") as memory,
        nothing_left(),
        bounded(),
        pytest.raises(MigrationError, match="the destination is gone"),
    ):
        async with open_machine(MachineSpec(program=PROGRAM), memory):
            raise MigrationError("the destination is gone")


def status_of(pid: int) -> str:
    """Return what the kernel says of a process, nothing if it has gone."""
    path = Path(f"/proc/{pid}/status")
    return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.mark.parametrize(
    ("program", "reason"),
    [("/nowhere/qemu", "no such program"), ("false", "QEMU has ended"), ("cat", "cat --help")],
)
async def test_a_machine_that_does_not_start(program: str, reason: str) -> None:
    """What is no QEMU is told in its own last words, and leaves nothing."""
    machine = MachineSpec(program=program)
    with GuestMemory.create(GUEST, "base") as memory, nothing_left(), bounded():
        await trio.lowlevel.checkpoint()
        with pytest.raises(MigrationError, match=reason):
            await start_and_end(machine, memory)


async def start_and_end(machine: MachineSpec, memory: GuestMemory) -> None:
    """Start one and leave it."""
    async with open_machine(machine, memory):
        pass


def test_memory_that_a_pc_cannot_have() -> None:
    """QEMU takes a whole number of MiB."""
    with pytest.raises(GuestFailed):
        check_block(RamBlock("ram", 4096, 4096))


# A path with a space can stand in no first line: the shell begins, and Python finds strings there.
STUB = """#!/bin/sh
"exec" "{python}" "$0" "$@"
import os, signal, socket, sys
fd = next(int(each.rpartition("=")[2]) for each in sys.argv if each.startswith("socket,id=qmp"))
with socket.socket(fileno=fd) as monitor:
    monitor.sendall(b'{{"QMP": {{}}}}\\n')
    monitor.recv(65536)
    monitor.sendall(b'{{"return": {{}}}}\\n')
    sys.stderr.write("qemu: warning: a harmless one\\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.{signal})
"""


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("SIGKILL", "^QEMU was killed by SIGKILL$"),
        ("SIGSEGV", "^QEMU was killed by SIGSEGV$"),
        ("SIGSTOP", r"^QEMU did not answer query-status in 0\.2 s: its process is stopped$"),
    ],
)
async def test_a_machine_that_is_killed_or_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, reason: str
) -> None:
    """What became of it is told, and not the last warning that it had to say before."""
    stub = tmp_path / "qemu"
    stub.write_text(STUB.format(python=sys.executable, signal=number), encoding="utf-8")
    stub.chmod(0o755)
    monkeypatch.setattr(qmp, "_QUIET_SECONDS", 0.1)
    with GuestMemory.create(GUEST, "base") as memory, nothing_left(), bounded():
        await trio.lowlevel.checkpoint()
        with pytest.raises(MigrationError, match=reason):
            await hear_until_the_end(stub, memory, number, monkeypatch)


async def hear_until_the_end(
    stub: Path, memory: GuestMemory, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start one that does that to itself, and wait for what it has to say."""
    async with open_machine(MachineSpec(program=str(stub)), memory) as made:
        if number == "SIGSTOP":
            # Nobody tells of that, and nobody else is waited for.
            while state_of(made.pid) != "T":  # noqa: ASYNC110
                await trio.sleep(0.005)
            monkeypatch.setattr(qmp, "_ANSWER_SECONDS_MAX", 0.2)
        await made.qmp.next_event()


def state_of(pid: int) -> str:
    """Return the letter by which the kernel tells what a process does."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
