"""What goes again after a break, and when it is tried to go on: sets and times, nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from protocol.missing import HeldParts
from protocol.pageset import PageSet
from source.recovery import RETRY_SECONDS_MAX, Lacking, Retries, lost_bytes

GEOMETRY = Geometry((RamBlock("ram", 16 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES),))


def pages(first: int, stop: int) -> PageSet:
    """Return a set of target pages."""
    found = PageSet(GEOMETRY)
    if first < stop:
        found.add(Span(0, first * TARGET_PAGE_BYTES, (stop - first) * TARGET_PAGE_BYTES))
    return found


def whole(first: int, stop: int) -> Lacking:
    """Return what a destination lacks that holds no target page in part."""
    return Lacking(pages(first, stop), {})


@pytest.mark.parametrize(
    ("unsent", "missing", "lost"),
    [
        (pages(8, 16), pages(8, 16), 0),
        (pages(8, 16), pages(5, 16), 3),
        (pages(16, 16), pages(16, 16), 0),
        (pages(16, 16), pages(2, 16), 14),
    ],
)
def test_what_went_and_did_not_arrive(unsent: PageSet, missing: PageSet, lost: int) -> None:
    """Lost is what is missing there though it is not waiting here."""
    actual = lost_bytes(pages(2, 16), unsent, {}, Lacking(missing, {}), goes_twice=False)
    assert lost * TARGET_PAGE_BYTES == actual


def test_another_guest_misses_more() -> None:
    """A destination that misses what it had at the switch-over is not the one that was left."""
    with pytest.raises(RemoteProtocolError, match="2 target pages are said to be missing that"):
        lost_bytes(pages(2, 16), pages(8, 16), {}, whole(0, 16), goes_twice=False)


def test_another_guest_holds_more() -> None:
    """A destination that holds what never went is not the one that was left, but for a policy."""
    with pytest.raises(RemoteProtocolError, match="4 target pages are said to be there that never"):
        lost_bytes(pages(0, 16), pages(8, 16), {}, whole(12, 16), goes_twice=False)
    assert not lost_bytes(pages(0, 16), pages(8, 16), {}, whole(12, 16), goes_twice=True)
    in_part = Lacking(pages(12, 16), {(0, 13): 96})
    assert lost_bytes(pages(0, 16), pages(8, 16), {}, in_part, goes_twice=True) == 0


def test_of_what_is_there_in_part_only_the_rest_is_lost() -> None:
    """Bytes that are there are not lost, nor is a rest of which none was sent since."""
    held = {(0, 5): 1000, (0, 6): 96}
    lacking = Lacking(pages(5, 16), held)
    assert lacking.untouched().count_beyond(pages(7, 16)) == 0
    assert len(lacking.untouched()) == 9
    lost = lost_bytes(pages(2, 16), pages(8, 16), {}, lacking, goes_twice=False)
    assert lost == 3 * TARGET_PAGE_BYTES - 1096
    lost = lost_bytes(pages(2, 16), pages(8, 16), {(0, 5): 1000}, lacking, goes_twice=False)
    assert lost == 2 * TARGET_PAGE_BYTES - 96


@pytest.mark.parametrize(
    ("rests", "held", "complaint"),
    [
        ({(0, 5): 1000}, {}, "other parts of target pages are said to be there than were"),
        ({(0, 5): 1000}, {(0, 5): 1001}, "other parts of target pages"),
        ({}, {(0, 9): 1}, "parts of target pages are said to be there that never went"),
    ],
)
def test_another_guest_holds_other_parts(rests: HeldParts, held: HeldParts, complaint: str) -> None:
    """A destination that holds parts which it cannot hold is not the one that was left."""
    lacking = Lacking(pages(5, 16), held)
    with pytest.raises(RemoteProtocolError, match=complaint):
        lost_bytes(pages(2, 16), pages(8, 16), rests, lacking, goes_twice=False)


def test_attempts_come_later_and_later() -> None:
    """The first attempt is at once, the pauses between the others double up to a bound."""
    retries = Retries()
    delays = [retries.next_delay(100.0) for _ in range(9)]
    assert delays == [0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert delays[-1] == RETRY_SECONDS_MAX


@given(st.lists(st.floats(0, 3), max_size=30))
def test_time_is_up(takes: list[float]) -> None:
    """However long attempts take, none begins after the end, and there is always one."""
    retries = Retries()
    now, attempts = 0.0, 0
    for seconds in takes:
        delay = retries.next_delay(5.0 - now)
        if delay is None:
            assert now >= 5
            return
        assert now + delay <= 5
        now += delay + seconds
        attempts += 1
    assert attempts == len(takes)
