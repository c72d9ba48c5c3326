"""Where a frame's payload goes as it comes: into memory, or aside where it comes too late.  Pure.

A target page of a frame under way may be placed before its bytes are here: another copy came first,
over the other channel.  From then on not a byte of it is written to memory, for a vCPU may have
written there; what the frame brings of it is read aside.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.geometry import TARGET_PAGE_BYTES
from protocol.runs import Stretch, position_in

# The most that one recvmsg takes (UIO_MAXIOV is 1024), with one to spare.
PIECES_MAX = 1023


class Landing:
    """Places of one frame's payload, in its order.

    Attributes:
        pieces: All of them; together they are what came, wherever that is.
        left: How many bytes have not come.
    """

    def __init__(self, views: Sequence[memoryview], data: Stretch | None = None) -> None:
        """Begin with nothing come.

        Args:
            views: Where the bytes belong in memory; none empty.
            data: Which target pages they are; not needed where none is diverted.
        """
        self.pieces = list(views)
        self.left = sum(map(len, self.pieces))
        self._data = data
        self._rest = self.pieces

    def rest(self, behind: memoryview) -> list[memoryview]:
        """Return where the bytes that come next belong, as many places as one call takes.

        Args:
            behind: Where what follows the payload goes.
        """
        if len(self._rest) >= PIECES_MAX:
            return self._rest[:PIECES_MAX]
        return [*self._rest, behind]

    def put(self, data: bytes) -> None:
        """Put bytes that have come where they belong."""
        rest = memoryview(data)
        for view in self._rest:
            if not rest:
                break
            part, rest = rest[: len(view)], rest[len(view) :]
            view[: len(part)] = part
        self.took(len(data))

    def took(self, count: int) -> None:
        """Say that so many bytes have come."""
        self.left -= count
        self._rest = _behind(self._rest, count)

    def divert(self, target_page: int) -> None:
        """Divert what comes of a target page from memory; nothing of one that the frame has not.

        What has come of it is kept aside as it is now, so that `pieces` stays what came.
        """
        place = position_in(self._data, target_page) if self._data is not None else None
        if place is None:
            return
        have = sum(map(len, self.pieces)) - self.left
        inside, index = place * TARGET_PAGE_BYTES, 0
        while inside >= len(self.pieces[index]):
            inside -= len(self.pieces[index])
            index += 1
        piece, end = self.pieces[index], inside + TARGET_PAGE_BYTES
        aside = memoryview(bytearray(piece[inside:end]))
        self.pieces[index : index + 1] = filter(len, (piece[:inside], aside, piece[end:]))
        self._rest = _behind(self.pieces, have)


def _behind(views: list[memoryview], count: int) -> list[memoryview]:
    """Return what of some views lies behind so many bytes."""
    for index, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[index + 1 :]]
        count -= len(view)
    return []
