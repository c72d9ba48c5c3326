"""What is missing over time, as events tell it."""

import base64
from typing import Any

import numpy as np
import pytest

from scripts.views.curves import (
    Point,
    left_curve,
    means,
    missing_curve,
    missing_pages,
    thinned,
)
from scripts.views.outputs import history_of
from tests.stories import MS, PAGE_BYTES, ZERO_NS, Story, half_sent


def bits_of(*pages: int, count: int = 16) -> str:
    """Return the bits of a `missing` event in which these pages are missing."""
    bits = np.isin(np.arange(count), pages)
    return base64.b64encode(np.packbits(bits, bitorder="little").tobytes()).decode()


def switched_over(*missing: int) -> Story:
    """Return a story in which these pages are missing when the guest runs, 13 ms on."""
    story = Story()
    story.tell(13, "dest", "guest-run")
    story.tell(13, "dest", "missing", block=0, pages_per_bit=1, bits=bits_of(*missing))
    return story


def placed(story: Story, ms: float, page: int, pages: int = 1) -> None:
    """Have pages placed."""
    story.tell(ms, "dest", "page-placed", block=0, page=page, pages=pages, channel="precopy")


def at(ms: float, pages: int) -> Point:
    """Return the point at which so many pages are missing."""
    return Point(ZERO_NS + round(ms * MS), pages * PAGE_BYTES)


def test_what_is_placed_is_not_missing() -> None:
    """Each page counts once, and only those that were missing at the switch-over."""
    story = switched_over(2, 3, 4, 9)
    placed(story, 20, 3)
    placed(story, 25, 7)
    placed(story, 30, 2, pages=3)
    placed(story, 35, 3)
    assert missing_curve(history_of(story.events)) == [at(13, 4), at(20, 3), at(30, 1)]


def test_nothing_is_known_without_the_destination() -> None:
    """Without the event, or of a block that nobody described, there is no curve."""
    assert missing_curve(history_of(half_sent())) == []
    story = switched_over(1)
    events = [event for event in story.events if event["event"] != "ram-block"]
    assert missing_curve(history_of(events)) == []


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        ({"bits": bits_of(0, 5), "pages-per-bit": 1}, [0, 5]),
        # A bit that stands for many says that some of them are.
        ({"bits": bits_of(1), "pages-per-bit": 4}, [4, 5, 6, 7]),
        ({"bits": "no base64!", "pages-per-bit": 1}, []),
        # Too few for the block.
        ({"bits": bits_of(0, count=8), "pages-per-bit": 1}, []),
    ],
)
def test_bits_of_missing_pages(told: dict[str, Any], missing: list[int]) -> None:
    """The lowest first; what is torn tells nothing."""
    assert np.flatnonzero(missing_pages(told, np.arange(16))).tolist() == missing


def test_what_is_left_to_send_falls_with_every_page() -> None:
    """As the source counts it, at the moments at which it changed."""
    points = left_curve(history_of(half_sent()))
    assert [point.bytes / PAGE_BYTES for point in points] == [16, 15.75, 14.75, 14, 13]
    assert [point.time_ns for point in points] == sorted(point.time_ns for point in points)
    assert left_curve(history_of(Story().events)) == []


def test_few_points_of_many() -> None:
    """The first and the last are kept, in order; few are as they are."""
    points = [Point(number, 100 - number) for number in range(100)]
    some = thinned(points, 7)
    assert len(some) == 7
    assert (some[0], some[-1]) == (points[0], points[-1])
    assert list(some) == sorted(some)
    assert thinned(points, 100) == points


def test_a_stretch_has_the_mean_of_what_lies_in_it() -> None:
    """Nothing before the first step, and the last step's value from there on."""
    steps = [(1, 2.0), (3, 0.0), (4, 1.0)]
    edges = np.array([0, 2, 4, 6], dtype=np.float64)
    assert means(steps, edges).tolist() == [1.0, 1.0, 1.0]
    assert means(steps, edges[:2]).tolist() == [1.0]
    assert means([(0, 3.0)], np.array([5.0, 7.0])).tolist() == [3.0]
