"""What the policies let come of a huge page, and what is done about bytes that came changed."""

import pytest

from dest.assembly import Assembly
from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import PageId, Span
from protocol.policy import PRESETS, preset
from protocol.runs import Runs, Stretch
from tests.assembled import (
    BASE,
    GUEST,
    HALF,
    HUGE,
    POSTCOPY,
    PRECOPY,
    base_pages,
    in_postcopy,
    incomplete,
    page_span,
    receive,
)

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


def test_a_unit_is_whole_before_its_frame_is() -> None:
    """What has come of a frame under way can be taken for whole, once, and nothing else of it."""
    assembly = in_postcopy([page_span(0)], "critical-first")
    assembly.begin(PRECOPY, Span(0, 8 * BASE, 4 * BASE))
    assembly.progress(PRECOPY, 2 * BASE - 1)
    units = [PageId(block, unit) for block in (0, 1) for unit in (7, 8, 9, 12)]
    assert assembly.come_early(PRECOPY, units) == [PageId(0, 8)]
    assert assembly.take_early(PageId(0, 9)) is None
    assert assembly.take_early(PageId(0, 8)) is PRECOPY
    assert assembly.is_placed(PageId(0, 8))
    assert not assembly.is_placed(PageId(0, 9))
    assembly.progress(PRECOPY, 2 * BASE + 1)
    assert assembly.end(PRECOPY) == Runs.of_span(Span(0, 9 * BASE, 3 * BASE))
    assert incomplete(assembly) == [Span(0, 0, 8 * BASE), Span(0, 12 * BASE, 500 * BASE)]


def test_what_was_taken_early_stays_whole_when_its_frame_breaks_off() -> None:
    """After a break only what came and was not taken before is told as whole."""
    assembly = in_postcopy([page_span(0)], "critical-first")
    assembly.begin(PRECOPY, Span(0, 0, 8 * BASE))
    assembly.progress(PRECOPY, 3 * BASE)
    assert assembly.take_early(PageId(0, 1)) is PRECOPY
    assert assembly.interrupt() == [Span(0, 0, BASE), Span(0, 2 * BASE, BASE)]
    assert incomplete(assembly) == [Span(0, 3 * BASE, 509 * BASE)]


@pytest.mark.parametrize("policy", ["ordered", "resend"])
def test_no_part_of_a_huge_page_is_whole_early(policy: str) -> None:
    """Where a huge page is placed at once, or may come twice, nothing of it is whole early."""
    assembly = in_postcopy([page_span(0)], policy)
    assembly.begin(PRECOPY, page_span(0))
    assembly.progress(PRECOPY, HALF)
    assert assembly.take_early(PageId(0, 0)) is None
    assert not assembly.is_placed(PageId(0, 0))


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
