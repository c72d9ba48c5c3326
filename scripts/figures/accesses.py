"""Makes the trace that policies are compared on, in the format of `guest.trace`."""

from __future__ import annotations

import random
from pathlib import Path

from protocol.geometry import Geometry


def write_trace(path: Path, geometry: Geometry, vcpu_count: int, seed: int) -> None:
    """Write a trace in which each vCPU reads one target page of every page, in an order of its own.

    As long as pages are missing, a vCPU that makes its accesses without pause faults without pause.

    Args:
        path: The file to write.
        geometry: The guest's blocks.
        vcpu_count: How many vCPUs there are.
        seed: The same seed gives the same trace.
    """
    chance = random.Random(seed)
    lines = [f"# every page once for each of {vcpu_count} vCPUs, seed {seed}\n"]
    pages = [
        (block.name, page, block.target_pages_per_page)
        for block in geometry.blocks
        for page in range(block.page_count)
    ]
    for vcpu in range(vcpu_count):
        chance.shuffle(pages)
        lines += [
            f"{vcpu} {name} {page}+{chance.randrange(target_pages)} r\n"
            for name, page, target_pages in pages
        ]
    path.write_text("".join(lines), encoding="utf-8")
