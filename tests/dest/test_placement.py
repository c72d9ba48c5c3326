"""Placement: what is discarded stops vCPUs, in a map or in the kernel, until it is placed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
import trio

from dest.placement import Placement, SimulatedPlacement, UserfaultPlacement, make_placement
from guest import services
from guest.handle import GuestHandle, open_guest
from guest.interface import Touched, Woke
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from protocol.errors import GuestFailed
from protocol.geometry import TARGET_PAGE_BYTES, Span
from tests.bounds import bounded
from tests.guests import HUGE, SEED, fake_guest, patterned_memory, small_geometry

PER_PAGE = HUGE // TARGET_PAGE_BYTES


async def test_every_page_can_be_touched_at_first() -> None:
    """In precopy nothing is missing."""
    with fake_guest(small_geometry()) as guest:
        placement = SimulatedPlacement(small_geometry(), guest.handle)
        assert placement.name == "simulated"
        assert guest.board.present.all()


async def test_what_is_discarded_is_absent_until_it_is_placed() -> None:
    """Exactly the target pages of a stretch change, in its own block."""
    geometry = small_geometry()
    with fake_guest(geometry) as guest:
        placement = SimulatedPlacement(geometry, guest.handle)
        placement.discard(Span(0, HUGE, 2 * HUGE))
        placement.discard(Span(1, 3 * TARGET_PAGE_BYTES, 5 * TARGET_PAGE_BYTES))
        await placement.settle()
        rom = geometry.target_page_bases[1]
        absent = [*range(PER_PAGE, 3 * PER_PAGE), *range(rom + 3, rom + 8)]
        assert np.flatnonzero(guest.board.present == 0).tolist() == absent
        placement.place(Span(0, HUGE, HUGE))
        placement.place(Span(1, 4 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
        absent = [*range(2 * PER_PAGE, 3 * PER_PAGE), rom + 3, *range(rom + 5, rom + 8)]
        assert np.flatnonzero(guest.board.present == 0).tolist() == absent


async def test_a_guest_without_the_kernel_gets_the_map() -> None:
    """What the guest was started for decides."""
    with patterned_memory(small_geometry()) as memory, fake_guest(memory.geometry) as guest:
        assert make_placement(memory, guest.handle).name == "simulated"


class Rig:
    """A guest whose vCPUs the kernel stops, and its placement."""

    def __init__(self, memory: GuestMemory, guest: GuestHandle) -> None:
        """Take both."""
        self.memory = memory
        self.guest = guest
        self.placement: Placement = make_placement(memory, guest)
        assert isinstance(self.placement, UserfaultPlacement)
        self.bases = memory.geometry.target_page_bases

    async def discard(self, *spans: Span) -> None:
        """Discard stretches and let the guest run."""
        for span in spans:
            self.placement.discard(span)
        await self.placement.settle()
        await self.guest.run()

    async def faults(self, count: int) -> list[tuple[int, int]]:
        """Return the next faults."""
        faults: list[tuple[int, int]] = []
        while len(faults) < count:
            await self.placement.wait_faults()
            faults += self.placement.take_faults()
        return faults

    async def touched(self, count: int) -> list[int]:
        """Return the pages that the guest says next that it has touched, sorted."""
        pages: list[int] = []
        while len(pages) < count:
            event = await self.guest.receive()
            if isinstance(event, Touched):
                pages.append(event.flat_page)
        return sorted(pages)

    async def mismatches(self) -> int:
        """Return how many reads of all vCPUs found something wrong."""
        return sum(counters.mismatches for counters in (await self.guest.pause()).counters)


@asynccontextmanager
async def make_rig(vcpu_count: int = 4) -> AsyncIterator[Rig]:
    """Start a scripted guest over patterned memory; skip where the kernel stops nobody."""
    with bounded(), patterned_memory(small_geometry()) as memory:
        spec = ProgramSpec("scripted", vcpu_count, seed=SEED)
        async with open_guest(memory, spec, services.USERFAULT) as guest:
            if guest.service.reason:
                pytest.skip(guest.service.reason)
            yield Rig(memory, guest)


async def test_what_is_not_discarded_is_touched_without_a_fault() -> None:
    """The kernel stops nobody at pages that are there, whichever vCPU touches them."""
    async with make_rig() as rig:
        await rig.discard(Span(0, HUGE, HUGE))
        pages = [0, 2 * PER_PAGE, rig.bases[1] + 31]
        for vcpu, page in enumerate(pages):
            await rig.guest.touch(vcpu, page)
        assert await rig.touched(3) == sorted(pages)
        assert rig.placement.take_faults() == []
        assert await rig.mismatches() == 0


async def test_a_fault_before_the_first_byte_waits_for_it() -> None:
    """A vCPU that touches what is discarded is told of, and reads the bytes that came after."""
    async with make_rig() as rig:
        page = Span(0, HUGE, HUGE)
        held = bytes(rig.memory.views[0][HUGE : 2 * HUGE])
        rig.memory.views[0][HUGE : 2 * HUGE] = bytes(HUGE)
        await rig.discard(page)
        await rig.guest.touch(2, PER_PAGE + 17)
        assert await rig.faults(1) == [(2, PER_PAGE + 17)]
        rig.memory.views[0][HUGE : 2 * HUGE] = held
        rig.placement.place(page)
        woke = await rig.guest.receive()
        assert isinstance(woke, Woke)
        assert (woke.vcpu, woke.flat_page) == (2, PER_PAGE + 17)
        assert await rig.touched(1) == [PER_PAGE + 17]
        assert await rig.mismatches() == 0


@pytest.mark.parametrize("spread", [1, 0], ids=["64 pages", "one page"])
async def test_a_storm_of_faults_leaves_nobody_asleep(spread: int) -> None:
    """64 vCPUs that fault at once, on one page or on as many, all wake and read what is right."""
    async with make_rig(64) as rig:
        await rig.discard(Span(0, 0, HUGE))
        for vcpu in range(64):
            await rig.guest.touch(vcpu, vcpu * spread)
        faults = await rig.faults(64)
        assert sorted(faults) == [(vcpu, vcpu * spread) for vcpu in range(64)]
        for flat in sorted({flat for _, flat in faults}, reverse=True):
            rig.placement.place(Span(0, flat * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
        assert await rig.touched(64) == sorted(flat for _, flat in faults)
        assert await rig.mismatches() == 0


async def test_a_page_that_is_placed_twice_is_placed() -> None:
    """To place what is there changes nothing, and leaves nobody asleep."""
    async with make_rig() as rig:
        await rig.discard(Span(0, 0, HUGE))
        await rig.guest.touch(0, 5)
        await rig.faults(1)
        for _ in range(2):
            rig.placement.place(Span(0, 0, HUGE))
        assert await rig.touched(1) == [5]
        assert await rig.mismatches() == 0


async def test_a_lost_wake_up_is_made_good() -> None:
    """A vCPU whose page is mapped, and whom nobody has woken, runs when it is released."""
    async with make_rig() as rig:
        await rig.discard(Span(0, 0, HUGE))
        await rig.guest.touch(0, 5)
        await rig.faults(1)
        service = rig.guest.service
        assert service.userfaultfd is not None
        service.userfaultfd.map_pages(service.addresses[0], HUGE, TARGET_PAGE_BYTES, wakes=False)
        with trio.move_on_after(0.05) as scope:
            await rig.guest.receive()
        assert scope.cancelled_caught
        rig.placement.release(0, Span(0, 5 * TARGET_PAGE_BYTES, HUGE - 5 * TARGET_PAGE_BYTES))
        assert await rig.touched(1) == [5]


async def test_a_page_that_is_whole_and_not_mapped_is_mapped_on_from_there() -> None:
    """A vCPU that is stopped at what needs not come is released with all that follows."""
    async with make_rig() as rig:
        await rig.discard(Span(0, 0, HUGE))
        await rig.guest.touch(0, 5)
        await rig.faults(1)
        rig.placement.release(0, Span(0, 5 * TARGET_PAGE_BYTES, HUGE - 5 * TARGET_PAGE_BYTES))
        await rig.guest.touch(1, PER_PAGE - 1)
        assert await rig.touched(2) == [5, PER_PAGE - 1]
        await rig.guest.touch(2, 4)
        assert await rig.faults(1) == [(2, 4)]


async def test_who_is_stopped_keeps_no_other_thread() -> None:
    """While one vCPU stands at a missing page another one works: nobody waits with the GIL held."""
    async with make_rig() as rig:
        await rig.discard(Span(0, 0, HUGE))
        await rig.guest.touch(0, 5)
        await rig.faults(1)
        for flat in range(PER_PAGE, PER_PAGE + 20):
            await rig.guest.touch(1, flat)
        assert await rig.touched(20) == list(range(PER_PAGE, PER_PAGE + 20))


async def test_at_the_end_everybody_runs() -> None:
    """When placement has ended, who was stopped wakes and nobody is stopped again."""
    async with make_rig() as rig:
        await rig.discard(Span(0, 0, 2 * HUGE))
        await rig.guest.touch(0, 5)
        await rig.faults(1)
        await rig.placement.finish()
        await rig.guest.touch(1, PER_PAGE)
        assert await rig.touched(2) == [5, PER_PAGE]
        assert await rig.mismatches() == 0


async def test_nobody_needs_a_wake_up_after_the_end() -> None:
    """Who has not told yet that it runs again may be overdue when nothing is registered now."""
    async with make_rig() as rig:
        await rig.discard(Span(0, 0, HUGE))
        await rig.guest.touch(0, 5)
        await rig.faults(1)
        await rig.placement.finish()
        rig.placement.release(0, Span(0, 0, HUGE))
        assert await rig.touched(1) == [5]


async def test_a_pause_of_one_who_is_stopped_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vCPU that the kernel holds cannot park: the pause is given up and says what is missing."""
    monkeypatch.setattr("guest.handle._PAUSE_SECONDS_MAX", 0.2)
    async with make_rig() as rig:
        await rig.discard(Span(0, 0, HUGE))
        await rig.guest.touch(3, 5)
        await rig.faults(1)
        with pytest.raises(GuestFailed, match="vCPU 3 does not stop: it waits for a page"):
            await rig.guest.pause()
        rig.placement.place(Span(0, 0, HUGE))
        assert (await rig.guest.pause()).counters[3].reads_checked == 1


async def test_a_stranger_at_a_missing_page_is_an_error() -> None:
    """Only vCPUs may touch the guest mapping; another thread that does is named."""
    async with make_rig() as rig:
        await rig.discard(Span(0, 0, HUGE))
        placement = rig.placement
        assert isinstance(placement, UserfaultPlacement)
        placement._vcpus.clear()
        await rig.guest.touch(0, 5)
        with pytest.raises(GuestFailed, match="is no vCPU"):
            await rig.faults(1)


async def test_memory_that_cannot_be_mapped_names_its_block() -> None:
    """What the kernel refuses becomes one line."""
    async with make_rig() as rig:
        await rig.discard(Span(1, 0, TARGET_PAGE_BYTES))
        for length in (0, rig.memory.geometry.blocks[1].length_bytes):
            os.ftruncate(rig.memory.fds[1], length)
        with pytest.raises(GuestFailed, match="RAMBlock 'rom': cannot map 4096 bytes"):
            rig.placement.place(Span(1, 0, TARGET_PAGE_BYTES))
