"""What a break leaves of the frames that it cut off, and how the rest comes."""

import numpy as np
import pytest

from dest.assembly import Assembly
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
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
    page_span,
    receive,
)


def test_a_break_keeps_whole_target_pages() -> None:
    """Of a frame that is cut off what came whole stays, and the rest is missing again."""
    assembly = in_postcopy()
    assembly.begin(PRECOPY, Span(0, 0, HALF))
    assembly.progress(PRECOPY, 3 * BASE + 100)
    assembly.begin(POSTCOPY, page_span(1))
    assert assembly.interrupt() == []
    assert assembly.dropped_bytes == 0
    assert assembly.held_parts == {(0, 3): 100}
    assert assembly.received_bytes(PageId(0, 0)) == 3 * BASE + 100
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
    assert not assembly.held_parts
    missing = assembly.missing()
    assert missing.count_in(page_span(0)) == 512
    assert missing.count_in(base_pages(0, 8)) == 7


def test_a_break_completes_small_pages() -> None:
    """Base pages of a run that was cut off are whole if all their bytes came."""
    assembly = in_postcopy()
    assembly.begin(PRECOPY, base_pages(4, 8))
    assembly.progress(PRECOPY, 5 * BASE - 1)
    assert assembly.interrupt() == [base_pages(4, 4)]
    assert assembly.held_parts == {(2, 8): BASE - 1}
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


# The rest of a target page that was half-received.


def cut(policy: str = "ordered", held_bytes: int = 100) -> Assembly:
    """Return an assembly with the first page's target page 3 half-received."""
    assembly = in_postcopy([page_span(0), page_span(1), base_pages(0, 8)], policy)
    assembly.begin(PRECOPY, Span(0, 0, HALF))
    assembly.progress(PRECOPY, 3 * BASE + held_bytes)
    assembly.interrupt()
    return assembly


def rest_of(assembly: Assembly, channel: Channel, offset: int) -> Stretch | None:
    """Have the rest of a target page of block 0 come, from an offset on."""
    length = BASE - offset % BASE
    assembly.begin_rest(channel, 0, offset, length)
    assembly.progress(channel, length)
    return assembly.end(channel)


def test_a_rest_makes_a_target_page_whole() -> None:
    """Its bytes and no others count, and the page is whole with its last part as ever."""
    assembly = cut()
    assert rest_of(assembly, PRECOPY, 3 * BASE + 100) is None
    assert not assembly.held_parts
    counts = assembly.counts[PRECOPY]
    assert (counts.target_pages, counts.data_bytes) == (1, BASE - 100)
    assert assembly.received_bytes(PageId(0, 0)) == 4 * BASE
    assert receive(assembly, POSTCOPY, Span(0, 4 * BASE, HUGE - 4 * BASE)) == page_span(0)
    assert assembly.dropped_bytes == 0


def test_a_rest_may_be_the_last_part() -> None:
    """Where nothing else is missing of it, a page is whole with a rest."""
    assembly = cut()
    receive(assembly, POSTCOPY, Span(0, 4 * BASE, HUGE - 4 * BASE))
    assert rest_of(assembly, PRECOPY, 3 * BASE + 100) == page_span(0)


@pytest.mark.parametrize("more", [0, 1, BASE - 101, BASE - 100])
def test_a_rest_may_be_cut_off_itself(more: int) -> None:
    """What came of it adds up, and when all came the target page is whole without its end."""
    assembly = cut()
    assembly.begin_rest(POSTCOPY, 0, 3 * BASE + 100, BASE - 100)
    assembly.progress(POSTCOPY, more)
    assembly.interrupt()
    whole = more == BASE - 100
    assert assembly.held_parts == ({} if whole else {(0, 3): 100 + more})
    assert assembly.missing().holds_any(Span(0, 3 * BASE, BASE)) != whole
    assert assembly.dropped_bytes == 0


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (3 * BASE + 99, BASE - 99),
        (3 * BASE + 101, BASE - 101),
        (3 * BASE + 100, BASE - 101),
        (3 * BASE + 100, BASE),
        (3 * BASE, BASE),
        (4 * BASE + 100, BASE - 100),
        (-BASE + 100, BASE - 100),
    ],
)
def test_what_is_not_the_rest_is_refused(offset: int, length: int) -> None:
    """Exactly the bytes that a target page lacks may come, and nothing else is touched."""
    assembly = cut()
    missing_bytes = assembly.missing_bytes
    with pytest.raises(RemoteProtocolError, match="are not what a target page lacks"):
        assembly.begin_rest(PRECOPY, 0, offset, length)
    assert assembly.missing_bytes == missing_bytes
    assert rest_of(assembly, PRECOPY, 3 * BASE + 100) is None


def test_a_rest_comes_once() -> None:
    """A rest that came is no longer lacked, nor is there any before a break."""
    assembly = cut()
    rest_of(assembly, PRECOPY, 3 * BASE + 100)
    with pytest.raises(RemoteProtocolError, match="not what a target page lacks"):
        rest_of(assembly, PRECOPY, 3 * BASE + 100)
    with pytest.raises(RemoteProtocolError, match="not what a target page lacks"):
        rest_of(Assembly(GUEST, preset("ordered")), PRECOPY, 100)


def test_a_target_page_that_comes_whole_is_held_in_part_no_more() -> None:
    """A source may send all of it again: what was there is counted as dropped."""
    assembly = cut()
    receive(assembly, POSTCOPY, Span(0, 3 * BASE, HUGE - 3 * BASE))
    assert assembly.dropped_bytes == 100
    assert not assembly.held_parts
    with pytest.raises(RemoteProtocolError, match="not what a target page lacks"):
        rest_of(assembly, PRECOPY, 3 * BASE + 100)


def test_where_pages_go_again_anyway_no_part_is_held() -> None:
    """With a policy that sends half-sent pages anew a break drops the part, as it ever did."""
    assembly = cut("resend")
    assert not assembly.held_parts
    assert assembly.dropped_bytes == 100
