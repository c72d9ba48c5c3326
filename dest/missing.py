"""Tells which pages are missing when the guest begins to run here, in a bitmap for who watches."""

from __future__ import annotations

import base64

import numpy as np

from dest.assembly import Assembly
from protocol import events
from protocol.events import Emit
from protocol.geometry import Geometry

# An event is a line of some kilobytes at most: of larger blocks, a bit stands for several pages.
MISSING_BITS_MAX = 64 * 1024


def tell_missing(emit: Emit, geometry: Geometry, assembly: Assembly) -> None:
    """Tell of every block which pages are not whole; only in postcopy.

    Bits are the lowest first, in base64; one is set where any page that it stands for has anything
    missing.
    """
    for index, block in enumerate(geometry.blocks):
        units = assembly.missing_units(index)
        pages_per_bit = -(-block.page_count // MISSING_BITS_MAX)
        step = len(units) // block.page_count * pages_per_bit
        flags = np.logical_or.reduceat(units, np.arange(0, len(units), step))
        bits = base64.b64encode(np.packbits(flags, bitorder="little").tobytes()).decode()
        emit(events.Missing(block=index, pages_per_bit=pages_per_bit, bits=bits))
