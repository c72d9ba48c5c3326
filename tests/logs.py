"""Real guests with a dirty log, and programs that write where a test wants them to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext

import numpy as np
import pytest

from guest import services
from guest.dirty_log import DirtyLog
from guest.handle import GuestHandle, open_guest
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from guest.slices import finish
from guest.spec import KVM, PYTHON
from guest.trace import Trace
from protocol.errors import GuestFailed
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock
from tests.huge_pages import huge_pages
from tests.machines import skip_without

HUGE = 2 << 20
# The last block's pages are no multiple of what a word of a bitmap has.
GUEST = Geometry((RamBlock("ram", 48 << 20, HUGE), RamBlock("rom", 65 << 12, TARGET_PAGE_BYTES)))
PAGE_COUNT = GUEST.target_page_count


# Every log there is, with the kinds of guests that can have it.
LOGS = pytest.mark.parametrize(
    ("name", "kind"),
    [("kernel", PYTHON), ("software", PYTHON), ("kernel", KVM), ("kvm", KVM)],
)


@asynccontextmanager
async def logged(
    name: str, spec: ProgramSpec, backing: str = "base", geometry: Geometry = GUEST
) -> AsyncIterator[tuple[GuestMemory, GuestHandle, DirtyLog]]:
    """Start a guest with a log; it may touch everything, and stands still.

    Args:
        name: The log's, which must be it; where it cannot be had the test is skipped.
        spec: What the guest does.
        backing: What its memory is of.
        geometry: Its blocks.
    """
    skip_without(spec.kind)
    service = services.log_service(name, spec.kind)
    with _memory(geometry, backing) as memory:
        finish(memory.populate())
        async with open_guest(memory, spec, service) as guest:
            log, reason = guest.choose_dirty_log()
            if reason:
                pytest.skip(reason)
            assert log.name == name
            guest.board.set_present(slice(None))
            yield memory, guest, log


def writes_to(pages: list[int], kind: str = PYTHON) -> ProgramSpec:
    """Return a program of one vCPU that writes to flat target pages, and then does nothing."""
    count = len(pages)
    trace = Trace(np.zeros(count, np.uint8), np.array(pages, np.uint64), np.ones(count, np.bool_))
    # What lies there at first is nobody's business here.
    return ProgramSpec("trace", image=True, trace=trace, kind=kind)


@contextmanager
def _memory(geometry: Geometry, backing: str) -> Iterator[GuestMemory]:
    pages = sum(block.page_count for block in geometry.blocks if block.page_bytes == HUGE)
    with huge_pages(pages) if backing == "hugetlb" else nullcontext():
        try:
            memory = GuestMemory.create(geometry, backing)
        except GuestFailed as error:
            pytest.skip(str(error))
        with memory:
            yield memory
