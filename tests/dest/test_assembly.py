"""What the destination takes and refuses, and when a page is whole.

`test_assembly_model.py` holds the assembly against a naive model, hostile source included.
"""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dest.assembly import Assembly
from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import PageId, Span
from protocol.policy import PRESETS, preset
from protocol.runs import Stretch
from tests.assembled import (
    BASE,
    GUEST,
    HALF,
    HUGE,
    POSTCOPY,
    PRECOPY,
    base_pages,
    discard,
    in_postcopy,
    incomplete,
    page_span,
    receive,
)

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


# Pages that came whole.


@pytest.mark.parametrize("policy", sorted(PRESETS))
def test_pages_at_once_are_as_pages_frame_by_frame(policy: str) -> None:
    """What is missing, and what was counted, is the same; and none of them may come again."""
    one, other = in_postcopy(policy=policy), in_postcopy(policy=policy)
    for index in range(1, 4):
        receive(one, PRECOPY, page_span(index))
    other.take_pages(PRECOPY, Span(0, HUGE, 3 * HUGE))
    assert incomplete(one) == incomplete(other)
    assert one.counts == other.counts
    assert one.missing_bytes == other.missing_bytes
    assert other.is_whole(page_span(2))
    for assembly in (one, other):
        with pytest.raises(RemoteProtocolError, match="came again"):
            assembly.begin(PRECOPY, page_span(2))
        assert receive(assembly, PRECOPY, page_span(0)) is not None
    with pytest.raises(RemoteProtocolError, match="came again"):
        other.take_pages(PRECOPY, Span(0, 3 * HUGE, HUGE))


def test_pages_at_once_are_refused_like_any_other() -> None:
    """Outside the guest, in precopy, or in the middle of a frame there, none is counted."""
    assembly = in_postcopy()
    with pytest.raises(RemoteProtocolError, match="no pages"):
        assembly.take_pages(PRECOPY, Span(0, 3 * HUGE, 2 * HUGE))
    assembly.begin(PRECOPY, page_span(0))
    with pytest.raises(LocalProtocolError):
        assembly.take_pages(PRECOPY, page_span(1))
    with pytest.raises(LocalProtocolError):
        Assembly(GUEST, preset("ordered")).take_pages(PRECOPY, page_span(1))
    assert assembly.missing_bytes == sum(b.length_bytes for b in GUEST.blocks) - HUGE
