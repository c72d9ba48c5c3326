"""One of two QEMUs: what it is told and tells, and how it ends."""

from __future__ import annotations

import os
import signal

import pytest
import trio
import trio.testing

from protocol.errors import MigrationError
from protocol.geometry import Geometry, RamBlock
from scripts.qemu.command import PROGRAM
from scripts.qemu.machine import MachineSpec
from scripts.relay.side import differing_bytes, two_sides
from scripts.relay.steps import NamedPage
from tests.bounds import bounded, nothing_left
from tests.qemus import need_dest

GUEST = Geometry((RamBlock("a", 1 << 20, 4096), RamBlock("b", 2 << 20, 4096)))
SPEC = MachineSpec(program=PROGRAM)


async def test_all_memory_crosses_and_pages_come_when_they_are_touched() -> None:
    """Both say what they come into; a page is where its block says; the memories are equal then."""
    need_dest()
    with nothing_left(), bounded():
        async with two_sides(GUEST, 7, SPEC, SPEC) as (source, dest, _):
            assert differing_bytes(source.memory, dest.memory) > GUEST.length_bytes // 2
            for side in (source, dest):
                await side.allow(preempt=True)
            host, port = await dest.listen("migrate-incoming")
            told: list[str] = []
            await source.switch_over(
                f"tcp:{host}:{port}", 0, lambda: told.append(source.states[-1])
            )
            await dest.reaches("postcopy-active")
            first, last = [await dest.address_of(NamedPage("b", index)) for index in (0, 511)]
            assert last - first == 511 * 4096
            assert await dest.touch(last)
            for side in (source, dest):
                await side.reaches("completed")
                assert await side.state() == "completed"
            assert differing_bytes(source.memory, dest.memory) == 0
            assert (told[0], len(told)) == ("active", 2)


async def test_a_block_that_is_not_there_is_told() -> None:
    """A page of a RAMBlock that the guest has not is nowhere."""
    need_dest()
    with nothing_left(), bounded():
        async with two_sides(GUEST, 0, SPEC, SPEC) as (_, dest, _):
            with pytest.raises(MigrationError, match="there is no RAMBlock c"):
                await dest.address_of(NamedPage("c", 0))
            assert not await dest.touch(8)


async def test_a_killed_qemu_is_told_and_the_other_goes_on() -> None:
    """Who asks it for anything hears how it has ended, and so does who waits for it."""
    need_dest()
    with nothing_left(), bounded():
        async with two_sides(GUEST, 0, SPEC, SPEC) as (source, dest, nursery):
            heard: list[str] = []

            async def wait() -> None:
                with pytest.raises(MigrationError) as raised:
                    await dest.reaches("completed")
                heard.append(str(raised.value))

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(dest.pid, signal.SIGKILL)
            while not heard:  # noqa: ASYNC110 - until it has ended
                await trio.sleep(0.01)
            assert heard == ["QEMU was killed by SIGKILL"]
            assert await dest.state() == "QEMU was killed by SIGKILL"
            with pytest.raises(MigrationError, match="SIGKILL"):
                await dest.call("query-migrate")
            assert await source.state() == "none"
