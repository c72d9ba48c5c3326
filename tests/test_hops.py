"""A virtual machine goes on from each migration's destination as the next migration's source."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from guest.handle import GuestHandle, open_guest
from guest.interface import GuestSnapshot
from guest.kvm.record import unpack_machine_state
from guest.memory import GuestMemory
from guest.pattern import Pattern
from guest.programs import Program
from guest.replay import replay
from guest.slices import finish
from guest.spec import KVM, ProgramSpec
from guest.states import VcpuState
from tests.canaries import areas, expect_patterns, plant
from tests.guests import MIB, SEED
from tests.pairs import GEOMETRY, Pair

# MIDSTREAM_HOPS=30 pytest tests/test_hops.py
HOPS = int(os.environ.get("MIDSTREAM_HOPS", "4"))
HOPS_MAX = HOPS + 100
INSTRUCTIONS_MIN = 10

BUSY = ProgramSpec("zipf", 4, write_ratio=0.5, seed=SEED)


class Hopper:
    """The guest between two migrations, and what was seen of it in all of them.

    Each migration has a source and a destination with a guest process each, which take the guest
    over as sessions do.

    Attributes:
        memory: The bytes of each block, where it stands; none before the first migration.
        states: Of its vCPUs there.
        end: Memory and states as the last migration left them: between two accesses.
        instructions: Before which ones vCPUs stood as they crossed, or as a migration was over.
        held: What XSAVE knew of each vCPU at first.
    """

    def __init__(self) -> None:
        """Begin with a guest that has not run."""
        self.memory: list[bytes] = []
        self.states: tuple[VcpuState, ...] = ()
        self.end: tuple[list[bytes], tuple[VcpuState, ...]] = ([], ())
        self.instructions: set[bytes] = set()
        self.held: list[tuple[bytes, bytes]] = []
        self.crossing: tuple[VcpuState, ...] = ()

    @asynccontextmanager
    async def at_source(self, memory: GuestMemory, *rest: Any) -> AsyncIterator[GuestHandle]:  # noqa: ANN401
        """Stand in for the source's `open_guest`: the guest is as it was, where it was."""
        async with open_guest(memory, *rest) as guest:
            if not self.states:
                await guest.run()
                self.states = plant((await guest.pause(anywhere=True)).states)
            else:
                for view, held in zip(memory.views, self.memory, strict=True):
                    view[:] = held
            await guest.load(self.states)
            pause = guest.pause

            async def pause_and_look(*, anywhere: bool = False) -> GuestSnapshot:
                snapshot = await pause(anywhere=anywhere)
                self._look_at(snapshot.states)
                self.crossing = snapshot.states
                return snapshot

            guest.pause = pause_and_look  # type: ignore[method-assign]
            yield guest

    @asynccontextmanager
    async def at_dest(self, memory: GuestMemory, *rest: Any) -> AsyncIterator[GuestHandle]:  # noqa: ANN401
        """Stand in for the destination's: the guest runs on when the migration is over."""
        async with open_guest(memory, *rest) as guest:
            load = guest.load

            async def look_and_load(states: tuple[VcpuState, ...]) -> None:
                assert states == self.crossing
                await load(states)

            guest.load = look_and_load  # type: ignore[method-assign]
            yield guest
            states = (await guest.pause()).states
            self.end = ([bytes(view) for view in memory.views], states)
            await guest.run()
            with trio.fail_after(10):
                # What another process did, no event tells.
                while any(  # noqa: ASYNC110
                    guest.counters(each.vcpu).step == each.step for each in states
                ):
                    await trio.sleep(0.001)
            snapshot = await guest.pause(anywhere=True)
            self._look_at(snapshot.states)
            assert not any(counters.mismatches for counters in snapshot.counters)
            self.states = snapshot.states
            self.memory = [bytes(view) for view in memory.views]

    def _look_at(self, states: tuple[VcpuState, ...]) -> None:
        """Check that vCPUs have all that they had at first, and note where they stand."""
        self.held = self.held or areas(states)
        assert areas(states) == self.held
        for state in states:
            regs = unpack_machine_state(state.vcpu, state.machine).regs
            self.instructions.add(regs[16 * 8 : 17 * 8])

    def expect_as_replayed(self) -> None:
        """Check all memory against what the program makes of it, from the very beginning."""
        seen, states = self.end
        start = tuple(VcpuState(state.vcpu, 0) for state in states)
        with GuestMemory.create(GEOMETRY, "base") as memory:
            finish(Pattern(BUSY.seed).fill(memory))
            finish(replay(memory, Program(BUSY, GEOMETRY), start, states))
            assert [bytes(view) for view in memory.views] == seen


@pytest.mark.usefixtures("kvm")
async def test_a_guest_hops_from_migration_to_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ends with equal digests; registers no program touches are whole at every stop."""
    hopper = Hopper()
    monkeypatch.setattr("source.session.open_guest", hopper.at_source)
    monkeypatch.setattr("dest.session.open_guest", hopper.at_dest)
    hop = 0
    # Where a vCPU is met is the machine's to say: on a busy one mostly in few places.
    while hop < HOPS or len(hopper.instructions) < INSTRUCTIONS_MIN:
        assert hop < HOPS_MAX, f"stopped at {len(hopper.instructions)} instructions alone"
        pair = Pair(spec=BUSY, guest=KVM, postcopy_bandwidth=128 * MIB)
        await pair.migrate()
        report = pair.expect_success()
        assert report["midstream"]["guest"] == KVM
        assert report["midstream"]["faults"]["count"] > 0
        hop += 1
    expect_patterns(hopper.held)
    hopper.expect_as_replayed()
