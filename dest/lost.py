"""Which memory of a guest is lost, for a person and for a program.  Pure."""

from __future__ import annotations

from typing import Any

from protocol.geometry import TARGET_PAGE_BYTES
from protocol.pageset import PageSet
from protocol.units import format_bytes

SCHEMA = "midstream-missing/1"

# What a line on a terminal has room for; the file has all of them.
_RUNS_TOLD_MAX = 4


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
