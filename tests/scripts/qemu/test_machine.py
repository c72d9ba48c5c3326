"""A QEMU of one's own: started over memory that is ours, and gone when it is left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import trio

from guest.memory import GuestMemory
from protocol.errors import GuestFailed, MigrationError
from protocol.geometry import Geometry, RamBlock
from scripts.qemu.command import PROGRAM
from scripts.qemu.machine import MachineSpec, check_block, open_machine
from tests.helpers import bounded, nothing_left

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
