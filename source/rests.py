"""Sends what is left of the target pages in which a break cut frames off."""

from __future__ import annotations

from guest.memory import GuestMemory
from protocol import events
from protocol.events import Emit
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.messages import PageRest
from protocol.missing import HeldParts
from protocol.pageset import PageSet
from source.channel import OutChannel


async def send_rests(
    rests: HeldParts, memory: GuestMemory, remaining: PageSet, out: OutChannel, emit: Emit
) -> None:
    """Send of each target page what the destination lacks; nothing else may be under way yet.

    Args:
        rests: By target page, how many bytes are there; each is taken out when its rest begins to
            go.
        memory: The guest's.
        remaining: What goes behind them.
        out: Where they go.
        emit: Takes events: a page may be whole with them.

    Raises:
        ConnectionLost: The connection broke.
    """
    while rests:
        (block, target_page), held_bytes = rests.popitem()
        end = (target_page + 1) * TARGET_PAGE_BYTES
        rest = memory.views[block][end - TARGET_PAGE_BYTES + held_bytes : end]
        offset = end - len(rest)
        await out.send(PageRest(payload_bytes=len(rest), block=block, offset=offset), rest)
        out.target_pages_sent += 1
        out.data_bytes_sent += len(rest)
        page = memory.geometry.page_of(block, target_page)
        also = [memory.geometry.page_of(*key) for key in rests]
        if page not in also and not remaining.holds_page(page):
            emit(
                events.PageSent(
                    block=block, page=page.index, channel=out.name.value, urgent=False,
                    boosted=False, pages=1, channel_bytes=out.bytes_carried,
                    remaining_bytes=remaining.length_bytes,
                )
            )  # fmt: skip
