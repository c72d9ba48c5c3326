"""Each channel's traffic is told in stretches of time, with what it had carried by then."""

import pytest

from scripts.views.records import BACKGROUND, BOOSTED, URGENT
from tests.scripts.views.test_history import at, read
from tests.stories import PAGE_BYTES, Story, broken_once, half_sent


def test_a_page_that_was_broken_off_has_two_stretches() -> None:
    """What went of it before and after are sends of their own, with their bytes and their ends."""
    sends = [send for send in read(half_sent()).sends if send.page == 5]
    assert [(send.kind, send.ended, send.channel) for send in sends] == [
        (BACKGROUND, "preempt", "precopy"),
        (BOOSTED, "page-sent", "precopy"),
    ]
    assert [(send.start_ns, send.end_ns) for send in sends] == [
        (at(14), at(16)),
        (at(30), at(42)),
    ]
    assert [send.bytes for send in sends] == [PAGE_BYTES // 4, PAGE_BYTES * 3 // 4]


def test_what_was_taken_back_was_not_sent() -> None:
    """A page that began and of which nothing went is no send."""
    assert [(send.page, send.kind) for send in read(half_sent()).sends] == [
        (5, BACKGROUND), (9, URGENT), (5, BOOSTED), (7, BACKGROUND)
    ]  # fmt: skip


def test_a_page_becomes_urgent_on_its_way() -> None:
    """A request for the very page under way is seen in its send."""
    story = Story()
    story.start(1, 3, "precopy")
    story.tell(2, "source", "page-request", block=0, page=3, answer="urgent-in-place")
    story.end(3, 3, "precopy", PAGE_BYTES, urgent=True)
    (send,) = read(story.events).sends
    assert (send.kind, send.urgent_ns) == (URGENT, at(2))


def test_what_lost_connections_carried_ends_with_them() -> None:
    """Sends that were under way are told up to the break; that ends all connections."""
    story = Story()
    story.start(1, 3, "precopy")
    story.start(2, 4, "postcopy", urgent=True)
    story.tell(5, "dest", "channel-lost", channel="precopy", reason="it broke")
    story.tell(6, "source", "channel-lost", channel="precopy", reason="it broke")
    sends = read(story.events).sends
    assert [(send.page, send.ended, send.end_ns, send.bytes) for send in sends] == [
        (3, "channel-lost", at(6), None), (4, "channel-lost", at(6), None)
    ]  # fmt: skip


@pytest.mark.parametrize("counts_anew", [False, True])
def test_what_a_channel_carried_never_becomes_less(counts_anew: bool) -> None:
    """A break begins new connections; a channel goes on, also where events counted anew."""
    marks = read(broken_once(counts_anew=counts_anew)).marks
    counts = [mark.channel_bytes for mark in marks if mark.channel == "precopy"]
    assert counts == sorted(counts)
    assert counts[-1] == 2 * PAGE_BYTES
