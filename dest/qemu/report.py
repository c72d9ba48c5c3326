"""The report of a migration out of QEMU: the usual one, without what this side cannot know.

QEMU tells its own side with `query-migrate`.  What only a source knows, and what this one does not
say on the wire, is absent.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from protocol.geometry import Geometry
from protocol.report import DestPart, SourcePart, assemble

# What stands in the place of what nobody here knows, until it is left out.
_NOTHING: dict[type, object] = {str: "", int: 0, float: 0.0, bool: False}

_UNKNOWN = {
    "": ("downtime", "expected-downtime"),
    "ram": (
        "remaining", "dirty-sync-count", "precopy-bytes", "downtime-bytes", "postcopy-bytes",
    ),
    "midstream": (
        "source-backing", "dirty-log", "passes", "downtime-ms", "preemptions", "bytes-sent-twice",
    ),
    "requests": ("duplicate", "already-sent", "postponed"),
    "verified": ("mismatches", "pages", "digest-equal"),
    "cpu-seconds": ("source",),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class QemuPart:
    """What of the source can be told on this side.

    Attributes:
        machine: Its machine type.
        preempt: It used a connection of its own for urgent pages.
        total_ms: From its connection to the last page.
        setup_ms: Of that, until its memory was there to be filled.
        target_pages: How many came with their bytes, in both phases.
        zero_target_pages: How many came as zeros.
        requested_on_precopy: How many pages that were asked for the main channel completed.
        requested_on_postcopy: How many the preempt channel did.
        precopy_channel_bytes: What came over the main channel; the others likewise.
        package_bytes: The device state's size.
        recoveries: How often it came back after a break.
    """

    machine: str
    preempt: bool
    total_ms: float
    setup_ms: float
    target_pages: int
    zero_target_pages: int
    requested_on_precopy: int
    requested_on_postcopy: int
    precopy_channel_bytes: int
    postcopy_channel_bytes: int
    return_path_bytes: int
    package_bytes: int
    recoveries: int = 0


def assemble_qemu(
    status: str, qemu: QemuPart, dest: DestPart, geometry: Geometry
) -> dict[str, Any]:
    """Return the report as a JSON object.

    Args:
        status: The final state's QEMU name.
        qemu: What this side saw of the source.
        dest: What it knows of itself.
        geometry: The guest's blocks, which are named in it.
    """
    report = assemble(status, _as_source(qemu, geometry), dest)
    own = report["midstream"]
    own["peer"] = "qemu"
    own["recoveries"] = qemu.recoveries
    own["machine"] = qemu.machine
    own["device-state-bytes"] = qemu.package_bytes
    own["blocks"] = [
        {"name": block.name, "length": block.length_bytes, "page-size": block.page_bytes}
        for block in geometry.blocks
    ]
    places = {"": report, "midstream": own}
    for place, names in _UNKNOWN.items():
        table = places.get(place) or report.get(place) or own[place]
        for name in names:
            del table[name]
    return report


def _as_source(qemu: QemuPart, geometry: Geometry) -> SourcePart:
    """Return what is known of the source in the form in which a source tells it."""
    kinds = get_type_hints(SourcePart)
    values: dict[str, Any] = {
        field.name: _NOTHING.get(kinds[field.name]) for field in fields(SourcePart)
    }
    data_bytes = qemu.target_pages * 4096
    seconds = max(qemu.total_ms - qemu.setup_ms, 1e-3) / 1000
    values |= {
        "policy": "qemu-preempt" if qemu.preempt else "qemu",
        "total_time_ms": qemu.total_ms,
        "setup_time_ms": qemu.setup_ms,
        "ram_bytes": geometry.length_bytes,
        "normal_pages": qemu.target_pages,
        "duplicate_pages": qemu.zero_target_pages,
        "data_bytes": data_bytes,
        "mbps": data_bytes * 8 / seconds / 1e6,
        "page_bytes": 4096,
        "precopy_channel_bytes": qemu.precopy_channel_bytes,
        "postcopy_channel_bytes": qemu.postcopy_channel_bytes,
        "return_path_bytes": qemu.return_path_bytes,
        "requests_received": qemu.requested_on_precopy + qemu.requested_on_postcopy,
        "requests_on_precopy_channel": qemu.requested_on_precopy,
        "requests_on_postcopy_channel": qemu.requested_on_postcopy,
    }
    return SourcePart(**values)
