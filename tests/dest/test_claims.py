"""What the policies let come of a huge page, and what is done about bytes that came changed.

Most of it is asked of an assembly, in which a frame is admitted, comes and ends.
"""

import pytest

from dest.arrival import Arrival
from dest.assembly import Assembly
from dest.claims import Claims
from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import PageId, Span
from protocol.pageset import PageSet
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

FIRST_HALF, SECOND_HALF = Span(0, 0, HALF), Span(0, HALF, HALF)


# The claims alone.


def claims_of(*missing: Span, policy: str = "ordered") -> tuple[Claims, PageSet]:
    """Return claims on some spans, and what is missing."""
    target_pages = PageSet(GUEST)
    for span in missing:
        target_pages.add(span)
    claims = Claims(GUEST, preset(policy), target_pages)
    claims.restart()
    return claims, target_pages


@pytest.mark.parametrize("policy", sorted(PRESETS))
@pytest.mark.parametrize(
    "span", [page_span(1), Span(0, HALF, BASE), Span(0, HALF, HUGE), base_pages(3, 2)]
)
def test_a_refused_claim_changes_nothing(span: Span, policy: str) -> None:
    """Of a frame with anything in it that may not come nothing is claimed, nor its page bound."""
    claims, missing = claims_of(FIRST_HALF, base_pages(4, 4), policy=policy)
    before = list(missing.bitmaps(1 << 20))
    with pytest.raises(RemoteProtocolError):
        claims.claim(PRECOPY, span, {})
    assert list(missing.bitmaps(1 << 20)) == before
    assert all(claims.channel_of(PageId(0, index)) is None for index in range(4))
    assert not claims.claim(POSTCOPY, FIRST_HALF, {})
    assert not claims.claim(POSTCOPY, base_pages(4, 4), {})
    assert len(missing) == 0


def test_a_page_is_bound_until_it_is_released() -> None:
    """The first claim binds a huge page to its channel, and a base page never is."""
    claims, _ = claims_of(page_span(0), base_pages(0, 2))
    claims.claim(POSTCOPY, FIRST_HALF, {})
    claims.claim(POSTCOPY, base_pages(0, 1), {})
    assert claims.channel_of(PageId(0, 0)) is POSTCOPY
    assert claims.channel_of(PageId(2, 0)) is None
    claims.release(PageId(0, 0))
    assert claims.channel_of(PageId(0, 0)) is None


@pytest.mark.parametrize("policy", ["ordered", "resend"])
def test_a_restart_binds_nothing(policy: str) -> None:
    """What is missing then may come over either channel, and what is not over none."""
    claims, missing = claims_of(page_span(0), policy=policy)
    claims.claim(PRECOPY, FIRST_HALF, {})
    claims.restart()
    assert claims.channel_of(PageId(0, 0)) is None
    with pytest.raises(RemoteProtocolError, match="came again"):
        claims.claim(POSTCOPY, FIRST_HALF, {})
    assert not claims.claim(POSTCOPY, SECOND_HALF, {})
    assert len(missing) == 0


@pytest.mark.parametrize("other", [0, 1])
def test_only_the_frame_of_the_page_that_begins_again_is_waste(other: int) -> None:
    """A frame under way is waste as soon as its page begins over the postcopy channel."""
    claims, missing = claims_of(page_span(0), page_span(1), policy="resend")
    claims.claim(PRECOPY, Span(0, 0, BASE), {})
    under_way = Span(0, other * HUGE + BASE, BASE)
    claims.claim(PRECOPY, under_way, {})
    arrival = Arrival(under_way, under_way)
    assert not claims.claim(POSTCOPY, FIRST_HALF, {PRECOPY: arrival})
    assert arrival.waste == (other == 0)
    assert missing.count_in(page_span(0)) == 256
    assert claims.channel_of(PageId(0, 0)) is POSTCOPY


def test_what_is_opened_again_may_come_over_both_channels() -> None:
    """Bytes that came changed are missing, and their page is bound no more."""
    claims, missing = claims_of(page_span(0), page_span(1))
    claims.claim(PRECOPY, FIRST_HALF, {})
    claims.reopen(Runs.of_span(FIRST_HALF))
    assert missing.count_in(page_span(0)) == 512
    assert claims.channel_of(PageId(0, 0)) is None
    for channel, span in ((POSTCOPY, FIRST_HALF), (PRECOPY, SECOND_HALF)):
        assert not claims.claim(channel, span, {})
    assert missing.count_in(page_span(0)) == 0


# What policies let a huge page do.


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


def test_a_frame_holds_bytes_of_one_huge_page() -> None:
    """A frame across the border of two huge pages is refused and claims neither."""
    assembly = in_postcopy()
    with pytest.raises(RemoteProtocolError, match="parts of 2 pages"):
        assembly.begin(PRECOPY, Span(0, HALF, HUGE))
    assert assembly.channel_of(PageId(0, 0)) is None
    assert assembly.missing_bytes == GUEST.length_bytes
    assert receive(assembly, POSTCOPY, page_span(0)) == page_span(0)


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
