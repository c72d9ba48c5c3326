"""Scattered stretches of one RAMBlock, as two arrays: what one frame carries of many places.

`Runs` may stand where a `Span` stands for bytes to be sent or received; `Stretch` is either.
NumPy works on its arrays as a whole: how much Python is run does not grow with the number of
stretches.

On the wire a run is two big-endian u32: its first target page, counted from that of the first run,
and its number of target pages; the second one's highest bit says that the run is all zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Span, new_span
from protocol.limits import RUN_COUNT_MAX, RUNS_EXTENT_BYTES_MAX

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]

_ZERO = 1 << 31
PACKED_RUN_BYTES = 8

assert RUNS_EXTENT_BYTES_MAX // TARGET_PAGE_BYTES <= _ZERO


class Runs:
    """Runs of target pages of one block, ascending, none empty, none overlapping.

    Attributes:
        block: Block index.
        offset: Where the first run begins, in bytes from the block's start.
        end: The first byte offset after the last run.
        length: The bytes of all runs together.
    """

    __slots__ = ("_form", "block", "end", "length", "offset")

    def __init__(
        self,
        block: int,
        offset: int,
        end: int,
        length: int,
        form: bytearray | Numbers | tuple[Numbers, Numbers],
    ) -> None:
        """Start with what is known by now.

        Args:
            block: Block index.
            offset: Where the first run begins, in bytes from the block's start.
            end: The first byte offset after the last run.
            length: The bytes of all runs together.
            form: The runs: where each begins and how long it is, or the index of each target page
                (see the class methods), or from `offset` to `end` one byte for each target page,
                1 for those in a run and 0 for those between.
        """
        self.block = block
        self.offset = offset
        self.end = end
        self.length = length
        # Marks, indices or parts: one is made of another when somebody asks.
        self._form = form

    @classmethod
    def of_parts(cls, block: int, firsts: Numbers, counts: Numbers) -> Runs:
        """Return runs that are given as arrays of the same length, one or more, in order.

        Args:
            block: Block index.
            firsts: The index in the block of each run's first target page.
            counts: How many target pages each run has.
        """
        offset = int(firsts[0]) * TARGET_PAGE_BYTES
        end = int(firsts[-1] + counts[-1]) * TARGET_PAGE_BYTES
        return cls(block, offset, end, int(counts.sum()) * TARGET_PAGE_BYTES, (firsts, counts))

    @classmethod
    def of_target_pages(cls, block: int, indices: Numbers) -> Runs:
        """Return target pages, given by ascending indices in their block, as runs."""
        offset = int(indices[0]) * TARGET_PAGE_BYTES
        end = (int(indices[-1]) + 1) * TARGET_PAGE_BYTES
        return cls(block, offset, end, len(indices) * TARGET_PAGE_BYTES, indices)

    @classmethod
    def of_span(cls, span: Span) -> Runs:
        """Return a span as a single run."""
        pages = span.target_pages
        firsts, counts = np.array([pages.start]), np.array([pages.stop - pages.start])
        return cls(span.block, span.offset, span.end, span.length, (firsts, counts))

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self.firsts)

    def __eq__(self, other: object) -> bool:  # type: ignore[explicit-override] # typing.override: from 3.12
        """Return whether these are the same runs."""
        return (
            isinstance(other, Runs)
            and self.block == other.block
            and np.array_equal(self.firsts, other.firsts)
            and np.array_equal(self.counts, other.counts)
        )

    def __hash__(self) -> int:  # type: ignore[explicit-override] # typing.override: from 3.12
        """Return a hash that equal runs share."""
        return hash((self.block, self.offset, self.end, self.length))

    def __repr__(self) -> str:  # type: ignore[explicit-override] # typing.override: from 3.12
        """Return block and runs, for a person."""
        return f"Runs(block={self.block}, {[(s.offset, s.length) for s in self.spans()]})"

    @property
    def firsts(self) -> Numbers:
        """The index in the block of each run's first target page."""
        return self._divided()[0]

    @property
    def counts(self) -> Numbers:
        """How many target pages each run has."""
        return self._divided()[1]

    @property
    def hull(self) -> Span:
        """The stretch from the first run to the last, with all that lies between."""
        return new_span((self.block, self.offset, self.end - self.offset))

    @property
    def target_pages(self) -> Numbers:
        """The index in the block of every target page, ascending: as good as a slice to NumPy."""
        form = self._form
        if isinstance(form, bytearray):
            first = self.offset // TARGET_PAGE_BYTES
            self._form = form = np.frombuffer(form, np.bool_).nonzero()[0] + first
        if isinstance(form, tuple):
            firsts, counts = form
            ends = np.cumsum(counts)
            return np.repeat(firsts - (ends - counts), counts) + np.arange(ends[-1])
        return form

    def edges(self) -> Iterator[tuple[int, int]]:
        """Yield where each run begins and ends, in bytes from the block's start."""
        starts = self.firsts * TARGET_PAGE_BYTES
        return zip(
            starts.tolist(), (starts + self.counts * TARGET_PAGE_BYTES).tolist(), strict=True
        )

    def spans(self) -> Iterator[Span]:
        """Yield the runs."""
        for start, end in self.edges():
            yield Span(self.block, start, end - start)

    def overlap_bytes(self, span: Span, received: int = 0) -> int:
        """Return how many bytes of a span the runs hold, behind the first `received` of theirs."""
        if span.block != self.block:
            return 0
        lengths = self.counts * TARGET_PAGE_BYTES
        before = np.cumsum(lengths) - lengths
        starts = self.firsts * TARGET_PAGE_BYTES
        ends = np.minimum(starts + lengths, span.end)
        starts = np.maximum(starts + np.clip(received - before, 0, lengths), span.offset)
        return int(np.maximum(ends - starts, 0).sum())

    def page_count(self, per_page: int) -> int:
        """Return how many pages of so many target pages the runs touch, each counted once."""
        first, last = self.firsts // per_page, (self.firsts + self.counts - 1) // per_page
        return int((last - first + 1).sum() - np.count_nonzero(first[1:] == last[:-1]))

    def divided(self, flags: Flags) -> tuple[Runs, Flags]:
        """Cut the runs wherever a flag changes from one target page to the next.

        Args:
            flags: One for each of `target_pages`.

        Returns:
            The runs, and the flag of each.
        """
        ends = np.cumsum(self.counts)
        is_start = np.zeros(len(flags), dtype=np.bool_)
        is_start[ends - self.counts] = True
        is_start[1:] |= flags[1:] != flags[:-1]
        starts = np.flatnonzero(is_start)
        counts = np.diff(starts, append=len(flags))
        return Runs.of_parts(self.block, self.target_pages[starts], counts), flags[starts]

    def where(self, flags: Flags) -> Runs | None:
        """Return the runs of which the flag is set, None if there is none."""
        if not flags.any():
            return None
        return Runs.of_parts(self.block, self.firsts[flags], self.counts[flags])

    def _divided(self) -> tuple[Numbers, Numbers]:
        """Return where each run begins, and how long it is."""
        if isinstance(self._form, tuple):
            return self._form
        indices = self.target_pages
        starts = np.flatnonzero(np.diff(indices, prepend=indices[0] - 2) != 1)
        self._form = parts = indices[starts], np.diff(starts, append=len(indices))
        return parts


Stretch = Span | Runs


def overlap(one: Stretch, other: Stretch) -> bool:
    """Return whether two stretches have bytes in common."""
    if one.block != other.block or one.offset >= other.end or other.offset >= one.end:
        return False
    if isinstance(one, Span):
        one, other = other, one
    if isinstance(one, Span):
        return True
    if isinstance(other, Span):
        return one.overlap_bytes(other) > 0
    return bool(np.isin(one.target_pages, other.target_pages).any())


def overlap_bytes(stretch: Stretch, span: Span, received: int = 0) -> int:
    """Return how many bytes of a span a stretch holds, behind the first `received` of its own."""
    if isinstance(stretch, Runs):
        return stretch.overlap_bytes(span, received)
    if stretch.block != span.block:
        return 0
    return max(0, min(stretch.end, span.end) - max(stretch.offset + received, span.offset))


def position_in(stretch: Stretch, target_page: int) -> int | None:
    """Return which one of a stretch's target pages this is, from 0; None if it is none of them."""
    if isinstance(stretch, Span):
        position = target_page - stretch.offset // TARGET_PAGE_BYTES
        return position if 0 <= position < stretch.length // TARGET_PAGE_BYTES else None
    pages = stretch.target_pages
    position = int(np.searchsorted(pages, target_page))
    return position if position < len(pages) and pages[position] == target_page else None


def hull_of(stretch: Stretch) -> Span:
    """Return a stretch with all that lies between its first byte and its last."""
    return stretch if isinstance(stretch, Span) else stretch.hull


def at_most(spans: Iterable[Span], count_max: int) -> list[Span]:
    """Return stretches that hold all of the given ones, in ascending order.

    The guest stands still meanwhile, and tens of thousands may be given: hence the arrays.

    Args:
        spans: In any order, apart from each other.
        count_max: The most that may be returned, at least one a block; where there are more, those
            are joined whose gaps are smallest, so that as little as possible lies between them.
    """
    fields = np.fromiter(chain.from_iterable(spans), np.int64).reshape(-1, 3)
    blocks, begins, lengths = fields[np.lexsort((fields[:, 1], fields[:, 0]))].T
    if not len(blocks):
        return []
    ends = begins + lengths
    gaps = begins[1:] - ends[:-1]
    may_join = blocks[1:] == blocks[:-1]
    joined = may_join & (gaps == 0)
    excess = len(blocks) - int(np.count_nonzero(joined)) - count_max
    if excess > 0:
        open_gaps = np.flatnonzero(may_join & ~joined)
        joined[open_gaps[np.argsort(gaps[open_gaps], kind="stable")[:excess]]] = True
    first = np.flatnonzero(np.concatenate(([True], ~joined)))
    last = np.append(first[1:], len(blocks)) - 1
    result = zip(blocks[first], begins[first], ends[last] - begins[first], strict=True)
    return [Span(int(block), int(begin), int(length)) for block, begin, length in result]


def pack_runs(runs: Runs, is_zero: Flags) -> bytes:
    """Return runs as they go on the wire; their block and offset go beside them."""
    packed = np.empty((len(runs), 2), dtype=">u4")
    packed[:, 0] = runs.firsts - runs.firsts[0]
    packed[:, 1] = runs.counts | np.where(is_zero, _ZERO, 0)
    return packed.tobytes()


def unpack_runs(block: int, offset: int, packed: bytes) -> tuple[Runs, Flags]:
    """Return the runs of a frame, and which of them are zero.

    Raises:
        RemoteProtocolError: They are too many, empty, out of order or overlap.
    """
    if not 0 < len(packed) <= RUN_COUNT_MAX * PACKED_RUN_BYTES or len(packed) % PACKED_RUN_BYTES:
        raise RemoteProtocolError(
            f"{len(packed)} bytes are no 1 to {RUN_COUNT_MAX} runs of target pages"
        )
    if offset % TARGET_PAGE_BYTES:
        raise RemoteProtocolError(f"runs at offset {offset} are no whole target pages")
    pairs = np.frombuffer(packed, dtype=">u4").reshape(-1, 2).astype(np.int64)
    is_zero = pairs[:, 1] >= _ZERO
    counts = pairs[:, 1] & (_ZERO - 1)
    starts = pairs[:, 0]
    in_order = starts[0] == 0 and bool((starts[1:] >= (starts + counts)[:-1]).all())
    if not (in_order and counts.all()):
        raise RemoteProtocolError("runs of target pages are empty, out of order or overlap")
    return Runs.of_parts(block, starts + offset // TARGET_PAGE_BYTES, counts), is_zero
