"""Memory that need not be fetched first: on a virtual machine what was freed goes back to its host.

To touch it again takes milliseconds a huge page, and which run of a benchmark pays for that is a
matter of luck.
"""

from __future__ import annotations

import time

from guest.memory import GuestMemory
from guest.slices import finish
from protocol.geometry import Geometry, RamBlock

_PAGE_BYTES = 2 << 20
# Who else is busy takes some of it: of a guest that is not too large a quarter of both copies.
_MARGIN_BYTES_MAX = 256 << 20
# What was freed before has gone to the host two seconds later (mm/page_reporting.c), so that for
# the next two seconds nothing goes.
_SETTLE_SECONDS = 2.5


def warm_memory(guest_bytes: int) -> None:
    """See to it that both copies of a guest that is made next need not be fetched from a host.

    Args:
        guest_bytes: Its memory.

    Raises:
        GuestFailed: There is not so much.
    """
    # The memory of a guest itself: what is freed of another kind is not what the next one gets.
    margin_bytes = min(guest_bytes // 2, _MARGIN_BYTES_MAX) // _PAGE_BYTES * _PAGE_BYTES
    block = RamBlock("warm", 2 * guest_bytes + margin_bytes, _PAGE_BYTES)
    with GuestMemory.create(Geometry((block,))) as memory:
        finish(memory.populate())
        time.sleep(_SETTLE_SECONDS)
