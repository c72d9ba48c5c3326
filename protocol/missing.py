"""The received bitmap, inverted, as it crosses after a break: what the destination lacks.

It is told by the target page, half-arrived pages included, so that nothing that is held goes again.
A stretch of the guest of which all is there takes no byte; the others are bitmaps, deflated: the
long runs of a received map come to next to nothing.  Of the few target pages that a break left
half-received it is told beside that how many bytes are here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, Span
from protocol.limits import DISCARD_BYTES_MAX, HELD_COUNT_MAX
from protocol.messages import HeldPart, MissingMap, Standing
from protocol.pageset import PageSet

# By (block, target page), how many bytes of it are here, from its start.
HeldParts = dict[tuple[int, int], int]

_COUNT_MAX = DISCARD_BYTES_MAX * 8
# The fastest: the guest may be waiting.
_LEVEL = 1


def missing_maps(missing: PageSet) -> Iterator[tuple[MissingMap, bytes]]:
    """Yield the messages that name a set's members, each with its payload."""
    for block, first, count, bits in missing.bitmaps(_COUNT_MAX):
        payload = zlib.compress(bits, _LEVEL)
        yield MissingMap(payload_bytes=len(payload), block=block, first=first, count=count), payload


def span_of_part(key: tuple[int, int]) -> Span:
    """Return the bytes of a target page, of (block, target page)."""
    block, target_page = key
    return Span(block, target_page * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES)


def held_parts(held: HeldParts) -> Iterator[HeldPart]:
    """Yield the messages that name parts of missing target pages."""
    for (block, target_page), held_bytes in held.items():
        yield HeldPart(block=block, target_page=target_page, held_bytes=held_bytes)


class MissingReader:
    """Puts the maps of one recovery together: `add` each, then each part, then `finish`.

    Attributes:
        held: The parts.
    """

    def __init__(self, geometry: Geometry) -> None:
        """Begin with nothing missing."""
        self.held: HeldParts = {}
        self._missing = PageSet(geometry)
        self._maps_left = sum(
            -(-block.target_page_count // _COUNT_MAX) for block in geometry.blocks
        )

    def add(self, message: MissingMap, payload: bytes) -> None:
        """Add a map.

        Raises:
            RemoteProtocolError: It is none of this guest, or one too many.
        """
        if not self._maps_left:
            raise RemoteProtocolError("more maps of what is missing came than a guest has room for")
        self._maps_left -= 1
        bits_bytes = -(-message.count // 8)
        if not 0 < bits_bytes <= DISCARD_BYTES_MAX:
            raise RemoteProtocolError(f"a map of {message.count} target pages is not allowed")
        self._missing.add_packed(
            message.block, message.first, message.count, _inflate(payload, bits_bytes)
        )

    def add_part(self, message: HeldPart) -> None:
        """Add what is here of a target page that the maps named.

        Raises:
            RemoteProtocolError: They did not, or it is none of it or all, or one too many.
        """
        if len(self.held) == HELD_COUNT_MAX:
            raise RemoteProtocolError(f"more than {HELD_COUNT_MAX} target pages are held in part")
        key = message.block, message.target_page
        span = span_of_part(key)
        named = self._missing.geometry.has_span(span) and self._missing.holds_any(span)
        if not named or key in self.held or not 0 < message.held_bytes < TARGET_PAGE_BYTES:
            raise RemoteProtocolError(
                f"{message.held_bytes} bytes of target page {message.target_page} of block "
                f"{message.block} cannot be held"
            )
        self.held[key] = message.held_bytes

    def finish(self, standing: Standing) -> PageSet:
        """Return what is missing, all of it.

        Raises:
            RemoteProtocolError: It is not as much as the destination says.
        """
        if len(self._missing) != standing.target_pages:
            raise RemoteProtocolError(
                f"the maps name {len(self._missing)} target pages, {standing.target_pages} "
                "are said to be missing"
            )
        return self._missing


def _inflate(payload: bytes, length_bytes: int) -> bytes:
    """Return inflated bytes, never more than are due."""
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(payload, length_bytes)
    except zlib.error as error:
        raise RemoteProtocolError("a map of what is missing is not deflated") from error
    if len(data) != length_bytes or not inflater.eof or inflater.unused_data:
        raise RemoteProtocolError(f"a map of what is missing is not {length_bytes} bytes long")
    return data
