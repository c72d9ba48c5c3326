"""The work of a source alone, without a migration: its decisions, and a pass over a clean guest.

With 64 GiB of 4 KiB pages it is told how many decisions a second the scheduler makes, and how many
bytes it holds for a page.  A decision is what is sent next, made and noted as sent (`next_chunk`,
`chunk_sent`).  Time is processor time: nothing here waits.

A pass over a guest that has written nothing is a question to the kernel.
"""

from __future__ import annotations

import time
import tracemalloc
from functools import partial

import numpy as np

from guest import services
from guest.handle import open_guest
from guest.memory import GuestMemory
from guest.slices import in_thread
from guest.spec import ProgramSpec
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock
from protocol.pageset import PageSet
from protocol.policy import preset
from protocol.units import parse_bytes
from scripts.bench.figure import Figure, LeftOut, Plan, Target
from scripts.runtime.looping import run_until_signalled
from source.scheduler import Scheduler

SCHEDULER = "scheduler"

_GUEST_BYTES = 64 << 30
_DECISIONS, _QUICK_DECISIONS = 100_000, 20_000
_SCATTERED_SHARE = 0.25

_RATE = Target(100_000, at_least=True, of_ratio=False)
_BYTES_A_PAGE = Target(8, of_ratio=False)

_MEASURES = {
    "decisions, all pages to be sent": "background",
    "decisions, each for a page request": "requests",
    "decisions/s, every 4th page dirty": "scattered",
}


def measure_scheduler(plan: Plan, guest_bytes: int = _GUEST_BYTES) -> list[Figure]:
    """Measure it with the default policy; every run decides about the same guest anew."""
    bench = _Bench(guest_bytes, parse_bytes(plan.chunk_size))
    count = _QUICK_DECISIONS if plan.quick else _DECISIONS
    rates: dict[str, list[float]] = {name: [] for name in _MEASURES}
    for number in range(1, plan.runs + 1):
        plan.say(f"{SCHEDULER}: run {number} of {plan.runs}")
        for name, kind in _MEASURES.items():
            rates[name].append(bench.decisions_a_second(kind, count))
    figures = [
        Figure(SCHEDULER, name, "/s", tuple(values), target=_RATE) for name, values in rates.items()
    ]
    note = f"tracemalloc, {bench.page_count:,} pages, all to be sent"
    held = bench.bytes_a_page()
    return [
        *figures,
        Figure(SCHEDULER, "memory per page", "B", (held,), target=_BYTES_A_PAGE, note=note),
    ]


class _Bench:
    """Makes schedulers for a guest of one size, and has them decide."""

    def __init__(self, guest_bytes: int, chunk_bytes: int) -> None:
        self._geometry = Geometry((RamBlock("ram", guest_bytes, TARGET_PAGE_BYTES),))
        self._chunk_bytes = chunk_bytes
        self._all = PageSet(self._geometry)
        self._all.fill()
        chosen = np.random.default_rng(0).random(self.page_count) < _SCATTERED_SHARE
        self._scattered = PageSet(self._geometry)
        self._scattered.add_flat(np.flatnonzero(chosen))

    @property
    def page_count(self) -> int:
        """How many pages the guest has."""
        return self._geometry.page_count

    def decisions_a_second(self, kind: str, count: int) -> float:
        """Return how many decisions a second of processor time makes."""
        scheduler = self._scheduler(self._scattered if kind == "scattered" else self._all)
        asked = np.random.default_rng(1).integers(self.page_count, size=count).tolist()
        made = 0
        started = time.process_time()
        for page in asked:
            if kind == "requests":
                scheduler.request(PageId(0, page), 0, 0)
            if scheduler.next_chunk() is None:
                break
            scheduler.chunk_sent()
            scheduler.take_notices()
            made += 1
        return made / (time.process_time() - started)

    def bytes_a_page(self) -> float:
        """Return what a scheduler holds for each page that it has to send."""
        tracemalloc.start()
        try:
            scheduler = self._scheduler(self._all)
            held_bytes = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert scheduler.remaining_bytes == self._all.length_bytes
        return held_bytes / self.page_count

    def _scheduler(self, pages: PageSet) -> Scheduler:
        scheduler = Scheduler(self._geometry, preset("ordered"), self._chunk_bytes)
        scheduler.add(pages, postcopy=True)
        return scheduler


CLEAN_PASS = "clean-pass"

_CLEAN_GUEST_BYTES = 4 << 30
_CLEAN_PASS_MS = Target(50, of_ratio=False)
_PAGE_SIZES = {"2MiB": 2 << 20, "4KiB": TARGET_PAGE_BYTES}


def measure_clean_pass(plan: Plan, guest_bytes: int = _CLEAN_GUEST_BYTES) -> list[Figure]:
    """Measure a pass over a guest that stands still, so often, for each page size.

    Raises:
        LeftOut: This kernel keeps no dirty log.
        GuestFailed: There is not so much memory.
    """
    figures = []
    for name, page_bytes in _PAGE_SIZES.items():
        plan.say(f"{CLEAN_PASS}: {name} pages")
        geometry = Geometry((RamBlock("ram", guest_bytes, page_bytes),))
        times_ms, backing = run_until_signalled(partial(_clean_pass_ms, geometry, plan.runs))
        title = f"CPU for {guest_bytes >> 20} MiB of {name} pages ({backing})"
        figures.append(Figure(CLEAN_PASS, title, "ms", times_ms, target=_CLEAN_PASS_MS))
    return figures


async def _clean_pass_ms(geometry: Geometry, runs: int) -> tuple[tuple[float, ...], str]:
    with GuestMemory.create(geometry) as memory:
        await in_thread(memory.populate())
        # Nobody tells its vCPU to touch anything.
        spec = ProgramSpec("scripted")
        async with open_guest(memory, spec, services.DIRTY_LOG) as guest:
            dirty_log, reason = guest.choose_dirty_log()
            if reason:
                raise LeftOut(f"the kernel keeps no dirty log: {reason}")
            dirty_log.start()
            times_ms = []
            for _ in range(runs):
                started = time.process_time()
                assert not len(dirty_log.harvest()), "nobody has written"
                times_ms.append((time.process_time() - started) * 1000)
            dirty_log.stop()
        return tuple(times_ms), memory.backing
