"""The report of a migration out of QEMU: the usual one, without what this side cannot know.

QEMU tells its own side with `query-migrate`.  What only a source knows, and what this one does not
say on the wire, is absent.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.report import SCHEMA, DestPart, latencies, of_dest


@dataclass(frozen=True, kw_only=True)
class QemuPart:
    """Facts of the source that can be told on this side.

    Attributes:
        machine: Its machine type.
        preempt: It used a connection of its own for urgent pages.
        total_ms: From its connection to the last page.
        setup_ms: Of that, until its memory was there to be filled.
        target_pages: How many came with their bytes, in both phases.
        zero_target_pages: How many came as zeros.
        requested: How many of the pages that were asked for each channel completed.
        channel_bytes: What came over each channel; `return_path_bytes` what went back.
        package_bytes: The device state's size.
        recoveries: How often it came back after a break.
    """

    machine: str
    preempt: bool
    total_ms: float
    setup_ms: float
    target_pages: int
    zero_target_pages: int
    requested: Counter[Channel]
    channel_bytes: Counter[Channel]
    return_path_bytes: int
    package_bytes: int
    recoveries: int


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
    data_bytes = qemu.target_pages * TARGET_PAGE_BYTES
    seconds = max(qemu.total_ms - qemu.setup_ms, 1e-3) / 1000
    received = qemu.requested.total()
    return {
        "status": status,
        "total-time": round(qemu.total_ms),
        "setup-time": round(qemu.setup_ms),
        "ram": {
            "transferred": qemu.channel_bytes.total(),
            "total": geometry.length_bytes,
            "duplicate": qemu.zero_target_pages,
            "normal": qemu.target_pages,
            "normal-bytes": data_bytes,
            "mbps": round(data_bytes * 8 / seconds / 1e6, 3),
            "postcopy-requests": received,
            "page-size": TARGET_PAGE_BYTES,
        },
        **latencies(dest),
        "midstream": {
            "schema": SCHEMA,
            "peer": "qemu",
            "machine": qemu.machine,
            "policy": "qemu-preempt" if qemu.preempt else "qemu",
            "device-state-bytes": qemu.package_bytes,
            "blocks": [
                {"name": block.name, "length": block.length_bytes, "page-size": block.page_bytes}
                for block in geometry.blocks
            ],
            "requests": {
                "received": received,
                "on-precopy-channel": qemu.requested[Channel.PRECOPY],
                "on-postcopy-channel": qemu.requested[Channel.POSTCOPY],
            },
            "channels": {
                "precopy": qemu.channel_bytes[Channel.PRECOPY],
                "postcopy": qemu.channel_bytes[Channel.POSTCOPY],
                "return-path": qemu.return_path_bytes,
            },
            "recoveries": qemu.recoveries,
            **of_dest(dest),
            "verified": {"reads": dest.reads, "reads-unchecked": dest.reads_unchecked},
            "cpu-seconds": {"dest": round(dest.cpu_seconds, 3)},
        },
    }
