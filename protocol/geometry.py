"""The guest's memory as both ends see it: RAMBlocks, pages, target pages, spans.

Three indices exist and are never mixed: a *block index*, a *page index* inside its block (the unit
that is placed at once), and a *target page index* inside its block (4 KiB, the unit of dirty
tracking).  QEMU keeps the same three apart in `include/exec/ramblock.h` and `migration/ram.c`.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from typing import NamedTuple

from protocol.errors import LocalProtocolError
from protocol.limits import BLOCK_COUNT_MAX, BLOCK_NAME_CHARS_MAX, GUEST_BYTES_MAX

TARGET_PAGE_BYTES = 4096
PAGE_BYTES_CHOICES = (4096, 2 << 20, 1 << 30)


class PageId(NamedTuple):
    """A page by its block index and its page index in that block, never by the index alone."""

    block: int
    index: int  # type: ignore[assignment] # what a tuple has under this name, nobody asks a page for


class Span(NamedTuple):
    """A stretch of one block: block index, byte offset in the block, length in bytes."""

    block: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte offset after the span."""
        return self.offset + self.length

    @property
    def target_pages(self) -> slice:
        """The span's target page indices in its block; offset and length are whole ones."""
        return slice(self.offset // TARGET_PAGE_BYTES, self.end // TARGET_PAGE_BYTES)


# What `Span(...)` and `PageId(...)` make, of a tuple, in less than half the time: a named tuple's
# own constructor is Python code.  For where a hundred thousand are made a second.
new_span = partial(tuple.__new__, Span)
new_page_id = partial(tuple.__new__, PageId)


@dataclass(frozen=True)
class RamBlock:
    """A named, contiguous piece of guest memory with one page size.

    Raises:
        LocalProtocolError: The name or a size is not one that a guest can have.
    """

    name: str
    length_bytes: int
    page_bytes: int

    def __post_init__(self) -> None:
        """Check the name, the page size and that the length is a whole number of pages."""
        if not (self.name.isascii() and self.name.isprintable() and self.name):
            raise LocalProtocolError(f"RAMBlock name {self.name!r} is not printable ASCII")
        if len(self.name) > BLOCK_NAME_CHARS_MAX:
            raise LocalProtocolError(
                f"RAMBlock name {self.name[:20]!r}... is longer than {BLOCK_NAME_CHARS_MAX}"
            )
        if self.page_bytes not in PAGE_BYTES_CHOICES:
            raise LocalProtocolError(
                f"RAMBlock {self.name!r}: a page of {self.page_bytes} bytes is not "
                "4 KiB, 2 MiB or 1 GiB"
            )
        if self.length_bytes <= 0 or self.length_bytes % self.page_bytes:
            raise LocalProtocolError(
                f"RAMBlock {self.name!r}: {self.length_bytes} bytes are not one or more pages of "
                f"{self.page_bytes} bytes"
            )

    @cached_property
    def page_count(self) -> int:
        """How many pages the block has."""
        return self.length_bytes // self.page_bytes

    @cached_property
    def target_page_count(self) -> int:
        """How many target pages the block has."""
        return self.length_bytes // TARGET_PAGE_BYTES

    @cached_property
    def target_pages_per_page(self) -> int:
        """How many target pages make a page: 1 for base pages, 512 for 2 MiB."""
        return self.page_bytes // TARGET_PAGE_BYTES


@dataclass(frozen=True)
class Geometry:
    """All RAMBlocks of a guest, in the order in which they are numbered on the wire.

    Besides (block, index) every target page has one *flat* number, its place when the blocks are
    laid end to end; programs and bitmaps that cover the whole guest use it.

    Raises:
        LocalProtocolError: No blocks, too many, a name twice, or too much memory.
    """

    blocks: tuple[RamBlock, ...]

    def __post_init__(self) -> None:
        """Check the number of blocks, that names differ, and the total size."""
        if not 0 < len(self.blocks) <= BLOCK_COUNT_MAX:
            raise LocalProtocolError(
                f"a guest has 1 to {BLOCK_COUNT_MAX} RAMBlocks, not {len(self.blocks)}"
            )
        names = [block.name for block in self.blocks]
        for name in names:
            if names.count(name) > 1:
                raise LocalProtocolError(f"two RAMBlocks are named {name!r}")
        if self.length_bytes > GUEST_BYTES_MAX:
            raise LocalProtocolError(
                f"a guest of {self.length_bytes} bytes is larger than {GUEST_BYTES_MAX}"
            )

    @cached_property
    def length_bytes(self) -> int:
        """The guest's memory in bytes, all blocks together."""
        return sum(block.length_bytes for block in self.blocks)

    @cached_property
    def page_count(self) -> int:
        """The number of pages of all blocks together, of whatever size."""
        return sum(block.page_count for block in self.blocks)

    @cached_property
    def target_page_count(self) -> int:
        """The number of target pages of all blocks together."""
        return self.length_bytes // TARGET_PAGE_BYTES

    @cached_property
    def target_page_bases(self) -> tuple[int, ...]:
        """For each block, the flat number of its first target page."""
        counts = (block.target_page_count for block in self.blocks)
        return tuple(accumulate(counts, initial=0))[:-1]

    @cached_property
    def has_base_pages(self) -> tuple[bool, ...]:
        """For each block, whether a page of it is a single target page."""
        return tuple(block.page_bytes == TARGET_PAGE_BYTES for block in self.blocks)

    def span_of(self, block: int, pages: range) -> Span:
        """Return the bytes of consecutive pages of a block."""
        page_bytes = self.blocks[block].page_bytes
        return Span(block, pages.start * page_bytes, len(pages) * page_bytes)

    def in_target_pages(self) -> Geometry:
        """Return the same blocks with target pages for pages."""
        return Geometry(
            tuple(
                RamBlock(block.name, block.length_bytes, TARGET_PAGE_BYTES) for block in self.blocks
            )
        )

    def flat_target_page(self, block: int, target_page: int) -> int:
        """Return the flat number of a target page that is given by its index in its block."""
        return self.target_page_bases[block] + target_page

    def locate(self, flat: int) -> tuple[int, int]:
        """Return (block index, target page index in it) of a flat target page number.

        Raises:
            LocalProtocolError: The guest has no such target page.
        """
        if 0 <= flat < self.target_page_count:
            block = bisect_right(self.target_page_bases, flat) - 1
            return block, flat - self.target_page_bases[block]
        raise LocalProtocolError(f"target page {flat} is outside the guest")

    def page_of(self, block: int, target_page: int) -> PageId:
        """Return the page that a target page of a block belongs to."""
        return new_page_id((block, target_page // self.blocks[block].target_pages_per_page))

    def page_span(self, page: PageId) -> Span:
        """Return the bytes of a page."""
        block, index = page
        page_bytes = self.blocks[block].page_bytes
        return new_span((block, index * page_bytes, page_bytes))

    def has_page(self, page: PageId) -> bool:
        """Return whether the guest has this page."""
        return 0 <= page.block < len(self.blocks) and (
            0 <= page.index < self.blocks[page.block].page_count
        )

    def has_span(self, span: Span) -> bool:
        """Return whether a span is a non-empty run of whole target pages inside one block."""
        block, offset, length = span
        return (
            0 <= block < len(self.blocks)
            and offset >= 0
            and length > 0
            and offset % TARGET_PAGE_BYTES == 0
            and length % TARGET_PAGE_BYTES == 0
            and offset + length <= self.blocks[block].length_bytes
        )

    def pages_of(self, span: Span) -> range:
        """Return the page indices that a span touches, first to last, whole or in part."""
        block, offset, length = span
        page_bytes = self.blocks[block].page_bytes
        return range(offset // page_bytes, -(-(offset + length) // page_bytes))
