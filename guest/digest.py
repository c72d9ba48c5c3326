"""A digest of guest memory, fine enough to say where two guests differ."""

from __future__ import annotations

import numpy as np
import xxhash

from guest.memory import GuestMemory
from guest.slices import Job
from protocol.errors import RemoteProtocolError
from protocol.geometry import Geometry, RamBlock, Span
from protocol.limits import CLOSING_BYTES_MAX, GUEST_BYTES_MAX

# A huge page: what a difference then names is what was placed at once.
STRETCH_BYTES = 2 << 20
HASH_BYTES = 16
assert GUEST_BYTES_MAX // STRETCH_BYTES * HASH_BYTES <= CLOSING_BYTES_MAX


def digest(memory: GuestMemory) -> Job[list[bytes]]:
    """Hash every stretch of 2 MiB (a block's last may be shorter), one a slice; yields bytes.

    Returns:
        A job that returns, for each block, the xxh3_128 hashes of its stretches, concatenated.
    """
    hashes = []
    for block in range(len(memory.views)):
        own = bytearray()
        for start in range(0, len(memory.views[block]), STRETCH_BYTES):
            with memory.views[block][start : start + STRETCH_BYTES] as stretch:
                own += xxhash.xxh3_128_digest(stretch)
                length_bytes = len(stretch)
            yield length_bytes
        hashes.append(bytes(own))
    return hashes


def differing_stretches(geometry: Geometry, ours: list[bytes], theirs: list[bytes]) -> list[Span]:
    """Return the stretches whose hashes differ, in order.

    Args:
        geometry: The guest's, the same on both sides.
        ours: What `digest` returned here.
        theirs: What the peer says that it returned there.

    Raises:
        RemoteProtocolError: `theirs` is no digest of such a guest.
    """
    lengths = [_stretch_count(block) * HASH_BYTES for block in geometry.blocks]
    if [len(hashes) for hashes in theirs] != lengths:
        raise RemoteProtocolError("the peer's digest is not one of this guest")
    differing = []
    for index, block in enumerate(geometry.blocks):
        kind = np.dtype((np.void, HASH_BYTES))
        unequal = np.frombuffer(ours[index], kind) != np.frombuffer(theirs[index], kind)
        for stretch in np.flatnonzero(unequal).tolist():
            start = stretch * STRETCH_BYTES
            length_bytes = min(STRETCH_BYTES, block.length_bytes - start)
            differing.append(Span(index, start, length_bytes))
    return differing


def _stretch_count(block: RamBlock) -> int:
    return -(-block.length_bytes // STRETCH_BYTES)
