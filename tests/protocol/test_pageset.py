"""Tests of protocol/pageset.py: a page set against Python's sets, step by step."""

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import DataObject

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock, Span
from protocol.limits import RUN_COUNT_MAX
from protocol.pageset import PageSet, runs_of
from protocol.runs import Runs, Stretch
from tests.strategies import HUGE_PAGE_BYTES, geometries, spans

# A target page by its block index and its index in the block.
Member = tuple[int, int]

GUEST = Geometry(
    (
        RamBlock("ram", 2 * HUGE_PAGE_BYTES, HUGE_PAGE_BYTES),
        RamBlock("rom", 5 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES),
        RamBlock("vga", 13 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES),
    )
)


def targets_of(span: Span) -> set[Member]:
    """Return the target pages of a span, one by one."""
    first = span.offset // TARGET_PAGE_BYTES
    return {
        (span.block, target)
        for target in range(first, first + span.length // TARGET_PAGE_BYTES)
    }  # fmt: skip


def members_of(pages: PageSet) -> set[Member]:
    """Return the members of a page set, one by one."""
    return {
        (block, int(target))
        for block in range(len(pages.geometry.blocks))
        for target in np.flatnonzero(pages.members(block))
    }


def all_targets(geometry: Geometry) -> list[Member]:
    """Return all target pages of a guest in the order of their flat numbers."""
    return [
        (index, target)
        for index, block in enumerate(geometry.blocks)
        for target in range(block.target_page_count)
    ]


def made_of(geometry: Geometry, members: set[Member]) -> PageSet:
    """Return a page set with these members."""
    pages = PageSet(geometry)
    for block, target in members:
        pages.add(Span(block, target * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
    return pages


def packed(targets: set[int], first: int, count: int) -> bytes:
    """Return a bitmap, lowest bit first, computed as one long number."""
    number = sum(1 << (target - first) for target in targets if first <= target < first + count)
    return number.to_bytes(-(-count // 8), "little")


def take_first(pages: PageSet, within: Span, count_max: int) -> Stretch | None:
    """Take the first members inside a span."""
    where = within.target_pages
    return pages.take_first(within.block, where.start, where.stop, count_max)


class PageSetMachine(RuleBasedStateMachine):
    """Does the same to a page set and to a set of target pages, and compares all answers."""

    geometry: Geometry
    pages: PageSet
    model: set[Member]

    @initialize(geometry=geometries(block_count_max=3))
    def start(self, geometry: Geometry) -> None:
        """Begin with an empty set of some guest."""
        self.geometry = geometry
        self.pages = PageSet(geometry)
        self.model = set()

    @rule()
    def fill(self) -> None:
        """Add everything."""
        self.pages.fill()
        self.model = set(all_targets(self.geometry))

    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        """Add a run."""
        span = data.draw(spans(self.geometry))
        self.pages.add(span)
        self.model |= targets_of(span)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Remove a run."""
        span = data.draw(spans(self.geometry))
        self.pages.remove(span)
        self.model -= targets_of(span)

    @rule(data=st.data())
    def add_or_remove_runs(self, data: st.DataObject) -> None:
        """Add or remove scattered target pages of one block."""
        block = data.draw(st.integers(0, len(self.geometry.blocks) - 1))
        count = self.geometry.blocks[block].target_page_count
        targets = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
        runs = Runs.of_target_pages(block, np.array(sorted(targets)))
        before = len(self.model & {(block, target) for target in targets})
        assert self.pages.count_in(runs) == before
        assert self.pages.holds_any(runs) == bool(before)
        if data.draw(st.booleans()):
            self.pages.add(runs)
            self.model |= {(block, target) for target in targets}
        else:
            self.pages.remove(runs)
            self.model -= {(block, target) for target in targets}

    @rule(data=st.data(), count_max=st.integers(1, 40) | st.integers(250, 600))
    def take_first(self, data: st.DataObject, count_max: int) -> None:
        """The first members in a span are taken, as a span if without a gap, and no others."""
        within = data.draw(spans(self.geometry))
        members = sorted(self.model & targets_of(within))[:count_max]
        found = take_first(self.pages, within, count_max)
        if found is None:
            assert not members
        elif isinstance(found, Span):
            assert sorted(targets_of(found)) == members
        else:
            assert len(found) > 1
            assert [(found.block, target) for target in found.target_pages.tolist()] == members
            assert found.length == len(members) * TARGET_PAGE_BYTES
        self.model -= set(members)

    @rule(data=st.data())
    def remove_one(self, data: st.DataObject) -> None:
        """Remove one member."""
        if self.model:
            block, target = data.draw(st.sampled_from(sorted(self.model)))
            self.pages.remove(Span(block, target * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
            self.model.discard((block, target))

    @rule(data=st.data())
    def remove_whole(self, data: st.DataObject) -> None:
        """Remove a run or some runs only if all of it is there."""
        span = data.draw(spans(self.geometry))
        stretch: Stretch = span
        targets = targets_of(span)
        if data.draw(st.booleans()):
            targets = data.draw(st.sets(st.sampled_from(sorted(targets)), min_size=1))
            indices = np.array(sorted(target for _, target in targets))
            stretch = Runs.of_target_pages(span.block, indices)
        if data.draw(st.booleans()):
            self.pages.add(stretch)
            self.model |= targets
        was_there = targets <= self.model
        assert self.pages.remove_whole(stretch) is was_there
        if was_there:
            self.model -= targets

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        """Remove one target page, member or not, and hear which it was."""
        span = data.draw(spans(self.geometry))
        block, target = min(targets_of(span))
        was_member = (block, target) in self.model
        one = Span(block, target * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES)
        assert self.pages.holds_any(one) is was_member
        assert self.pages.discard(block, target) is was_member
        assert self.pages.holds_any(one) is False
        self.model.discard((block, target))

    @rule(data=st.data())
    def add_flat(self, data: st.DataObject) -> None:
        """Add target pages by their flat numbers."""
        flat = data.draw(st.sets(st.integers(0, self.geometry.target_page_count - 1)))
        self.pages.add_flat(np.array(sorted(flat), dtype=np.intp))
        self.model |= {self.geometry.locate(each) for each in flat}

    @rule(data=st.data())
    def update(self, data: st.DataObject) -> None:
        """Add the members of another set, which keeps them."""
        other = set(data.draw(st.lists(st.sampled_from(all_targets(self.geometry)))))
        other_pages = made_of(self.geometry, other)
        self.pages.update(other_pages)
        self.model |= other
        assert other == members_of(other_pages)

    @rule(data=st.data())
    def go_on_with_a_copy(self, data: st.DataObject) -> None:
        """Change a copy and keep it; the original has stayed as it was."""
        original, before = self.pages, set(self.model)
        self.pages = original.copy()
        self.add(data)
        self.remove(data)
        assert before == members_of(original)
        assert len(before) == len(original)
        original.fill()

    @rule(data=st.data())
    def add_packed(self, data: st.DataObject) -> None:
        """Add a bitmap, at any place."""
        block = data.draw(st.integers(0, len(self.geometry.blocks) - 1))
        block_count = self.geometry.blocks[block].target_page_count
        first = data.draw(st.integers(0, block_count - 1))
        count = data.draw(st.integers(1, block_count - first))
        targets = data.draw(st.sets(st.integers(first, first + count - 1)))
        self.pages.add_packed(block, first, count, packed(targets, first, count))
        self.model |= {(block, target) for target in targets}

    @rule(data=st.data())
    def look_into_a_span(self, data: st.DataObject) -> None:
        """Compare what is said of a span."""
        span = data.draw(spans(self.geometry))
        inside = self.model & targets_of(span)
        assert len(inside) == self.pages.count_in(span)
        assert bool(inside) == self.pages.holds_any(span)

    @rule(data=st.data())
    def look_into_a_page(self, data: st.DataObject) -> None:
        """Compare what is said of a page."""
        block, target = data.draw(st.sampled_from(all_targets(self.geometry)))
        page = self.geometry.page_of(block, target)
        expected = bool(self.model & targets_of(self.geometry.page_span(page)))
        assert expected == self.pages.holds_page(page)

    @rule(data=st.data())
    def find_from_a_place(self, data: st.DataObject) -> None:
        """Compare the next member with the first of a sorted list that goes round."""
        block = data.draw(st.integers(0, len(self.geometry.blocks) - 1))
        # The place behind the last target page is one to go on from, too.
        target = data.draw(st.integers(0, self.geometry.blocks[block].target_page_count))
        actual = self.pages.first_from(block, target)
        ordered = sorted(self.model)
        later = [member for member in ordered if member >= (block, target)]
        assert next(iter(later + ordered), None) == actual

    @rule(data=st.data())
    def pack(self, data: st.DataObject) -> None:
        """Compare the bits of any stretch."""
        span = data.draw(spans(self.geometry))
        first = span.target_pages.start
        count = span.length // TARGET_PAGE_BYTES
        targets = {target for block, target in self.model if block == span.block}
        assert packed(targets, first, count) == self.pages.pack(span.block, first, count)

    @rule(count_max=st.integers(1, 80).map(lambda octets: octets * 8))
    def bitmaps_and_back(self, count_max: int) -> None:
        """Make another set of all bitmaps."""
        twin = PageSet(self.geometry)
        seen = set()
        for block, first, count, bits in self.pages.bitmaps(count_max):
            assert first % 8 == 0
            assert 0 < count <= count_max
            assert any(bits)
            assert (block, first) not in seen
            seen.add((block, first))
            twin.add_packed(block, first, count, bits)
        assert self.model == members_of(twin)
        assert len(self.model) == len(twin)

    @invariant()
    def counts_are_exact(self) -> None:
        """The count is kept, and is the true one."""
        assert len(self.model) == len(self.pages)
        assert len(self.model) * TARGET_PAGE_BYTES == self.pages.length_bytes

    @invariant()
    def members_are_the_same(self) -> None:
        """The members of every block are those of the model."""
        assert self.model == members_of(self.pages)

    @invariant()
    def pages_with_members_are_the_same(self) -> None:
        """The pages with members are those of the model."""
        for index, block in enumerate(self.geometry.blocks):
            expected = {
                target // block.target_pages_per_page for at, target in self.model if at == index
            }
            flags = self.pages.pages_with_members(index)
            assert block.page_count == len(flags)
            assert expected == set(np.flatnonzero(flags).tolist())


def test_a_page_set_is_a_set() -> None:
    """Whatever is done to a page set in whatever order, it answers as a set of target pages."""
    # Explaining a failure takes minutes here; the shortest sequence of steps says enough.
    phases = [phase for phase in Phase if phase is not Phase.explain]
    run_state_machine_as_test(
        PageSetMachine, settings=settings(max_examples=40, stateful_step_count=30, phases=phases)
    )


def test_a_new_set_is_empty() -> None:
    """A new page set has no members, finds none, and has no bitmaps to send."""
    pages = PageSet(GUEST)
    assert len(pages) == 0
    assert members_of(pages) == set()
    assert pages.first_from(1, 0) is None
    assert pages.take_first(1, 0, 5, 1) is None
    assert list(pages.bitmaps(64)) == []


@pytest.mark.parametrize(
    ("members", "start", "expected"),
    [
        ({(0, 7), (1, 2)}, (0, 7), (0, 7)),
        ({(0, 7), (1, 2)}, (0, 8), (1, 2)),
        ({(0, 7), (1, 2)}, (1, 3), (0, 7)),
        ({(0, 7), (1, 2)}, (2, 0), (0, 7)),
        ({(1, 2)}, (1, 3), (1, 2)),
        ({(1, 4)}, (2, 13), (1, 4)),
        ({(2, 12)}, (0, 0), (2, 12)),
        ({(2, 12)}, (2, 12), (2, 12)),
        ({(2, 0)}, (2, 1), (2, 0)),
    ],
)
def test_the_search_wraps_once(members: set[Member], start: Member, expected: Member) -> None:
    """The search goes on to the end, through the blocks behind, and round to where it began."""
    pages = made_of(GUEST, members)
    assert expected == pages.first_from(*start)


def test_what_is_taken_ends_at_its_bounds() -> None:
    """It ends at the end of where it is looked for, or when it is as much as was wanted."""
    pages = PageSet(GUEST)
    pages.add(Span(2, 2 * TARGET_PAGE_BYTES, 6 * TARGET_PAGE_BYTES))
    pages.add(Span(2, 9 * TARGET_PAGE_BYTES, 4 * TARGET_PAGE_BYTES))

    def take(first: int, stop: int, most: int) -> list[int]:
        found = pages.copy().take_first(2, first, stop, most)
        return np.r_[found.target_pages].tolist() if found is not None else []

    assert take(0, 13, 64) == [2, 3, 4, 5, 6, 7, 9, 10, 11, 12]
    assert take(0, 13, 7) == [2, 3, 4, 5, 6, 7, 9]
    assert take(0, 13, 3) == [2, 3, 4]
    assert take(0, 4, 64) == [2, 3]
    assert take(3, 13, 64) == [3, 4, 5, 6, 7, 9, 10, 11, 12]
    assert take(8, 13, 64) == [9, 10, 11, 12]
    assert take(8, 9, 64) == []
    assert take(0, 2, 64) == []


def test_nothing_is_found_in_no_span() -> None:
    """A span without length has no run, though its block is full."""
    pages = PageSet(GUEST)
    pages.fill()
    assert pages.take_first(1, 0, 0, 1) is None
    assert len(pages) == GUEST.target_page_count


@pytest.mark.parametrize("flat", [[], [0], [1023, 1024, 1028, 1029, 1041], list(range(1042))])
def test_flat_numbers_fall_into_their_blocks(flat: list[int]) -> None:
    """Flat numbers are found in their blocks, those at the blocks' edges too."""
    pages = PageSet(GUEST)
    pages.add(Span(1, 0, TARGET_PAGE_BYTES))
    pages.add_flat(np.array(flat, dtype=np.intp))
    assert {GUEST.locate(each) for each in flat} | {(1, 0)} == members_of(pages)
    assert len(members_of(pages)) == len(pages)


def test_members_cannot_be_written() -> None:
    """What `members` gives shows the set as it is and cannot change it."""
    pages = PageSet(GUEST)
    view = pages.members(1)
    pages.fill()
    assert view.all()
    with pytest.raises(ValueError, match="read-only"):
        view[0] = False


def test_a_copy_is_independent() -> None:
    """What is done to a copy is not done to the original."""
    pages = PageSet(GUEST)
    pages.add(Span(0, 0, 8 * TARGET_PAGE_BYTES))
    twin = pages.copy()
    twin.fill()
    assert len(pages) == 8
    assert len(twin) == GUEST.target_page_count


@given(st.data())
def test_members_of_a_span_are_copied(data: st.DataObject) -> None:
    """Of one set what lies in a span becomes a part of the other, and nothing is taken from it."""
    some = st.sets(st.sampled_from(all_targets(GUEST)), max_size=30)
    ours, theirs = data.draw(some), data.draw(some)
    span = data.draw(spans(GUEST))
    mine, other = made_of(GUEST, ours), made_of(GUEST, theirs)
    mine.copy_into(other, span)
    assert members_of(mine) == ours
    assert members_of(other) == theirs | (ours & targets_of(span))
    assert len(other) == len(members_of(other))


def test_bits_are_lowest_first() -> None:
    """Bit i of a bitmap, counted from the least significant, is target page first + i."""
    pages = PageSet(GUEST)
    for target in (1, 8, 12):
        pages.add(Span(2, target * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
    assert list(pages.bitmaps(64)) == [(2, 0, 13, b"\x02\x11")]
    assert list(pages.bitmaps(8)) == [(2, 0, 8, b"\x02"), (2, 8, 5, b"\x11")]


def test_bitmaps_leave_out_what_is_empty() -> None:
    """A stretch without members has no bitmap, its neighbours have."""
    pages = PageSet(GUEST)
    pages.add(Span(0, 64 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
    pages.add(Span(1, 4 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
    actual = [(block, first, count) for block, first, count, _ in pages.bitmaps(64)]
    assert actual == [(0, 64, 64), (1, 0, 5)]


@pytest.mark.parametrize(
    ("block", "first", "count", "bits", "message"),
    [
        (3, 0, 8, b"\xff", "bitmap of block 3 reaches outside"),
        (-1, 0, 8, b"\xff", "bitmap of block -1 reaches outside"),
        (1, 0, 6, b"\x3f", "bitmap of block 1 reaches outside"),
        (1, 5, 1, b"\x01", "bitmap of block 1 reaches outside"),
        (1, 1 << 62, 1, b"\x01", "bitmap of block 1 reaches outside"),
        (1, 0, 1 << 62, b"\x01", "bitmap of block 1 reaches outside"),
        (1, -1, 1, b"\x01", "bitmap of block 1 reaches outside"),
        (2, 0, 9, b"\x01", "1 bytes are no bitmap of 9 target pages"),
        (2, 0, 8, b"\x01\x00", "2 bytes are no bitmap of 8 target pages"),
        (2, 0, 8, b"", "0 bytes are no bitmap of 8 target pages"),
        (2, 0, 0, b"", "0 bytes are no bitmap of 0 target pages"),
        (2, 0, -8, b"", "0 bytes are no bitmap of -8 target pages"),
        (1, 0, 5, b"\x20", "bits after its end"),
        (2, 8, 5, b"\x80", "bits after its end"),
    ],
)
def test_a_wrong_bitmap_is_refused(
    block: int, first: int, count: int, bits: bytes, message: str
) -> None:
    """A bitmap of a wrong size or place is the peer's fault and adds nothing."""
    pages = PageSet(GUEST)
    with pytest.raises(RemoteProtocolError, match=message):
        pages.add_packed(block, first, count, bits)
    assert len(pages) == 0
    assert members_of(pages) == set()


wild = st.integers(-(1 << 63), 1 << 63) | st.integers(-20, 20)


@given(wild, wild, wild, st.binary(max_size=3))
def test_any_bitmap_is_taken_or_refused(block: int, first: int, count: int, bits: bytes) -> None:
    """Whatever numbers come with a bitmap, the set takes it whole or the peer is to blame."""
    pages = PageSet(GUEST)
    try:
        pages.add_packed(block, first, count, bits)
    except RemoteProtocolError:
        assert members_of(pages) == set()
    else:
        assert pages.pack(block, first, count) == bits
    assert len(members_of(pages)) == len(pages)


@pytest.mark.parametrize("page", [PageId(0, 0), PageId(0, 1), PageId(1, 4)])
def test_a_page_is_held_by_any_of_its_parts(page: PageId) -> None:
    """One target page of a page is enough for the page to be held, and no other page is."""
    pages = PageSet(GUEST)
    span = GUEST.page_span(page)
    pages.add(Span(span.block, span.end - TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
    held = [
        PageId(block, index)
        for block in range(len(GUEST.blocks))
        for index in range(GUEST.blocks[block].page_count)
        if pages.holds_page(PageId(block, index))
    ]
    assert held == [page]


def test_sets_of_other_guests_do_not_mix() -> None:
    """A set of a guest with other blocks cannot be added."""
    other: Any = PageSet(Geometry(GUEST.blocks[:2]))
    with pytest.raises(ValueError, match="shorter"):
        PageSet(GUEST).update(other)


@given(st.data())
def test_two_sets_against_each_other(data: DataObject) -> None:
    """What one set has beyond another, its runs, and a set that takes another's place."""
    one, other = PageSet(GUEST), PageSet(GUEST)
    for pages in (one, other):
        for span in data.draw(st.lists(spans(GUEST), max_size=4)):
            pages.add(span)
    assert one.count_beyond(other) == len(members_of(one) - members_of(other))
    runs = [(block, run) for block in range(len(GUEST.blocks)) for run in one.runs(block)]
    named = [
        (block, target) for block, (first, count) in runs for target in range(first, first + count)
    ]
    assert named == sorted(members_of(one))
    assert all((block, first + count) not in members_of(one) for block, (first, count) in runs), (
        "a run is as long as can be"
    )
    other.replace(one)
    assert members_of(other) == members_of(one)
    assert len(other) == len(one)
    other.fill()
    assert len(one) == len(named)


@given(st.lists(st.booleans(), max_size=40))
def test_flags_are_named_by_their_runs(flags: list[bool]) -> None:
    """Runs name the flags that are set, each once and in order, and none touches the next."""
    runs = runs_of(np.array(flags, dtype=np.bool_))
    assert [at for first, stop in runs for at in range(first, stop)] == [
        at for at, flag in enumerate(flags) if flag
    ]
    assert all(stop < first for (_, stop), (first, _) in pairwise(runs))


def test_runs_of_a_large_guest_take_little_memory() -> None:
    """What the switch-over asks of a guest in target pages takes two bytes for each, not twenty."""
    count = 1 << 20
    block = RamBlock("ram", count * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES)
    pages = PageSet(Geometry((block,)))
    pages.fill()
    pages.discard(0, count // 2)
    tracemalloc.start()
    try:
        runs = pages.runs(0), runs_of(pages.pages_with_members(0))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert runs[0] == [(0, count // 2), (count // 2 + 1, count // 2 - 1)]
    assert runs[1] == [(0, count // 2), (count // 2 + 1, count)]
    assert peak_bytes < 3 * count


def test_runs_are_as_many_as_a_frame_may_name() -> None:
    """Of pages sown thinly no more runs are returned than the limit, however large the chunk."""
    geometry = Geometry((RamBlock("ram", 4096 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES),))
    pages = PageSet(geometry)
    pages.add_flat(np.arange(0, 4096, 3))
    found = pages.take_first(0, 0, 4096, 16_384)
    assert isinstance(found, Runs)
    assert found.target_pages.tolist() == list(range(0, 3 * RUN_COUNT_MAX, 3))
    assert members_of(pages) == {(0, at) for at in range(3 * RUN_COUNT_MAX, 4096, 3)}


@pytest.mark.parametrize("few", [0, 256])
def test_runs_lie_no_further_apart_than_a_frame_can_say(
    monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """What lies beyond the extent of one frame is left for the next."""
    monkeypatch.setattr("protocol.pageset._FEW", few)
    monkeypatch.setattr("protocol.pageset.RUNS_EXTENT_BYTES_MAX", 100 * TARGET_PAGE_BYTES)
    geometry = Geometry((RamBlock("ram", 200 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES),))
    pages = PageSet(geometry)
    pages.add_flat(np.array([10, 12, 109, 110]))
    found = pages.take_first(0, 0, 200, 256)
    assert isinstance(found, Runs)
    assert found.target_pages.tolist() == [10, 12, 109]
    assert members_of(pages) == {(0, 110)}


def test_few_pages_and_many_are_the_same() -> None:
    """What is asked byte by byte and what NumPy is asked have the same answers."""
    rng = np.random.default_rng(7)
    geometry = Geometry((RamBlock("ram", 2 * HUGE_PAGE_BYTES, HUGE_PAGE_BYTES),))
    flat = np.flatnonzero(rng.random(geometry.target_page_count) < 0.4)
    sets = (PageSet(geometry), PageSet(geometry))
    for pages in sets:
        pages.add_flat(flat)
    for _ in range(60):
        first, stop = sorted(rng.choice(geometry.target_page_count, 2, replace=False).tolist())
        within = Span(0, first * TARGET_PAGE_BYTES, (stop - first) * TARGET_PAGE_BYTES)
        most = int(rng.integers(1, 300))
        answers = []
        for pages, few in zip(sets, (0, 1 << 20), strict=True):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("protocol.pageset._FEW", few)
                patch.setattr("protocol.pageset._MANY_SET", b"\1" * 1024)
                patch.setattr("protocol.pageset._MANY_CLEAR", bytes(1024))
                runs = take_first(pages, within, most)
                answers.append((runs, pages.count_in(within), len(pages)))
        assert answers[0] == answers[1]
    assert members_of(sets[0]) == members_of(sets[1])


def test_a_row_ends_before_what_is_no_member() -> None:
    """It counts from a place on, to a gap or to where nobody asks any more."""
    pages = PageSet(Geometry((RamBlock("ram", 64 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES),)))
    pages.fill()
    pages.discard(0, 40)
    assert [pages.row_from(0, first, 64) for first in (0, 39, 40, 41)] == [40, 1, 0, 23]
    assert pages.row_from(0, 10, 15) == 5
