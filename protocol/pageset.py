"""A set of target pages of one guest, as one array of truth values a block.

The dirty set, what is still to be sent and what the destination still misses are all page sets.
One byte a target page is 0.02 % of the guest; scans for the next member run at memory speed.

The array is a bytearray that NumPy looks at, too.  About a few pages the bytearray is asked: its
`find` is the C library's memchr, and takes 0.1 us where NumPy's `any` of 256 takes 1.1 (each the
best of 25 times 5,000, as the other times here).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span, new_span
from protocol.limits import RUN_COUNT_MAX, RUNS_EXTENT_BYTES_MAX
from protocol.runs import Runs, Stretch

# Where scattered members are wanted, so many times their number is looked at first, and so many
# times that if it was not enough.
_NEAR = 8

# Up to here bytes are counted and written one after the other sooner than NumPy would begin.
_FEW = 256
_MANY_SET = bytearray(b"\1" * _FEW)
_MANY_CLEAR = bytearray(_FEW * _NEAR)

assert _FEW <= RUN_COUNT_MAX, "of few members no frame names too many runs"
assert _FEW * _NEAR * TARGET_PAGE_BYTES <= RUNS_EXTENT_BYTES_MAX, "nor can they lie too far apart"


class PageSet:
    """Which target pages of a guest are members; counts are kept, not counted again."""

    def __init__(self, geometry: Geometry) -> None:
        """Make an empty set."""
        self.geometry = geometry
        self._raw = [bytearray(block.target_page_count) for block in geometry.blocks]
        self._member = [np.frombuffer(raw, dtype=np.bool_) for raw in self._raw]
        self._count = 0

    def __len__(self) -> int:
        """Return the number of target pages in the set."""
        return self._count

    @property
    def length_bytes(self) -> int:
        """The bytes that the members make together."""
        return self._count * TARGET_PAGE_BYTES

    def fill(self) -> None:
        """Make every target page of the guest a member."""
        for member in self._member:
            member[:] = True
        self._count = self.geometry.target_page_count

    def add(self, stretch: Stretch) -> None:
        """Add the target pages of a stretch."""
        self._set(stretch, member=True)

    def remove(self, stretch: Stretch) -> None:
        """Remove the target pages of a stretch."""
        self._set(stretch, member=False)

    def add_flat(self, flat: NDArray[np.intp]) -> None:
        """Add target pages by their flat numbers, in ascending order, each once."""
        edges = np.searchsorted(
            flat, [*self.geometry.target_page_bases, self.geometry.target_page_count]
        )
        for block, base in enumerate(self.geometry.target_page_bases):
            part = flat[edges[block] : edges[block + 1]] - base
            before = np.count_nonzero(self._member[block][part])
            self._member[block][part] = True
            self._count += len(part) - int(before)

    def update(self, other: PageSet) -> None:
        """Add all members of another set of the same guest."""
        for mine, theirs in zip(self._member, other._member, strict=True):
            np.logical_or(mine, theirs, out=mine)
        self._count = sum(int(np.count_nonzero(member)) for member in self._member)

    def replace(self, other: PageSet) -> None:
        """Replace all members by those of another set of the same guest."""
        for mine, theirs in zip(self._member, other._member, strict=True):
            mine[:] = theirs
        self._count = other._count

    def count_beyond(self, other: PageSet) -> int:
        """Return how many members of this set another of the same guest has not."""
        return sum(
            int(np.count_nonzero(mine & ~theirs))
            for mine, theirs in zip(self._member, other._member, strict=True)
        )

    def runs(self, block: int) -> list[tuple[int, int]]:
        """Return a block's members as unbroken runs: index of the first target page, and count."""
        return [(first, stop - first) for first, stop in runs_of(self._member[block])]

    def copy(self) -> PageSet:
        """Return an independent set with the same members."""
        twin = PageSet(self.geometry)
        twin.update(self)
        return twin

    def copy_into(self, other: PageSet, within: Span) -> None:
        """Make those members of this set that lie in a span members of another, too."""
        if within.length == TARGET_PAGE_BYTES:
            target_page = within.offset // TARGET_PAGE_BYTES
            mine_raw, theirs_raw = self._raw[within.block], other._raw[within.block]
            if mine_raw[target_page] > theirs_raw[target_page]:
                theirs_raw[target_page] = 1
                other._count += 1
            return
        mine = self._member[within.block][within.target_pages]
        theirs = other._member[within.block][within.target_pages]
        before = int(np.count_nonzero(theirs))
        np.logical_or(theirs, mine, out=theirs)
        other._count += int(np.count_nonzero(theirs)) - before

    def count_in(self, stretch: Stretch) -> int:
        """Return how many target pages of a stretch are members."""
        if isinstance(stretch, Span):
            return self._count_between(stretch.block, *_edges(stretch))
        return int(np.count_nonzero(self._member[stretch.block][stretch.target_pages]))

    def holds_any(self, stretch: Stretch) -> bool:
        """Return whether any target page of a stretch is a member."""
        if isinstance(stretch, Span):
            block, offset, length = stretch
            raw, first = self._raw[block], offset // TARGET_PAGE_BYTES
            if length == TARGET_PAGE_BYTES:
                return raw[first] == 1
            return raw.find(1, first, first + length // TARGET_PAGE_BYTES) >= 0
        return bool(self._member[stretch.block][stretch.target_pages].any())

    def holds_page(self, page: PageId) -> bool:
        """Return whether any target page of a page is a member."""
        block, index = page
        raw, per_page = self._raw[block], self.geometry.blocks[block].target_pages_per_page
        if per_page == 1:
            return raw[index] == 1
        return raw.find(1, index * per_page, (index + 1) * per_page) >= 0

    def discard(self, block: int, target_page: int) -> bool:
        """Remove one target page of a block; tell whether it was a member."""
        raw = self._raw[block]
        if not raw[target_page]:
            return False
        raw[target_page] = 0
        self._count -= 1
        return True

    def remove_whole(self, stretch: Stretch) -> bool:
        """Remove a stretch if all of its target pages are members; tell whether they were."""
        if stretch.length == TARGET_PAGE_BYTES:
            return self.discard(stretch.block, stretch.offset // TARGET_PAGE_BYTES)
        if self.count_in(stretch) * TARGET_PAGE_BYTES != stretch.length:
            return False
        self.remove(stretch)
        return True

    def take_first(self, block: int, first: int, stop: int, count_max: int) -> Stretch | None:
        """Remove and return the first members between two places of a block, None without any.

        They are at most as many as one frame may name, and lie no further apart than it can say.

        Args:
            block: Block index.
            first: The target page from which to look.
            stop: The target page before which to end.
            count_max: The most target pages to take, 1 or more.

        Returns:
            An unbroken run as a span, else several runs.
        """
        raw = self._raw[block]
        far = first + count_max * _NEAR
        if far <= stop and count_max <= _FEW:
            # A single search finds the first and the last, without gaps between or with.
            near = _members(count_max).match(raw, first, far)
            if near is not None:
                start, end = near.span(1)
                extent, offset = end - start, start * TARGET_PAGE_BYTES
                members = raw[start:end]
                raw[start:end] = _MANY_CLEAR[:extent]
                self._count -= count_max
                length = count_max * TARGET_PAGE_BYTES
                if extent == count_max:
                    return new_span((block, offset, length))
                return Runs(block, offset, end * TARGET_PAGE_BYTES, length, members)
        start = raw.find(1, first, stop)
        if start < 0:
            return None
        end = min(start + count_max, stop)
        if raw.find(0, start, end) >= 0:
            stop = min(stop, start + RUNS_EXTENT_BYTES_MAX // TARGET_PAGE_BYTES)
            return self._take_thin(block, start, stop, count_max)
        count = end - start
        self._clear(block, start, end, count)
        return Span(block, start * TARGET_PAGE_BYTES, count * TARGET_PAGE_BYTES)

    def _take_thin(self, block: int, start: int, stop: int, count_max: int) -> Stretch:
        """Do the same where they are many, or lie far apart.

        Windows that grow keep it to a few looks however thin the members are sown, and none longer
        than what it finds is worth.
        """
        member = self._member[block]
        window = count_max * _NEAR
        found: NDArray[np.int64] = member[start : min(start + window, stop)].nonzero()[0]
        while len(found) < count_max and start + window < stop:
            window *= _NEAR
            found = member[start : min(start + window, stop)].nonzero()[0]
        runs = Runs.of_target_pages(block, found[:count_max] + start)
        if runs.length > RUN_COUNT_MAX * TARGET_PAGE_BYTES and len(runs) > RUN_COUNT_MAX:
            runs = Runs.of_parts(block, runs.firsts[:RUN_COUNT_MAX], runs.counts[:RUN_COUNT_MAX])
        end, count = runs.end // TARGET_PAGE_BYTES, runs.length // TARGET_PAGE_BYTES
        self._clear(block, start, end, count)
        return runs.hull if count == end - start else runs

    def _clear(self, block: int, first: int, stop: int, count: int) -> None:
        """Remove all members between two places, of which it is known how many they are."""
        if stop - first <= _FEW:
            self._raw[block][first:stop] = _MANY_CLEAR[: stop - first]
        else:
            self._member[block][first:stop] = False
        self._count -= count

    def first_from(self, block: int, target_page: int) -> tuple[int, int] | None:
        """Return (block, target page) of the first member at or after a place, wrapping once.

        The search goes to the end of the block, through the blocks after it, and round to where it
        began.
        """
        found = self._raw[block].find(1, target_page)
        if found >= 0:
            return block, found
        if not self._count:
            return None
        block_count = len(self._member)
        others = [(block + step) % block_count for step in range(1, block_count)]
        for index, stop in [*((other, None) for other in others), (block, target_page)]:
            found = self._raw[index].find(1, 0, stop)
            if found >= 0:
                return index, found
        return None

    def first_in(self, block: int, first: int, stop: int) -> int:
        """Return the first member between two places of a block, -1 without any."""
        return self._raw[block].find(1, first, stop)

    def last_in(self, block: int, first: int, stop: int) -> int:
        """Return the last member between two places of a block, -1 without any."""
        return self._raw[block].rfind(1, first, stop)

    def row_from(self, block: int, first: int, stop: int) -> int:
        """Return how many target pages from one on, before another, are members without a gap."""
        end = self._raw[block].find(0, first, stop)
        return (stop if end < 0 else end) - first

    def pages_with_members(self, block: int) -> NDArray[np.bool_]:
        """Return, for each page of a block, whether any of its target pages is a member."""
        per_page = self.geometry.blocks[block].target_pages_per_page
        if per_page == 1:
            # NumPy's reduction calls its loop for each row, and here every target page is one.
            return self._member[block].copy()
        flags: NDArray[np.bool_] = np.logical_or.reduce(
            self._member[block].reshape(-1, per_page), axis=1
        )
        return flags

    def members(self, block: int) -> NDArray[np.bool_]:
        """Return a block's membership, one truth value a target page; not to be written to."""
        view = self._member[block].view()
        view.flags.writeable = False
        return view

    def pack(self, block: int, first: int, count: int) -> bytes:
        """Return the membership of `count` target pages from `first` as bits, lowest first."""
        return np.packbits(self._member[block][first : first + count], bitorder="little").tobytes()

    def add_packed(self, block: int, first: int, count: int, bits: bytes) -> None:
        """Add the target pages whose bits are set; the inverse of `pack`.

        Raises:
            RemoteProtocolError: The bitmap is not of that size or reaches out of the block.
        """
        inside = 0 <= block < len(self._member)
        if not inside or first < 0 or first + count > len(self._member[block]):
            raise RemoteProtocolError(f"a bitmap of block {block} reaches outside the guest")
        if count < 1 or len(bits) != -(-count // 8):
            raise RemoteProtocolError(f"{len(bits)} bytes are no bitmap of {count} target pages")
        unpacked = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little")
        if unpacked[count:].any():
            raise RemoteProtocolError("a bitmap has bits after its end")
        part = self._member[block][first : first + count]
        before = int(np.count_nonzero(part))
        np.logical_or(part, unpacked[:count], out=part)
        self._count += int(np.count_nonzero(part)) - before

    def bitmaps(self, count_max: int) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield (block, first, count, bits) for all stretches of the guest that have members.

        Args:
            count_max: The most target pages a bitmap covers, a multiple of 8.
        """
        for block, member in enumerate(self._member):
            for first in range(0, len(member), count_max):
                count = min(count_max, len(member) - first)
                if member[first : first + count].any():
                    yield block, first, count, self.pack(block, first, count)

    def _count_between(self, block: int, first: int, stop: int) -> int:
        if stop - first <= _FEW:
            return self._raw[block].count(1, first, stop)
        return int(np.count_nonzero(self._member[block][first:stop]))

    def _set(self, stretch: Stretch, *, member: bool) -> None:
        if isinstance(stretch, Span):
            self._set_between(stretch.block, *_edges(stretch), member=member)
        elif len(stretch) <= _FEW:
            for first, count in zip(stretch.firsts.tolist(), stretch.counts.tolist(), strict=True):
                self._set_between(stretch.block, first, first + count, member=member)
        else:
            members, where = self._member[stretch.block], stretch.target_pages
            before = int(np.count_nonzero(members[where]))
            members[where] = member
            after = stretch.length // TARGET_PAGE_BYTES if member else 0
            self._count += after - before

    def _set_between(self, block: int, first: int, stop: int, *, member: bool) -> None:
        count = stop - first
        before = self._count_between(block, first, stop)
        if count <= _FEW:
            self._raw[block][first:stop] = (_MANY_SET if member else _MANY_CLEAR)[:count]
        else:
            self._member[block][first:stop] = member
        self._count += (count if member else 0) - before


def runs_of(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the unbroken runs of flags that are set: the index of the first, and that behind each.

    It takes one byte a flag, and eight for each end of a run: `np.diff` would widen all flags to 64
    bits, twice, which for 256 GiB in target pages came to 1 GiB while the guest stood still.
    """
    edges = (np.flatnonzero(flags[1:] != flags[:-1]) + 1).tolist()
    if len(flags) and flags[0]:
        edges.insert(0, 0)
    if len(edges) % 2:
        edges.append(len(flags))
    return list(zip(edges[::2], edges[1::2], strict=True))


@cache
def _members(count: int) -> re.Pattern[bytes]:
    """Return what matches so many members; its group begins with the first, and ends with the last.

    It finds the last of sixteen in 0.16 us where they follow each other, by a single look, and in
    0.27 where each is the seventh after the one before; NumPy's `flatnonzero` takes 1.2 us.  It is
    written out: a loop takes 0.28 and 0.30.
    """
    scattered = b"\1" + b"\0*+\1" * (count - 1)
    return re.compile(b"\0*+(\1{%d}|%b)" % (count, scattered))


def _edges(span: Span) -> tuple[int, int]:
    """Return a span's first target page, and the first behind it."""
    offset = span.offset
    return offset // TARGET_PAGE_BYTES, (offset + span.length) // TARGET_PAGE_BYTES
