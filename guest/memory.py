"""Guest memory as the engine holds it: a memfd for each RAMBlock and the *alias* mapping of it.

The alias is where an engine reads and writes pages.  vCPUs never use it: they have a mapping of
their own (guest/mapping.py).
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from guest import abi, libc
from guest.backing import COLLAPSED_BYTES, BackedBlock, check_room, make_block
from guest.slices import Job
from guest.spec import BACKING_CHOICES
from protocol.errors import GuestFailed, LocalProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, Span

# Populating 16 MiB that the host must fetch first takes some 40 ms where this was tried: short
# enough to answer Ctrl-C in between.
_SLICE_BYTES = 16 << 20


class GuestMemory:
    """All RAMBlocks of a guest: their memfds and a writable mapping of each.

    Attributes:
        geometry: The blocks, in the order of the tuples below.
        fds: One memfd a block, owned by this object; empty when closed.
        views: One writable `memoryview` of format 'B' a block, over the whole block; empty when
            closed.
        kinds: Of each block: "hugetlb", "thp" or "base".
        backing: What was really used: "hugetlb", "thp", "base", each named once, in block order,
            joined by commas ("hugetlb,base"); blocks of 4 KiB pages are always "base".
    """

    def __init__(self, geometry: Geometry, blocks: tuple[BackedBlock, ...]) -> None:
        """Take over the memory of all blocks; use `create`."""
        self.geometry = geometry
        self.fds = tuple(block.fd for block in blocks)
        self.views = tuple(block.view for block in blocks)
        self.kinds = tuple(block.kind for block in blocks)
        self.backing = ",".join(dict.fromkeys(self.kinds))
        self._blocks = blocks

    @classmethod
    def create(cls, geometry: Geometry, backing: str = "auto", *, hugetlb: bool = True) -> Self:
        """Make the guest's memory, all zero.

        Args:
            geometry: The blocks to make.
            backing: "auto" takes the largest pages that can be had; "hugetlb", "thp" and "base" ask
                for one kind, for every block whose pages are larger than 4 KiB.
            hugetlb: Whether "auto" may take hugetlb pages.

        Raises:
            GuestFailed: The backing that was asked for, or the memory, cannot be had here.
            LocalProtocolError: There is no such backing.
        """
        if backing not in BACKING_CHOICES:
            raise LocalProtocolError(
                f"backing {backing!r} is not one of {', '.join(BACKING_CHOICES)}"
            )
        made: list[BackedBlock] = []
        try:
            for block in geometry.blocks:
                made.append(make_block(block, backing, hugetlb=hugetlb))  # noqa: PERF401  (undone when one fails)
            check_room((backed.kind, len(backed.view)) for backed in made)
        except BaseException:
            for backed in made:
                backed.close()
            raise
        return cls(geometry, tuple(made))

    def words(self, block: int) -> NDArray[np.uint64]:
        """Return a block's alias as 8-byte words, shape (length_bytes / 8,), writable."""
        return np.frombuffer(self.views[block], dtype=np.uint64)

    def populate(self) -> Job[None]:
        """Allocate every page now, in slices (guest/slices.py); yields bytes.

        Raises:
            GuestFailed: The machine has not enough memory after all.
        """
        for span in self.slices():
            self.populate_slice(span)
            yield span.length

    def slices(self) -> Iterator[Span]:
        """Yield all of the memory in slices that do not take long to populate."""
        for block, view in enumerate(self.views):
            for start in range(0, len(view), _SLICE_BYTES):
                yield Span(block, start, min(_SLICE_BYTES, len(view) - start))

    def parts(self) -> Iterator[memoryview]:
        """Yield views of the same slices, which are the caller's to release."""
        for span in self.slices():
            yield self.views[span.block][span.offset : span.end]

    def populate_slice(self, span: Span) -> None:
        """Allocate every page of one slice now; several threads may do so at once.

        Raises:
            GuestFailed: The machine has not enough memory after all.
        """
        block, start, end = span.block, span.offset, span.end
        backed = self._blocks[block]
        address = backed.address + start
        if backed.collapses:
            # What has no page at all is not collapsed; of what has one, the kernel makes the rest.
            firsts = np.frombuffer(self.views[block], np.uint8)[start:end:COLLAPSED_BYTES]
            np.bitwise_or(firsts, 0, out=firsts)
            # Where no huge page is free, base pages do.
            with contextlib.suppress(OSError):
                libc.madvise(address, end - start, abi.MADV_COLLAPSE)
        try:
            libc.madvise(address, end - start, abi.MADV_POPULATE_WRITE)
        except OSError as error:
            if error.errno == errno.EINVAL:  # A kernel before v5.14.
                pages = np.frombuffer(self.views[block], np.uint8)[start:end:TARGET_PAGE_BYTES]
                np.bitwise_or(pages, 0, out=pages)
                return
            name = self.geometry.blocks[block].name
            raise GuestFailed(
                f"RAMBlock {name!r}: cannot allocate its memory: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Give the memory back; more calls do nothing.

        A view or array that somebody still holds keeps its block mapped until it is dropped.
        """
        views, self.views, self.fds = self.views, (), ()
        for view in views:
            with contextlib.suppress(BufferError):
                view.release()
        blocks, self._blocks = self._blocks, ()
        for block in blocks:
            block.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
