"""What the destination takes and refuses, and when a page is whole.

`test_assembly_model.py` holds the assembly against a naive model, hostile source included.
"""

from collections.abc import Iterable
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dest.assembly import Assembly
from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock, Span
from protocol.policy import PRESETS, preset
from protocol.runs import Runs, Stretch

BASE, HUGE = TARGET_PAGE_BYTES, 2 << 20
PRECOPY, POSTCOPY = Channel.PRECOPY, Channel.POSTCOPY

# Blocks 0 and 1 have huge pages, block 2 has base pages.
GUEST = Geometry(
    (
        RamBlock("one", 4 * HUGE, HUGE),
        RamBlock("two", 2 * HUGE, HUGE),
        RamBlock("base", 40 * BASE, BASE),
    )
)
HALF = HUGE // 2


def page_span(index: int, block: int = 0) -> Span:
    """Return the bytes of a huge page."""
    return Span(block, index * HUGE, HUGE)


def base_pages(first: int, count: int) -> Span:
    """Return the bytes of a run of base pages."""
    return Span(2, first * BASE, count * BASE)


def discard(assembly: Assembly, span: Span) -> None:
    """Have a span discarded."""
    first, count = span.target_pages.start, span.length // BASE
    bits = np.packbits(np.ones(count, dtype=np.bool_), bitorder="little").tobytes()
    assembly.discard(span.block, first, count, bits)


def in_postcopy(stale: Iterable[Span] | None = None, policy: str = "ordered") -> Assembly:
    """Return an assembly in postcopy that misses some spans, or the whole guest."""
    assembly = Assembly(GUEST, preset(policy))
    if stale is None:
        stale = [Span(number, 0, block.length_bytes) for number, block in enumerate(GUEST.blocks)]
    for span in stale:
        discard(assembly, span)
    assembly.start_postcopy()
    return assembly


def receive(assembly: Assembly, channel: Channel, span: Span) -> Stretch | None:
    """Have a whole frame come; return what is whole then."""
    assembly.begin(channel, span)
    assembly.progress(channel, span.length)
    return assembly.end(channel)


def incomplete(assembly: Assembly) -> list[Span]:
    """Return the stretches of all blocks that are not whole."""
    return [span for block in range(len(GUEST.blocks)) for span in assembly.incomplete_pages(block)]


# Precopy.


def test_in_precopy_pages_come_again_and_again() -> None:
    """In precopy any whole target pages may come any number of times, and none is ever whole."""
    assembly = Assembly(GUEST, preset("ordered"))
    for _ in range(3):
        assert receive(assembly, PRECOPY, Span(0, HALF, HUGE)) is None
        assert receive(assembly, PRECOPY, base_pages(3, 5)) is None
    assert assembly.complete
    assert not assembly.in_postcopy
    assert assembly.missing_bytes == 0
    assert incomplete(assembly) == []
    assert assembly.is_placed(PageId(0, 0))
    assert assembly.channel_of(PageId(0, 0)) is None


def test_in_precopy_page_bytes_come_over_the_precopy_channel() -> None:
    """Page bytes on the postcopy channel before the switch-over are refused."""
    assembly = Assembly(GUEST, preset("ordered"))
    with pytest.raises(RemoteProtocolError, match="postcopy channel in precopy"):
        assembly.begin(POSTCOPY, page_span(0))
    assert assembly.complete


OUTSIDE = [
    Span(3, 0, BASE),
    Span(-1, 0, BASE),
    Span(0, -BASE, BASE),
    Span(0, 4 * HUGE, BASE),
    Span(0, 4 * HUGE - BASE, 2 * BASE),
    Span(2, 0, 41 * BASE),
    Span(0, 1 << 62, BASE),
    Span(0, 0, 0),
    Span(0, BASE, -BASE),
    Span(0, 1, BASE),
    Span(0, 0, BASE + 1),
    Span(0, 512, 512),
]


@pytest.mark.parametrize("span", OUTSIDE)
@pytest.mark.parametrize("postcopy", [False, True])
def test_what_is_outside_the_guest_is_refused(span: Span, postcopy: bool) -> None:
    """Bytes outside a block, or of no whole target pages, are refused in every phase."""
    assembly = in_postcopy() if postcopy else Assembly(GUEST, preset("ordered"))
    missing_bytes = assembly.missing_bytes
    with pytest.raises(RemoteProtocolError, match="outside the guest"):
        assembly.begin(PRECOPY, span)
    assert assembly.missing_bytes == missing_bytes
    # The channel is free for a correct frame.
    assembly.begin(PRECOPY, page_span(1))


def test_counts_are_those_of_whole_frames() -> None:
    """Target pages and data bytes count by channel when their frame ends, zeros without bytes."""
    assembly = in_postcopy()
    receive(assembly, PRECOPY, Span(0, 0, HALF))
    assembly.begin(PRECOPY, Span(0, HALF, HALF))
    assembly.end(PRECOPY)
    receive(assembly, POSTCOPY, base_pages(0, 7))
    assembly.begin(POSTCOPY, page_span(1))
    assembly.progress(POSTCOPY, HUGE)
    counts = {channel: (c.target_pages, c.data_bytes) for channel, c in assembly.counts.items()}
    assert counts == {PRECOPY: (512, HALF), POSTCOPY: (7, 7 * BASE)}


def test_frames_of_precopy_count_each_time() -> None:
    """A target page that comes twice in precopy counts twice, as it does at the source."""
    assembly = Assembly(GUEST, preset("ordered"))
    receive(assembly, PRECOPY, page_span(0))
    receive(assembly, PRECOPY, page_span(0))
    assert assembly.counts[PRECOPY].target_pages == 1024


# The switch-over.


def test_what_was_discarded_is_missing() -> None:
    """From the switch-over exactly the discarded target pages are missing."""
    stale = [Span(0, HUGE - BASE, 2 * BASE), page_span(1, block=1), base_pages(3, 2)]
    assembly = in_postcopy(stale)
    assert assembly.in_postcopy
    assert not assembly.complete
    assert assembly.missing_bytes == HUGE + 4 * BASE
    placed = {
        PageId(number, index)
        for number, block in enumerate(GUEST.blocks)
        for index in range(block.page_count)
        if assembly.is_placed(PageId(number, index))
    }
    missing = {PageId(0, 0), PageId(0, 1), PageId(1, 1), PageId(2, 3), PageId(2, 4)}
    everything = {PageId(n, i) for n, b in enumerate(GUEST.blocks) for i in range(b.page_count)}
    assert placed == everything - missing
    assert assembly.received_bytes(PageId(0, 0)) == HUGE - BASE


def test_a_switch_over_with_nothing_stale_is_complete() -> None:
    """Without discards there is nothing to wait for."""
    assembly = in_postcopy([])
    assert assembly.complete
    assert incomplete(assembly) == []


def test_incomplete_pages_come_in_the_longest_stretches() -> None:
    """Pages that miss anything are told in whole pages, neighbours together, blocks apart."""
    stale = [
        Span(0, 0, BASE), Span(0, 2 * HUGE - BASE, BASE), Span(0, 4 * HUGE - BASE, BASE),
        page_span(0, block=1), base_pages(0, 1), base_pages(38, 2), base_pages(7, 3),
    ]  # fmt: skip
    assert incomplete(in_postcopy(stale)) == [
        Span(0, 0, 2 * HUGE),
        Span(0, 3 * HUGE, HUGE),
        Span(1, 0, HUGE),
        base_pages(0, 1),
        base_pages(7, 3),
        base_pages(38, 2),
    ]


def test_a_page_is_incomplete_until_its_last_frame_has_ended() -> None:
    """A page whose last bytes are under way is neither whole nor placed."""
    assembly = in_postcopy([page_span(2), base_pages(5, 3)])
    assembly.begin(PRECOPY, page_span(2))
    assembly.begin(POSTCOPY, base_pages(6, 1))
    assembly.progress(PRECOPY, HUGE)
    assembly.progress(POSTCOPY, BASE)
    assert assembly.missing_bytes == 2 * BASE
    assert incomplete(assembly) == [page_span(2), base_pages(5, 3)]
    assert not assembly.is_placed(PageId(0, 2))
    assert not assembly.is_placed(PageId(2, 6))
    assembly.end(POSTCOPY)
    assembly.end(PRECOPY)
    assert incomplete(assembly) == [base_pages(5, 1), base_pages(7, 1)]
    assert assembly.is_placed(PageId(0, 2))
    assert assembly.is_placed(PageId(2, 6))


@pytest.mark.parametrize("span", [page_span(1), base_pages(7, 2)])
def test_the_neighbours_of_what_is_under_way_are_placed(span: Span) -> None:
    """A frame under way is in the pages that it touches, and in no other of any block."""
    assembly = in_postcopy([span])
    assembly.begin(PRECOPY, span)
    assembly.progress(PRECOPY, BASE)
    touched = {PageId(span.block, index) for index in GUEST.pages_of(span)}
    for number, block in enumerate(GUEST.blocks):
        for index in range(block.page_count):
            page = PageId(number, index)
            assert assembly.is_placed(page) == (page not in touched)


def test_discards_add_up() -> None:
    """Bitmaps may overlap; a target page that is discarded twice is missing once."""
    assembly = in_postcopy([Span(0, 0, 16 * BASE), Span(0, 8 * BASE, 16 * BASE)])
    assert assembly.missing_bytes == 24 * BASE


@pytest.mark.parametrize(
    ("block", "first", "count", "bits"),
    [
        (3, 0, 8, b"\xff"),
        (2, 40, 8, b"\xff"),
        (2, 39, 2, b"\x03"),
        (2, 0, 0, b""),
        (2, 0, 9, b"\xff"),
        (2, 0, 8, b"\xff\x00"),
        (2, 0, 4, b"\xff"),
        (2, 1 << 62, 8, b"\xff"),
    ],
)
def test_a_discard_outside_the_guest_is_refused(
    block: int, first: int, count: int, bits: bytes
) -> None:
    """A bitmap that does not fit the guest or its own length is refused and discards nothing."""
    assembly = Assembly(GUEST, preset("ordered"))
    with pytest.raises(RemoteProtocolError):
        assembly.discard(block, first, count, bits)
    assembly.start_postcopy()
    assert assembly.complete


def test_a_discard_after_the_switch_over_is_refused() -> None:
    """What the running guest holds can no longer be discarded."""
    assembly = in_postcopy([page_span(0)])
    with pytest.raises(RemoteProtocolError, match="after the switch-over"):
        discard(assembly, page_span(1))
    assert assembly.missing_bytes == HUGE


# Postcopy.


@given(order=st.permutations(range(8)))
def test_a_page_is_whole_with_its_last_chunk_in_any_order(order: list[int]) -> None:
    """The chunks of a huge page may come in any order; the last one makes it whole."""
    chunk = HUGE // 8
    assembly = in_postcopy([page_span(1), page_span(2)])
    whole = [receive(assembly, POSTCOPY, Span(0, HUGE + i * chunk, chunk)) for i in order]
    assert whole == [None] * 7 + [page_span(1)]
    assert assembly.is_placed(PageId(0, 1))
    assert not assembly.is_placed(PageId(0, 2))
    assert not assembly.complete


def test_a_page_that_was_stale_in_part_needs_only_that_part() -> None:
    """What precopy brought and nothing made stale is not waited for."""
    stale = [Span(0, HUGE + 3 * BASE, 2 * BASE), Span(0, 2 * HUGE - BASE, BASE)]
    assembly = in_postcopy(stale)
    assert receive(assembly, PRECOPY, stale[1]) is None
    assert receive(assembly, PRECOPY, stale[0]) == page_span(1)
    assert assembly.complete


def test_a_run_of_base_pages_is_whole_with_its_frame() -> None:
    """Base pages are whole as they come, a run at a time."""
    assembly = in_postcopy()
    assert receive(assembly, PRECOPY, base_pages(3, 20)) == base_pages(3, 20)
    assert receive(assembly, POSTCOPY, base_pages(30, 1)) == base_pages(30, 1)
    assert assembly.is_placed(PageId(2, 22))
    assert not assembly.is_placed(PageId(2, 23))


@pytest.mark.parametrize("channel", [PRECOPY, POSTCOPY])
@pytest.mark.parametrize(
    "again", [Span(0, HUGE, HALF), Span(0, HUGE + HALF - BASE, 2 * BASE), Span(0, HUGE, HUGE)]
)
def test_what_came_does_not_come_again(channel: Channel, again: Span) -> None:
    """In postcopy a target page comes once: an overlap is refused, wholly or in part."""
    assembly = in_postcopy()
    receive(assembly, PRECOPY, Span(0, HUGE, HALF))
    with pytest.raises(RemoteProtocolError, match="came again"):
        assembly.begin(channel, again)
    assert receive(assembly, PRECOPY, Span(0, HUGE + HALF, HALF)) == page_span(1)


def test_what_is_under_way_does_not_come_again() -> None:
    """Bytes whose frame has only begun are as good as here for the other channel."""
    assembly = in_postcopy()
    assembly.begin(PRECOPY, base_pages(0, 10))
    with pytest.raises(RemoteProtocolError, match="came again"):
        assembly.begin(POSTCOPY, base_pages(9, 2))


def test_what_was_not_stale_does_not_come() -> None:
    """After the switch-over the guest's own bytes are not overwritten."""
    assembly = in_postcopy([page_span(0)])
    with pytest.raises(RemoteProtocolError, match="came again"):
        assembly.begin(PRECOPY, page_span(1))


@pytest.mark.parametrize(("first", "second"), [(PRECOPY, POSTCOPY), (POSTCOPY, PRECOPY)])
@pytest.mark.parametrize("ended", [False, True])
def test_a_huge_page_comes_over_one_channel(first: Channel, second: Channel, ended: bool) -> None:
    """A page that began on one channel is refused on the other, and goes on where it began."""
    assembly = in_postcopy()
    assembly.begin(first, Span(0, 0, HALF))
    assembly.progress(first, HALF)
    if ended:
        assembly.end(first)
    assert assembly.channel_of(PageId(0, 0)) is first
    with pytest.raises(RemoteProtocolError, match="over both channels"):
        assembly.begin(second, Span(0, HALF, HALF))
    if not ended:
        assembly.end(first)
    assert assembly.missing_bytes == GUEST.length_bytes - HALF
    assert receive(assembly, first, Span(0, HALF, HALF)) == page_span(0)
    assert assembly.channel_of(PageId(0, 0)) is None


def test_a_page_is_its_block_and_its_index() -> None:
    """The same index in two blocks may come over two channels, byte offsets alike."""
    assembly = in_postcopy()
    assembly.begin(PRECOPY, Span(0, HUGE, HALF))
    assembly.begin(POSTCOPY, Span(1, HUGE, HALF))
    assembly.progress(POSTCOPY, HALF)
    assert assembly.received_bytes(PageId(0, 1)) == 0
    assert assembly.received_bytes(PageId(1, 1)) == HALF
    assert assembly.end(POSTCOPY) is None
    assert receive(assembly, POSTCOPY, Span(1, HUGE + HALF, HALF)) == page_span(1, block=1)
    assert assembly.channel_of(PageId(0, 1)) is PRECOPY
    assert not assembly.is_placed(PageId(0, 1))


def test_a_frame_holds_bytes_of_one_huge_page() -> None:
    """A frame across the border of two huge pages is refused and claims neither."""
    assembly = in_postcopy()
    with pytest.raises(RemoteProtocolError, match="parts of 2 pages"):
        assembly.begin(PRECOPY, Span(0, HALF, HUGE))
    assert assembly.channel_of(PageId(0, 0)) is None
    assert assembly.missing_bytes == GUEST.length_bytes
    assert receive(assembly, POSTCOPY, page_span(0)) == page_span(0)


@pytest.mark.parametrize("seed", range(50))
def test_two_channels_may_interleave_in_any_way(seed: int) -> None:
    """Whatever comes between what on the other channel, each page is whole exactly once."""
    chance = Random(seed)
    quarter = HUGE // 4
    waiting = {
        PRECOPY: [Span(0, offset, quarter) for offset in range(0, 2 * HUGE, quarter)],
        POSTCOPY: [
            *(Span(0, offset, quarter) for offset in range(2 * HUGE, 3 * HUGE, quarter)),
            base_pages(0, 1), base_pages(1, 30), base_pages(31, 9),
        ],
    }  # fmt: skip
    assembly = in_postcopy([Span(0, 0, 3 * HUGE), base_pages(0, 40)])
    arriving: dict[Channel, list[int]] = {}
    whole: list[Stretch | None] = []
    while waiting[PRECOPY] or waiting[POSTCOPY] or arriving:
        open_channels = [channel for channel in Channel if waiting[channel] or channel in arriving]
        channel = chance.choice(open_channels)
        if channel not in arriving:
            span = waiting[channel].pop(0)
            assembly.begin(channel, span)
            cut = chance.randint(0, span.length)
            arriving[channel] = [cut, span.length - cut]
        elif arriving[channel]:
            assembly.progress(channel, arriving[channel].pop(0))
        else:
            del arriving[channel]
            whole.append(assembly.end(channel))
        assert assembly.complete == (not any(waiting.values()) and not arriving)
    spans = sorted(span for span in whole if isinstance(span, Span))
    assert spans == [
        *(page_span(index) for index in range(3)),
        base_pages(0, 1), base_pages(1, 30), base_pages(31, 9),
    ]  # fmt: skip


def test_received_bytes_are_exact_to_the_byte() -> None:
    """A page's received bytes are those of its frames, also of one that is under way."""
    assembly = in_postcopy([Span(0, HUGE + BASE, HUGE - BASE)])
    page = PageId(0, 1)
    here = BASE
    for offset, length in ((HALF, HALF), (BASE, HALF - BASE)):
        assembly.begin(PRECOPY, Span(0, HUGE + offset, length))
        left = length
        for count in (0, 1, 1, 4094, 1, 4097, 65_536, length):
            taken = min(count, left)
            assembly.progress(PRECOPY, taken)
            here += taken
            left -= taken
            assert assembly.received_bytes(page) == here
        assembly.end(PRECOPY)
        assert assembly.received_bytes(page) == here
    assert here == HUGE


def test_received_bytes_of_base_pages_are_exact_inside_a_run() -> None:
    """In a run under way the first pages are here, one is here in part, the others are not."""
    assembly = in_postcopy()
    assembly.begin(POSTCOPY, base_pages(10, 3))
    assembly.progress(POSTCOPY, BASE + 1)
    received = [assembly.received_bytes(PageId(2, index)) for index in range(9, 14)]
    assert received == [0, BASE, 1, 0, 0]


def test_received_bytes_in_precopy_leave_out_what_is_under_way() -> None:
    """In precopy a page is here but for the bytes that are being overwritten."""
    assembly = Assembly(GUEST, preset("ordered"))
    assert assembly.received_bytes(PageId(0, 1)) == HUGE
    assembly.begin(PRECOPY, Span(0, HALF, HUGE))
    assembly.progress(PRECOPY, HALF + 5)
    received = [assembly.received_bytes(PageId(0, index)) for index in range(3)]
    assert received == [HUGE, HALF + 5, HUGE]


def test_a_source_that_skips_a_page_leaves_the_assembly_incomplete() -> None:
    """Complete means that every missing target page came and no frame is under way."""
    assembly = in_postcopy([page_span(0), Span(1, 0, BASE)])
    receive(assembly, PRECOPY, page_span(0))
    states = [assembly.complete]
    assembly.begin(PRECOPY, Span(1, 0, BASE))
    states.append(assembly.complete)
    assembly.progress(PRECOPY, BASE)
    states.append(assembly.complete)
    assembly.end(PRECOPY)
    states.append(assembly.complete)
    assert states == [False, False, False, True]


# What this side must not do.


def test_a_channel_carries_one_frame_at_a_time() -> None:
    """A second frame on a channel whose first has not ended is this side's fault."""
    assembly = in_postcopy()
    assembly.begin(PRECOPY, page_span(0))
    with pytest.raises(LocalProtocolError):
        assembly.begin(PRECOPY, page_span(1))
    assert assembly.missing_bytes == GUEST.length_bytes - HUGE
    assembly.begin(POSTCOPY, page_span(1))


@pytest.mark.parametrize("other_under_way", [False, True])
def test_a_frame_that_has_not_begun_makes_no_progress_and_no_end(other_under_way: bool) -> None:
    """Progress and end belong to a frame of that very channel."""
    assembly = in_postcopy()
    if other_under_way:
        assembly.begin(POSTCOPY, page_span(0))
    with pytest.raises(LocalProtocolError):
        assembly.progress(PRECOPY, 1)
    with pytest.raises(LocalProtocolError):
        assembly.end(PRECOPY)


@pytest.mark.parametrize("count", [-1, HALF - 9, HUGE])
def test_a_frame_does_not_grow_beyond_its_length(count: int) -> None:
    """Bytes beyond the frame's length, or fewer than none, are this side's fault."""
    assembly = in_postcopy()
    assembly.begin(PRECOPY, Span(0, 0, HALF))
    assembly.progress(PRECOPY, 10)
    with pytest.raises(LocalProtocolError):
        assembly.progress(PRECOPY, count)
    assert assembly.received_bytes(PageId(0, 0)) == 10


@pytest.mark.parametrize("received", [1, BASE, HUGE - 1])
def test_a_frame_does_not_end_in_its_middle(received: int) -> None:
    """A frame ends with all of its bytes, or as a stretch of zeros with none."""
    assembly = in_postcopy()
    assembly.begin(PRECOPY, page_span(0))
    assembly.progress(PRECOPY, received)
    with pytest.raises(LocalProtocolError):
        assembly.end(PRECOPY)
    assert not assembly.is_placed(PageId(0, 0))
    assembly.progress(PRECOPY, HUGE - received)
    assert assembly.end(PRECOPY) == page_span(0)


def test_postcopy_starts_once_and_between_frames() -> None:
    """The switch-over is refused a second time, and while a frame is under way."""
    assembly = Assembly(GUEST, preset("ordered"))
    assembly.begin(PRECOPY, page_span(0))
    with pytest.raises(LocalProtocolError):
        assembly.start_postcopy()
    assembly.end(PRECOPY)
    assembly.start_postcopy()
    with pytest.raises(LocalProtocolError):
        assembly.start_postcopy()


# What policies let a huge page do.

FIRST_HALF, SECOND_HALF = Span(0, 0, HALF), Span(0, HALF, HALF)


@pytest.mark.parametrize("policy", sorted(PRESETS))
def test_the_policy_says_whether_a_page_may_come_over_both_channels(policy: str) -> None:
    """The second half of a page over the other channel is refused, unless the policy mixes them."""
    assembly = in_postcopy(policy=policy)
    receive(assembly, PRECOPY, FIRST_HALF)
    if policy in {"split", "critical-first"}:
        receive(assembly, POSTCOPY, SECOND_HALF)
        assert assembly.is_whole(page_span(0))
    elif policy == "resend":
        receive(assembly, POSTCOPY, SECOND_HALF)
        # What came before counts for nothing.
        assert not assembly.is_whole(page_span(0))
        assert assembly.missing_bytes == GUEST.length_bytes - HALF
    else:
        with pytest.raises(RemoteProtocolError, match="over both channels"):
            assembly.begin(POSTCOPY, SECOND_HALF)


@pytest.mark.parametrize("policy", ["split", "critical-first"])
def test_a_mixed_page_is_whole_with_the_last_of_both_channels(policy: str) -> None:
    """Chunks of one page may be under way on both channels at once, and none comes twice."""
    assembly = in_postcopy([page_span(0)], policy)
    assembly.begin(PRECOPY, FIRST_HALF)
    assembly.begin(POSTCOPY, SECOND_HALF)
    assembly.progress(PRECOPY, HALF)
    assembly.progress(POSTCOPY, HALF)
    assembly.end(POSTCOPY)
    assert not assembly.is_whole(page_span(0))
    with pytest.raises(RemoteProtocolError, match="came again"):
        assembly.begin(POSTCOPY, FIRST_HALF)
    assembly.end(PRECOPY)
    assert assembly.is_whole(page_span(0))
    assert assembly.complete


@pytest.mark.parametrize("policy", sorted(PRESETS))
def test_one_frame_is_for_one_huge_page(policy: str) -> None:
    """A frame across the border of two huge pages is refused whatever the unit is."""
    assembly = in_postcopy(policy=policy)
    with pytest.raises(RemoteProtocolError, match="parts of 2 pages"):
        assembly.begin(PRECOPY, Span(0, HUGE - BASE, 2 * BASE))


# critical-first: units are target pages.


def test_a_critical_unit_is_whole_by_itself() -> None:
    """Under a critical policy what has come of a huge page is placed, and the rest is not."""
    assembly = in_postcopy([page_span(0), page_span(1)], "critical-first")
    touched = Span(0, 7 * BASE, BASE)
    assert receive(assembly, POSTCOPY, touched) == touched
    rest = Span(0, 8 * BASE, 16 * BASE)
    assert receive(assembly, PRECOPY, rest) == rest
    assert [assembly.is_placed(PageId(0, unit)) for unit in (6, 7, 8, 23, 24, 1024)] == [
        False, True, True, True, False, True,
    ]  # fmt: skip
    assert incomplete(assembly) == [Span(0, 0, 7 * BASE), Span(0, 24 * BASE, 1000 * BASE)]
    assert not assembly.is_whole(page_span(0))
    assert assembly.received_bytes(PageId(0, 0)) == 17 * BASE
    assert assembly.channel_of(PageId(0, 0)) is None


# resend: one copy of a page is waste, whichever that is.


def resent(*, mid_frame: bool) -> Assembly:
    """Return an assembly that has a quarter of page 0, perhaps with the next one under way."""
    assembly = in_postcopy([page_span(0), page_span(1)], "resend")
    receive(assembly, PRECOPY, Span(0, 0, HALF // 2))
    if mid_frame:
        assembly.begin(PRECOPY, Span(0, HALF // 2, HALF // 2))
        assembly.progress(PRECOPY, BASE)
    return assembly


@pytest.mark.parametrize("mid_frame", [False, True])
def test_a_resent_page_begins_anew(mid_frame: bool) -> None:
    """With its first byte over the postcopy channel all of a page is missing again."""
    assembly = resent(mid_frame=mid_frame)
    assembly.begin(POSTCOPY, FIRST_HALF)
    assert assembly.missing_bytes == HUGE + HALF
    assert assembly.received_bytes(PageId(0, 0)) == 0
    assert not assembly.is_waste(POSTCOPY)
    assembly.progress(POSTCOPY, HALF)
    assert assembly.end(POSTCOPY) is None
    assert incomplete(assembly) == [Span(0, 0, 2 * HUGE)]
    assert receive(assembly, POSTCOPY, SECOND_HALF) == page_span(0)
    assert incomplete(assembly) == [page_span(1)]
    assert assembly.is_placed(PageId(0, 0))
    assert assembly.channel_of(PageId(0, 0)) is None


def test_the_rest_of_a_stale_frame_is_waste() -> None:
    """A frame whose page comes again is read to its end, counted, and completes nothing."""
    assembly = resent(mid_frame=True)
    assert not assembly.is_waste(PRECOPY)
    for half in (FIRST_HALF, SECOND_HALF):
        receive(assembly, POSTCOPY, half)
    assert assembly.is_waste(PRECOPY)
    assert assembly.is_placed(PageId(0, 0))
    receive(assembly, POSTCOPY, page_span(1))
    # Nothing is missing, but a frame is under way.
    complete = [assembly.complete]
    assert (assembly.missing_bytes, incomplete(assembly)) == (0, [])
    assembly.progress(PRECOPY, HALF // 2 - BASE)
    assert assembly.end(PRECOPY) is None
    assert [*complete, assembly.complete] == [False, True]
    counts = {channel: (c.target_pages, c.data_bytes) for channel, c in assembly.counts.items()}
    assert counts == {PRECOPY: (256, HALF), POSTCOPY: (1024, 2 * HUGE)}


def test_the_copy_that_was_sent_first_may_come_last() -> None:
    """Frames of the precopy channel are waste when the postcopy channel was ahead of it."""
    assembly = in_postcopy([page_span(0)], "resend")
    receive(assembly, POSTCOPY, FIRST_HALF)
    assembly.begin(PRECOPY, Span(0, 0, BASE))
    assert assembly.is_waste(PRECOPY)
    assembly.progress(PRECOPY, BASE)
    assert assembly.end(PRECOPY) is None
    assert receive(assembly, POSTCOPY, SECOND_HALF) == page_span(0)
    assembly.begin(PRECOPY, Span(0, BASE, BASE))
    assert assembly.is_waste(PRECOPY)
    assert assembly.is_placed(PageId(0, 0))


def test_the_copy_that_was_sent_last_may_be_the_late_one() -> None:
    """A page that came whole over the precopy channel is not begun anew: its second copy is waste.

    The source had its last frame under way when it began anew, and that frame won.
    """
    assembly = in_postcopy([page_span(0)], "resend")
    receive(assembly, PRECOPY, FIRST_HALF)
    assert receive(assembly, PRECOPY, SECOND_HALF) == page_span(0)
    for half in (FIRST_HALF, SECOND_HALF):
        assembly.begin(POSTCOPY, half)
        assert assembly.is_waste(POSTCOPY)
        assembly.progress(POSTCOPY, HALF)
        assert assembly.end(POSTCOPY) is None
    assert assembly.complete


def test_a_page_may_begin_anew_in_its_last_frame() -> None:
    """A page of which every byte is under way is not whole, and may still come again."""
    assembly = in_postcopy([page_span(0)], "resend")
    assembly.begin(PRECOPY, page_span(0))
    assembly.begin(POSTCOPY, FIRST_HALF)
    assert (assembly.is_waste(PRECOPY), assembly.is_waste(POSTCOPY)) == (True, False)
    assert not assembly.is_whole(page_span(0))


@pytest.mark.parametrize("channel", Channel)
def test_nothing_comes_twice_over_one_channel(channel: Channel) -> None:
    """A page may come again, but over the other channel, and only what was stale of it."""
    assembly = in_postcopy([FIRST_HALF], "resend")
    receive(assembly, channel, FIRST_HALF)
    for span in (FIRST_HALF, SECOND_HALF):
        with pytest.raises(RemoteProtocolError, match="came again"):
            assembly.begin(channel, span)


def test_base_pages_are_not_resent() -> None:
    """A base page comes once, over whichever channel."""
    assembly = in_postcopy(policy="resend")
    receive(assembly, PRECOPY, base_pages(0, 8))
    with pytest.raises(RemoteProtocolError, match="came again"):
        assembly.begin(POSTCOPY, base_pages(3, 1))


def test_waste_is_asked_about_a_frame() -> None:
    """Where no frame is under way there is nothing to ask about."""
    with pytest.raises(LocalProtocolError):
        in_postcopy(policy="resend").is_waste(PRECOPY)


# Bytes that came changed.


def refuse(assembly: Assembly, channel: Channel, span: Span) -> Stretch | None:
    """Have a whole frame come changed; return what is to come again."""
    assembly.begin(channel, span)
    assembly.progress(channel, span.length)
    whole, again = assembly.refuse(channel)
    assert whole == []
    return again


@pytest.mark.parametrize("policy", PRESETS)
def test_what_came_changed_comes_again_over_either_channel(policy: str) -> None:
    """It is missing as if it had not come, but counted; its page takes the rest over both."""
    assembly = in_postcopy([page_span(0), base_pages(3, 5)], policy)
    assert refuse(assembly, PRECOPY, FIRST_HALF) == Runs.of_span(FIRST_HALF)
    assert not assembly.is_placed(PageId(0, 0))
    assert assembly.missing_bytes == HUGE + 5 * BASE
    receive(assembly, POSTCOPY, FIRST_HALF)
    receive(assembly, PRECOPY, SECOND_HALF)
    assert assembly.is_placed(PageId(0, 0))
    assert refuse(assembly, POSTCOPY, base_pages(3, 5)) == Runs.of_span(base_pages(3, 5))
    assert receive(assembly, PRECOPY, base_pages(3, 5)) == base_pages(3, 5)
    assert assembly.complete
    counted = sum(counts.target_pages for counts in assembly.counts.values())
    assert counted == 256 * 3 + 10


def test_in_precopy_what_came_changed_is_told() -> None:
    """Nobody keeps account there; it is asked for all the same."""
    assembly = Assembly(GUEST, preset("ordered"))
    assert refuse(assembly, PRECOPY, FIRST_HALF) == Runs.of_span(FIRST_HALF)
    assert assembly.complete


def test_of_waste_nothing_comes_again() -> None:
    """A copy that is not wanted may have come as it likes."""
    assembly = in_postcopy([page_span(0)], "resend")
    for half in (FIRST_HALF, SECOND_HALF):
        receive(assembly, POSTCOPY, half)
    assert refuse(assembly, PRECOPY, FIRST_HALF) is None
    assert assembly.complete


def test_a_resent_page_that_is_mended_takes_what_it_lacks() -> None:
    """Of what comes over both channels the first copy counts, whichever channel it comes over."""
    assembly = in_postcopy([page_span(0)], "resend")
    refuse(assembly, PRECOPY, FIRST_HALF)
    receive(assembly, POSTCOPY, FIRST_HALF)
    assembly.begin(PRECOPY, FIRST_HALF)
    waste = [assembly.is_waste(PRECOPY)]
    assembly.progress(PRECOPY, HALF)
    assert assembly.end(PRECOPY) is None
    assembly.begin(PRECOPY, SECOND_HALF)
    waste.append(assembly.is_waste(PRECOPY))
    assembly.progress(PRECOPY, HALF)
    assert assembly.end(PRECOPY) == page_span(0)
    assert waste == [True, False]


def test_after_a_page_is_mended_the_next_is_bound_again() -> None:
    """Only the page whose bytes went again may come over both channels."""
    assembly = in_postcopy([page_span(0), page_span(1)])
    refuse(assembly, PRECOPY, FIRST_HALF)
    receive(assembly, PRECOPY, Span(0, HUGE, HALF))
    with pytest.raises(RemoteProtocolError, match="both channels"):
        assembly.begin(POSTCOPY, Span(0, HUGE + HALF, HALF))


# A break.


def test_a_break_keeps_whole_target_pages() -> None:
    """Of a frame that is cut off what came whole stays, and the rest is missing again."""
    assembly = in_postcopy()
    assembly.begin(PRECOPY, Span(0, 0, HALF))
    assembly.progress(PRECOPY, 3 * BASE + 100)
    assembly.begin(POSTCOPY, page_span(1))
    assert assembly.interrupt() == []
    assert assembly.dropped_bytes == 100
    missing = assembly.missing()
    assert not missing.holds_any(Span(0, 0, 3 * BASE))
    assert missing.count_in(page_span(0)) == 512 - 3
    assert missing.count_in(page_span(1)) == 512
    assert not assembly.is_placed(PageId(0, 0))


def test_a_break_keeps_nothing_that_was_not_compared() -> None:
    """With checksums the bytes of a frame that was cut off come again, all of them."""
    assembly = in_postcopy()
    assembly.begin(PRECOPY, Span(0, 0, HALF))
    assembly.progress(PRECOPY, 3 * BASE + 100)
    runs = Runs.of_target_pages(2, np.array([1, 2, 7]))
    assembly.begin(POSTCOPY, runs, np.array([False, True]))
    assembly.progress(POSTCOPY, BASE)
    assert assembly.interrupt(checked=True) == [base_pages(7, 1)]
    assert assembly.dropped_bytes == 4 * BASE + 100
    missing = assembly.missing()
    assert missing.count_in(page_span(0)) == 512
    assert missing.count_in(base_pages(0, 8)) == 7


def test_a_break_completes_small_pages() -> None:
    """Base pages of a run that was cut off are whole if all their bytes came."""
    assembly = in_postcopy()
    assembly.begin(PRECOPY, base_pages(4, 8))
    assembly.progress(PRECOPY, 5 * BASE - 1)
    assert assembly.interrupt() == [base_pages(4, 4)]
    assert assembly.dropped_bytes == BASE - 1
    assert assembly.is_placed(PageId(2, 7))
    assert not assembly.is_placed(PageId(2, 8))


@pytest.mark.parametrize("policy", PRESETS)
def test_after_a_break_the_rest_takes_either_channel(policy: str) -> None:
    """A page that was half there goes on over the other channel, and the counts begin anew."""
    if not preset(policy).own_channel:
        return
    assembly = in_postcopy([page_span(0)], policy)
    receive(assembly, PRECOPY, Span(0, 0, HALF))
    assembly.interrupt()
    counts = assembly.counts[PRECOPY]
    assert (counts.target_pages, counts.data_bytes) == (0, 0)
    receive(assembly, POSTCOPY, Span(0, HALF, HALF))
    assert assembly.complete
    with pytest.raises(RemoteProtocolError, match="came again"):
        assembly.begin(POSTCOPY, Span(0, 0, HALF))


def test_a_break_in_precopy_forgets_the_frame() -> None:
    """Before the switch-over nothing is missing; what was under way comes again."""
    assembly = Assembly(GUEST, preset("ordered"))
    assembly.begin(PRECOPY, page_span(0))
    assembly.progress(PRECOPY, 1)
    assert assembly.interrupt() == []
    assert len(assembly.missing()) == 0
    assembly.begin(PRECOPY, page_span(0))
