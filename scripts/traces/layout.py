"""The guest that a trace takes, where nobody says: as large as the accesses reach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from guest.access_line import Access, WrongLineError
from guest.trace import Trace, read_accesses, read_trace
from protocol.geometry import Geometry, RamBlock
from protocol.limits import BLOCK_COUNT_MAX, GUEST_BYTES_MAX, VCPU_COUNT_MAX
from protocol.units import format_bytes, parse_geometry


def read_for(path: str | Path, size: str | None, page_size: str) -> tuple[Geometry, Trace]:
    """Return a trace, and the guest that it is for.

    Args:
        path: The trace.
        size: The guest's, as `--size` has it; None for as large as it must be.
        page_size: Of blocks for which `size` names none.

    Raises:
        LocalProtocolError: A size is none, or a line of the trace is wrong: "FILE:LINE: reason".
    """
    if size is not None:
        geometry = parse_geometry(size, page_size)
    else:
        # The page size is checked before a file is read for it.
        page_bytes = parse_geometry(page_size, page_size).blocks[0].page_bytes
        reach = _Reach(page_bytes)
        for _ in read_accesses(path, reach.note):
            pass
        geometry = fitting(reach.ends, page_bytes)
    return geometry, read_trace(path, geometry, VCPU_COUNT_MAX)


def fitting(ends: Mapping[str, int], page_bytes: int) -> Geometry:
    """Return the smallest guest of whole pages that has these addresses.

    Args:
        ends: For each block the first address behind all; the block without a name is `ram`.
        page_bytes: Of every block.

    Raises:
        LocalProtocolError: No guest is so large.
    """
    return Geometry(
        tuple(
            RamBlock(name or "ram", -(-max(end, 1) // page_bytes) * page_bytes, page_bytes)
            for name, end in (ends or {"": 0}).items()
        )
    )


def as_size(geometry: Geometry) -> str:
    """Return what `--size` takes for a guest, without its page sizes."""
    if [block.name for block in geometry.blocks] == ["ram"]:
        return _bytes(geometry.length_bytes)
    return ",".join(f"{block.name}={_bytes(block.length_bytes)}" for block in geometry.blocks)


def _bytes(count: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count % unit == 0:
            return f"{count // unit}{name}"
    return str(count)


class _Reach:
    """How far accesses reach in each block."""

    def __init__(self, page_bytes: int) -> None:
        self._page_bytes = page_bytes
        self.ends: dict[str, int] = {}

    def note(self, access: Access) -> None:
        name = access.block
        is_new = name not in self.ends
        if is_new and (not name or "" in self.ends) and self.ends:
            raise WrongLineError(
                "some accesses name a RAMBlock and others none: say what the guest has, with --size"
            )
        if is_new and len(self.ends) == BLOCK_COUNT_MAX:
            raise WrongLineError(f"more than {BLOCK_COUNT_MAX} RAMBlocks")
        if access.address is not None:
            end = access.address + 1
        else:
            end = (access.page + 1) * self._page_bytes
        if end > GUEST_BYTES_MAX:
            raise WrongLineError(f"it is past the {format_bytes(GUEST_BYTES_MAX)} of any guest")
        self.ends[name] = max(end, self.ends.get(name, 0))
