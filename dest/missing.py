"""Which memory of a guest is missing, in words and in data: at the switch-over, and in the end.

When the guest begins to run here, who watches is told which pages are missing, in a bitmap.  Where
the source does not come back, a line tells a person what is lost, and a map a program.  Pure.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from dest.assembly import Assembly
from protocol import events
from protocol.errors import MemoryLost, MigrationCancelled, PeerAborted, is_cancellation
from protocol.events import Emit
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.pageset import PageSet
from protocol.units import format_bytes
from protocol.whereabouts import DEST, Whereabouts

SCHEMA = "midstream-missing/1"

# An event is a line of some kilobytes at most: of larger blocks, a bit stands for several pages.
MISSING_BITS_MAX = 64 * 1024
# What a line on a terminal has room for; the file has all of them.
_RUNS_TOLD_MAX = 4


def tell_missing(emit: Emit, geometry: Geometry, assembly: Assembly) -> None:
    """Report of every block which pages are not whole; only in postcopy.

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


def describe_lost(missing: PageSet) -> str:
    """Return in a line how much is missing and where, in target pages of each block."""
    geometry = missing.geometry
    runs = [
        f"{geometry.blocks[block].name} {_range(first, count)}"
        for block in range(len(geometry.blocks))
        for first, count in missing.runs(block)
    ]
    told = ", ".join(runs[:_RUNS_TOLD_MAX])
    more = f" and {len(runs) - _RUNS_TOLD_MAX} more runs" if len(runs) > _RUNS_TOLD_MAX else ""
    lost = f"{len(missing)} target pages ({format_bytes(missing.length_bytes)})"
    return f"memory of the guest is lost: {lost}, {told}{more}"


def outcome_of_loss(
    cause: BaseException, missing: PageSet, kept: str, *, is_paused: bool
) -> BaseException:
    """Return how a failed migration is to be told, of a guest that ran here.

    Args:
        cause: Why it failed; what is no `Exception` is its user's wish.
        missing: What of its memory is not here.
        kept: What came of saving it, in words; empty if nobody wanted that.
        is_paused: The source was waited for.
    """
    cancelled = not isinstance(cause, Exception)
    reason = str(cause)
    if cancelled:
        reason = "its user waits no longer for the source" if is_paused else "cancelled by its user"
    if len(missing):
        lost = f"{reason}; {Whereabouts(DEST, describe_lost(missing))}{kept}"
        return MemoryLost(lost, cancelled=is_cancellation(cause))
    all_here = str(Whereabouts(DEST, f"all memory of the guest is here{kept}"))
    if cancelled:
        return MigrationCancelled(all_here) if kept else cause
    outcome = type(cause)(f"{reason}; {all_here}")
    if isinstance(outcome, PeerAborted):
        outcome.cancelled = is_cancellation(cause)
    return outcome


def missing_to_plain(missing: PageSet) -> dict[str, Any]:
    """Return a map of what is missing as a JSON object; runs are [first target page, count]."""
    return {
        "schema": SCHEMA,
        "target-page-bytes": TARGET_PAGE_BYTES,
        "missing-bytes": missing.length_bytes,
        "blocks": [
            {
                "name": block.name,
                "length-bytes": block.length_bytes,
                "page-bytes": block.page_bytes,
                "missing": [list(run) for run in missing.runs(index)],
            }
            for index, block in enumerate(missing.geometry.blocks)
        ],
    }


def _range(first: int, count: int) -> str:
    return f"{first}" if count == 1 else f"{first}-{first + count - 1}"
