"""Guest memory as vCPUs see it: addresses only, in the guest process.

No view of this mapping exists, on purpose.  A page of it may be missing, and a thread that touches
a missing page with the GIL held (a slice, a numpy index) would stop its whole interpreter.  Whoever
touches it does so through `libc.memcpy`, which lets the GIL go.
"""

from __future__ import annotations

import contextlib
import os

import numpy as np
from numpy.typing import NDArray

from guest import abi, libc
from protocol.errors import GuestFailed
from protocol.geometry import TARGET_PAGE_BYTES, Geometry


class GuestMapping:
    """The mapping of all RAMBlocks that vCPUs touch; lives as long as its process."""

    def __init__(self, geometry: Geometry, addresses: tuple[int, ...]) -> None:
        """Take over mappings; use `attach`."""
        self.geometry = geometry
        self._addresses = addresses
        # The address that target page 0 of the guest would have if it were in this block.
        bases = np.array(geometry.target_page_bases, dtype=np.uint64)
        self._bases = bases
        self._origins = np.array(addresses, dtype=np.uint64) - bases * np.uint64(TARGET_PAGE_BYTES)

    @classmethod
    def attach(cls, geometry: Geometry, fds: tuple[int, ...]) -> GuestMapping:
        """Map the memfds of another process, one a block; takes the fds over.

        Raises:
            GuestFailed: The kernel refused.
        """
        addresses = []
        for block, fd in zip(geometry.blocks, fds, strict=True):
            try:
                address = libc.map_shared(fd, block.length_bytes, block.page_bytes)
            except OSError as error:
                raise GuestFailed(f"RAMBlock {block.name!r}: {error.strerror}") from error
            if block.page_bytes > TARGET_PAGE_BYTES:
                # A hint; a kernel without transparent huge pages refuses it.
                with contextlib.suppress(OSError):
                    libc.madvise(address, block.length_bytes, abi.MADV_HUGEPAGE)
            os.close(fd)
            addresses.append(address)
        return cls(geometry, tuple(addresses))

    def detach(self) -> None:
        """Take all mappings away; no vCPU may touch them any more."""
        for address, block in zip(self._addresses, self.geometry.blocks, strict=True):
            libc.unmap(address, block.length_bytes)

    def populate(self) -> None:
        """Map all pages before they are touched, huge ones by huge pages.

        What is not populated is mapped at its first touch.
        """
        for address, block in zip(self._addresses, self.geometry.blocks, strict=True):
            with contextlib.suppress(OSError):  # A kernel before v5.14.
                libc.madvise(address, block.length_bytes, abi.MADV_POPULATE_WRITE)

    @property
    def addresses(self) -> tuple[int, ...]:
        """The address of each block's first byte."""
        return self._addresses

    def address(self, block: int) -> int:
        """Return the address of a block's first byte."""
        return self._addresses[block]

    def page_addresses(self, flat_pages: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the address of the first byte of each flat target page."""
        blocks = np.searchsorted(self._bases, flat_pages, side="right") - 1
        offsets = flat_pages * np.uint64(TARGET_PAGE_BYTES)
        addresses: NDArray[np.uint64] = self._origins[blocks] + offsets
        return addresses
