"""Tests of protocol/geometry.py."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock, Span
from protocol.limits import BLOCK_COUNT_MAX, BLOCK_NAME_CHARS_MAX, GUEST_BYTES_MAX
from tests.strategies import geometries, spans

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

RAM = RamBlock("ram", 6 * MIB, 2 * MIB)
ROM = RamBlock("rom", 12 * KIB, 4 * KIB)
GUEST = Geometry((RAM, ROM))


def test_counts_of_a_block() -> None:
    """A block's counts follow from its length and its page size."""
    actual = (RAM.page_count, RAM.target_page_count, RAM.target_pages_per_page)
    assert actual == (3, 1536, 512)
    actual = (ROM.page_count, ROM.target_page_count, ROM.target_pages_per_page)
    assert actual == (3, 3, 1)


def test_counts_of_a_guest() -> None:
    """A guest's counts are the sums of its blocks'."""
    actual = (GUEST.length_bytes, GUEST.page_count, GUEST.target_page_count)
    assert actual == (6 * MIB + 12 * KIB, 6, 1539)
    assert GUEST.target_page_bases == (0, 1536)


@pytest.mark.parametrize(
    ("name", "length_bytes", "page_bytes", "message"),
    [
        ("", 4096, 4096, "RAMBlock name '' is not printable ASCII"),
        ("räm", 4096, 4096, "RAMBlock name 'räm' is not printable ASCII"),
        ("r\nm", 4096, 4096, r"RAMBlock name 'r\nm' is not printable ASCII"),
        ("n" * 65, 4096, 4096, f"RAMBlock name '{'n' * 20}'... is longer than 64"),
        ("ram", 8192, 8192, "RAMBlock 'ram': a page of 8192 bytes is not 4 KiB, 2 MiB or 1 GiB"),
        ("ram", 8192, 0, "RAMBlock 'ram': a page of 0 bytes is not 4 KiB, 2 MiB or 1 GiB"),
        ("ram", 8192, -4096, "RAMBlock 'ram': a page of -4096 bytes is not 4 KiB, 2 MiB or 1 GiB"),
        ("ram", 0, 4096, "RAMBlock 'ram': 0 bytes are not one or more pages of 4096 bytes"),
        ("ram", -4096, 4096, "RAMBlock 'ram': -4096 bytes are not one or more pages of 4096 bytes"),
        ("ram", 4097, 4096, "RAMBlock 'ram': 4097 bytes are not one or more pages of 4096 bytes"),
        ("ram", MIB, GIB, f"RAMBlock 'ram': {MIB} bytes are not one or more pages of {GIB} bytes"),
    ],
)
def test_a_block_that_cannot_be(
    name: str, length_bytes: int, page_bytes: int, message: str
) -> None:
    """A block with a wrong name or size is refused in one line that says what is wrong."""
    with pytest.raises(LocalProtocolError) as caught:
        RamBlock(name, length_bytes, page_bytes)
    assert message == str(caught.value)


def test_a_guest_needs_blocks() -> None:
    """A guest without blocks, or with more than the limit, is refused."""
    with pytest.raises(LocalProtocolError, match="1 to 64 RAMBlocks, not 0"):
        Geometry(())
    many = tuple(RamBlock(f"b{index}", 4096, 4096) for index in range(BLOCK_COUNT_MAX + 1))
    with pytest.raises(LocalProtocolError, match="1 to 64 RAMBlocks, not 65"):
        Geometry(many)
    assert Geometry(many[1:]).page_count == BLOCK_COUNT_MAX


def test_names_differ() -> None:
    """Two blocks of one name are refused, by that name."""
    with pytest.raises(LocalProtocolError, match="two RAMBlocks are named 'rom'"):
        Geometry((ROM, RAM, ROM))


def test_a_guest_has_a_size() -> None:
    """A guest may be as large as the limit, all blocks together, and not a page larger."""
    most = RamBlock("n" * BLOCK_NAME_CHARS_MAX, GUEST_BYTES_MAX, GIB)
    assert Geometry((most,)).target_page_count == 64 * TIB // TARGET_PAGE_BYTES
    with pytest.raises(LocalProtocolError, match="is larger than"):
        Geometry((most, ROM))


@given(geometries(), st.data())
def test_locate_and_back(geometry: Geometry, data: st.DataObject) -> None:
    """Every flat number has one place, and that place has this flat number."""
    flat = data.draw(st.integers(0, geometry.target_page_count - 1))
    block, target_page = geometry.locate(flat)
    assert 0 <= target_page < geometry.blocks[block].target_page_count
    actual = geometry.flat_target_page(block, target_page)
    assert flat == actual


@settings(max_examples=30)
@given(geometries())
def test_flat_numbers_are_block_after_block(geometry: Geometry) -> None:
    """Flat numbers count all target pages of the blocks in their order, without a gap."""
    expected = [
        (index, target_page)
        for index, block in enumerate(geometry.blocks)
        for target_page in range(block.target_page_count)
    ]
    actual = [geometry.locate(flat) for flat in range(geometry.target_page_count)]
    assert expected == actual


@pytest.mark.parametrize("flat", [-1, 1539, 1 << 70])
def test_locate_outside(flat: int) -> None:
    """A flat number outside the guest is refused, by that number."""
    with pytest.raises(LocalProtocolError, match=f"target page {flat} is outside the guest"):
        GUEST.locate(flat)


@given(geometries(), st.data())
def test_a_target_page_lies_in_its_page(geometry: Geometry, data: st.DataObject) -> None:
    """The page of a target page is one of the guest's, and its span holds the target page."""
    block, target_page = geometry.locate(data.draw(st.integers(0, geometry.target_page_count - 1)))
    page = geometry.page_of(block, target_page)
    assert geometry.has_page(page)
    span = geometry.page_span(page)
    assert geometry.has_span(span)
    assert span.target_pages.start <= target_page < span.target_pages.stop
    assert geometry.blocks[block].page_bytes == span.length


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (PageId(0, 0), True),
        (PageId(0, 2), True),
        (PageId(0, 3), False),
        (PageId(0, -1), False),
        (PageId(1, 2), True),
        (PageId(1, 3), False),
        (PageId(2, 0), False),
        (PageId(-1, 0), False),
    ],
)
def test_has_page(page: PageId, expected: bool) -> None:
    """A guest has the pages of its blocks and no others."""
    actual = GUEST.has_page(page)
    assert expected == actual


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (Span(0, 0, 4096), True),
        (Span(0, 0, 6 * MIB), True),
        (Span(0, 6 * MIB - 4096, 4096), True),
        (Span(1, 4096, 8192), True),
        (Span(0, 0, 0), False),
        (Span(0, 0, -4096), False),
        (Span(0, -4096, 8192), False),
        (Span(0, 6 * MIB, 4096), False),
        (Span(0, 0, 6 * MIB + 4096), False),
        (Span(0, 1, 4096), False),
        (Span(0, 0, 4095), False),
        (Span(0, 2048, 2048), False),
        (Span(1, 1 << 62, 4096), False),
        (Span(1, 0, 1 << 62), False),
        (Span(2, 0, 4096), False),
        (Span(-1, 0, 4096), False),
    ],
)
def test_has_span(span: Span, expected: bool) -> None:
    """A guest has the non-empty runs of whole target pages inside one block, and no others."""
    actual = GUEST.has_span(span)
    assert expected == actual


@given(geometries(), st.data())
def test_pages_of(geometry: Geometry, data: st.DataObject) -> None:
    """The pages of a span are those of its target pages, each once and in order."""
    span = data.draw(spans(geometry))
    targets = range(span.target_pages.start, span.target_pages.stop)
    expected = sorted({geometry.page_of(span.block, target).index for target in targets})
    actual = list(geometry.pages_of(span))
    assert expected == actual


@given(geometries(), st.data())
def test_the_span_of_consecutive_pages(geometry: Geometry, data: st.DataObject) -> None:
    """Consecutive pages make one span, from the first one's start to the last one's end."""
    block = data.draw(st.integers(0, len(geometry.blocks) - 1))
    first = data.draw(st.integers(0, geometry.blocks[block].page_count - 1))
    last = data.draw(st.integers(first, geometry.blocks[block].page_count - 1))
    span = geometry.span_of(block, range(first, last + 1))
    assert span.offset == geometry.page_span(PageId(block, first)).offset
    assert span.end == geometry.page_span(PageId(block, last)).end
    assert geometry.pages_of(span) == range(first, last + 1)


@given(geometries())
def test_a_guest_in_target_pages(geometry: Geometry) -> None:
    """The same bytes under the same names, with the target page for page, flat numbers included."""
    small = geometry.in_target_pages()
    assert [block.page_bytes for block in small.blocks] == [4096] * len(geometry.blocks)
    assert small.page_count == geometry.target_page_count
    assert small.target_page_bases == geometry.target_page_bases
    for ours, theirs in zip(small.blocks, geometry.blocks, strict=True):
        assert (ours.name, ours.length_bytes) == (theirs.name, theirs.length_bytes)


def test_pages_are_ordered_by_block_first() -> None:
    """Pages sort by block, then by index, and the index alone does not make them equal."""
    actual = sorted([PageId(1, 0), PageId(0, 5), PageId(0, 1)])
    assert actual == [PageId(0, 1), PageId(0, 5), PageId(1, 0)]
    assert PageId(0, 1) != PageId(1, 1)
    assert len({PageId(0, 1), PageId(0, 1), PageId(1, 1)}) == 2


def test_the_end_of_a_span() -> None:
    """A span ends behind its last byte, and its target pages are those between."""
    span = Span(0, 8192, 4096)
    assert span.end == 12288
    assert span.target_pages == slice(2, 3)


def test_blocks_of_base_pages_are_told_from_others() -> None:
    """A block has base pages where a page is a single target page."""
    geometry = Geometry((RamBlock("huge", 2 << 20, 2 << 20), RamBlock("base", 8192, 4096)))
    assert geometry.has_base_pages == (False, True)
    assert geometry.in_target_pages().has_base_pages == (True, True)
