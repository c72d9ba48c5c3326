"""An assembly with a small guest, and what comes for it."""

from collections.abc import Iterable

import numpy as np

from dest.assembly import Assembly
from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from protocol.policy import preset
from protocol.runs import Stretch

BASE, HUGE = TARGET_PAGE_BYTES, 2 << 20
PRECOPY, POSTCOPY = Channel.PRECOPY, Channel.POSTCOPY

# Blocks 0 and 1 have huge pages, block 2 has base pages.
GUEST = Geometry(
    (
        RamBlock("one", 4 * HUGE, HUGE),
        RamBlock("two", 2 * HUGE, HUGE),
        RamBlock("base", 40 * BASE, BASE),
    )
)
HALF = HUGE // 2


def page_span(index: int, block: int = 0) -> Span:
    """Return the bytes of a huge page."""
    return Span(block, index * HUGE, HUGE)


def base_pages(first: int, count: int) -> Span:
    """Return the bytes of a run of base pages."""
    return Span(2, first * BASE, count * BASE)


def discard(assembly: Assembly, span: Span) -> None:
    """Have a span discarded."""
    first, count = span.target_pages.start, span.length // BASE
    bits = np.packbits(np.ones(count, dtype=np.bool_), bitorder="little").tobytes()
    assembly.discard(span.block, first, count, bits)


def in_postcopy(stale: Iterable[Span] | None = None, policy: str = "ordered") -> Assembly:
    """Return an assembly in postcopy that misses some spans, or the whole guest."""
    assembly = Assembly(GUEST, preset(policy))
    if stale is None:
        stale = [Span(number, 0, block.length_bytes) for number, block in enumerate(GUEST.blocks)]
    for span in stale:
        discard(assembly, span)
    assembly.start_postcopy()
    return assembly


def receive(assembly: Assembly, channel: Channel, span: Span) -> Stretch | None:
    """Have a whole frame come; return what is whole then."""
    assembly.begin(channel, span)
    assembly.progress(channel, span.length)
    return assembly.end(channel)


def incomplete(assembly: Assembly) -> list[Span]:
    """Return the stretches of all blocks that are not whole."""
    return [span for block in range(len(GUEST.blocks)) for span in assembly.incomplete_pages(block)]
