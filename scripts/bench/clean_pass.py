"""What a pass costs the source when the guest has written nothing: a question to the kernel."""

from __future__ import annotations

import time
from functools import partial

from guest import services
from guest.handle import open_guest
from guest.memory import GuestMemory
from guest.slices import in_thread
from guest.spec import ProgramSpec
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock
from scripts.bench.figure import Figure, Target
from scripts.bench.plan import LeftOut, Plan
from scripts.runtime.looping import run_until_signalled

SECTION = "clean-pass"

_GUEST_BYTES = 4 << 30
_TARGET = Target(50, of_ratio=False)
_PAGE_SIZES = {"2MiB": 2 << 20, "4KiB": TARGET_PAGE_BYTES}


def measure_clean_pass(plan: Plan, guest_bytes: int = _GUEST_BYTES) -> list[Figure]:
    """Have a guest that stands still looked at, so often, for each page size.

    Raises:
        LeftOut: This kernel keeps no dirty log.
        GuestFailed: There is not so much memory.
    """
    figures = []
    for name, page_bytes in _PAGE_SIZES.items():
        plan.say(f"{SECTION}: {name} pages")
        geometry = Geometry((RamBlock("ram", guest_bytes, page_bytes),))
        times_ms, backing = run_until_signalled(partial(_measure, geometry, plan.runs))
        title = f"CPU for {guest_bytes >> 20} MiB of {name} pages ({backing})"
        figures.append(Figure(SECTION, title, "ms", times_ms, target=_TARGET))
    return figures


async def _measure(geometry: Geometry, runs: int) -> tuple[tuple[float, ...], str]:
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
