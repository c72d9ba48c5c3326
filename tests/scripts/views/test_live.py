"""The present of a run: what was placed stays placed, whatever comes late; sizes are bounded."""

import base64
from typing import Any

import numpy as np
import pytest

from scripts.views import live as module
from scripts.views.live import (
    ARRIVING,
    HERE,
    MISSING,
    PARTLY,
    PREEMPTED,
    REQUESTED,
    BlockMap,
    LiveState,
)
from tests.stories import MS, PAGE_BYTES, ZERO_NS, Story, half_sent


def read(events: list[dict[str, Any]], until: str = "", page: int = -1) -> LiveState:
    """Return the present after these events, or after the first of that name about that page."""
    state = LiveState()
    for event in events:
        state.take(event)
        if (event["event"], event.get("page", -1)) == (until, page):
            break
    return state


def test_the_story_of_the_half_sent_page_is_seen() -> None:
    """Page 5 arrives, is broken off, is asked for, goes on urgently, and is here."""
    story = half_sent()
    for event, status in (
        ("page-start", ARRIVING), ("page-request", REQUESTED), ("preempt", PREEMPTED),
        ("boost", REQUESTED), ("page-sent", REQUESTED), ("page-placed", HERE),
    ):  # fmt: skip
        assert read(story, event, 5).blocks[0].status[5] == status, event


def test_counts_and_waiters() -> None:
    """Who waits is told, longest first; in the end nobody does, and the figures are there."""
    story = half_sent()
    midway = read(story, "preempt", 5)
    assert [(waiter.vcpu, waiter.page) for waiter in midway.waiters] == [(0, 9), (1, 5)]
    assert midway.waiters[0].since_ns == ZERO_NS + 15 * MS
    done = read(story)
    assert done.waiters == []
    assert (done.requests, done.preempted, done.boosted) == (2, 1, 1)
    assert done.waits.count == 2
    assert done.waits.max_us == pytest.approx(28_800, rel=0.01)
    assert done.is_over
    assert not midway.is_over


def test_what_is_placed_stays_placed() -> None:
    """The source's word that it sends a page may come after the destination's that it is here."""
    story = Story()
    story.state(1, "postcopy-active")
    story.tell(2, "dest", "page-placed", block=0, page=3, pages=1, channel="precopy")
    story.start(1.5, 3, "precopy")
    story.end(1.9, 3, "precopy", PAGE_BYTES)
    assert read(story.events).blocks[0].status[3] == HERE


def test_postcopy_begins_with_what_is_missing() -> None:
    """In precopy what was sent is here; then only what was not discarded."""
    story = Story(pages=4)
    for page in range(4):
        story.start(page, page, "precopy")
        story.end(page + 0.5, page, "precopy", PAGE_BYTES)
    assert read(story.events).blocks[0].status.tolist() == [HERE] * 4
    story.state(5, "postcopy-active")
    bits = base64.b64encode(bytes([0b0110])).decode()
    story.tell(6, "dest", "missing", block=0, pages_per_bit=1, bits=bits)
    assert read(story.events).blocks[0].status.tolist() == [HERE, MISSING, MISSING, HERE]
    # Of what cannot be a bitmap of this block nothing is believed.
    for wrong in ("?", base64.b64encode(b"").decode()):
        story.tell(7, "dest", "missing", block=0, pages_per_bit=1, bits=wrong)
        assert read(story.events).blocks[0].status.tolist() == [HERE, MISSING, MISSING, HERE]


def test_a_bit_may_stand_for_several_pages() -> None:
    """Of a large block the bitmap is coarser than the map."""
    story = Story(pages=5)
    bits = base64.b64encode(bytes([0b10])).decode()
    story.tell(6, "dest", "missing", block=0, pages_per_bit=3, bits=bits)
    assert read(story.events).blocks[0].status.tolist() == [HERE, HERE, HERE, MISSING, MISSING]


def test_rates_are_over_the_last_moment() -> None:
    """What a channel carried long ago does not count."""
    story = Story()
    for step in range(20):
        carried = {"precopy_bytes": 1000 * step, "postcopy_bytes": 50 if step else 0}
        story.tell(250 * step, "source", "progress", remaining_bytes=1, queued=0, **carried)
    state = read(story.events)
    assert state.rates() == {"precopy": pytest.approx(4000), "postcopy": 0}
    assert state.carried == {"precopy": 19_000, "postcopy": 50}


def test_how_far_it_is_never_goes_back() -> None:
    """What the source says counts; of a QEMU, which says nothing, what has come."""
    story = Story(pages=4)
    for remaining_pages, done in ((4, {}), (2, {}), (3, {}), (3, {"done": 0.75}), (1, {"done": 0})):
        story.tell(
            1, "source", "progress", remaining_bytes=remaining_pages * PAGE_BYTES,
            precopy_bytes=0, postcopy_bytes=0, **done,
        )  # fmt: skip
    shown = [read(story.events[:count]).done for count in range(len(story.events) + 1)]
    assert shown[-6:] == [0, 0, 0.5, 0.5, 0.75, 0.75]


def test_a_cell_shows_what_matters_most() -> None:
    """Among many pages one that is asked for is seen; a cell that is not whole is partly here."""
    block = BlockMap("ram", 16, 4096)
    block.status[:4] = HERE
    block.status[4:6] = HERE
    block.status[8] = HERE
    block.status[9] = ARRIVING
    block.status[12] = REQUESTED
    block.status[13] = PREEMPTED
    assert block.cells(4).tolist() == [HERE, PARTLY, ARRIVING, REQUESTED]
    assert block.cells(100).tolist() == block.status.tolist()


def test_a_large_guest_has_a_coarse_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pages, the map has so many bytes at most, and none is out of its reach."""
    monkeypatch.setattr(module, "MAP_PAGES_MAX", 4)
    story = Story(pages=10)
    story.start(0, 9, "precopy")
    block = read(story.events).blocks[0]
    assert (block.shared, block.status.tolist()) == (3, [MISSING] * 3 + [ARRIVING])


def test_cells_are_shared_out_by_bytes() -> None:
    """A small block keeps a cell, a large one most of them."""
    story = Story(pages=1000)
    small = {"name": "rom", "length-bytes": 8 * 4096, "page-bytes": 4096}
    story.tell(0, "source", "ram-block", block=1, **small)
    (_, first), (_, second) = read(story.events).cells(100)
    assert 90 < len(first) <= 100
    assert len(second) == 1
    assert np.all(first == MISSING)


def test_pages_of_unknown_blocks_are_nobodys() -> None:
    """Events about a block that was not described change nothing."""
    story = Story()
    for event in half_sent():
        if "page" in event:
            story.events.append(event | {"block": 7})
    assert read(story.events).blocks[0].status.tolist() == [MISSING] * 16


def test_a_side_alone_says_what_it_knows() -> None:
    """A source alone does not know who waits, a destination alone not what channels carry."""
    source = read([event for event in half_sent() if event["side"] == "source"])
    assert not source.knows_waits
    # It has heard the requests, though, and sent the pages.
    assert source.requests == 2
    dest = read([event for event in half_sent() if event["side"] == "dest"])
    assert dest.knows_waits
    assert not dest.knows_rates
    assert dest.requests == 2
    setup = [event for event in half_sent() if event["side"] == "dest"][:5]
    assert not read(setup).knows_pages


def test_a_run_that_is_over_grows_no_older() -> None:
    """Nor do the waits that had no end; a completed one has all its pages, whoever told."""
    state = read(half_sent())
    assert state.age_ns(state.last_ns + 10**9) == state.last_ns - (ZERO_NS + 10 * MS)
    assert state.blocks[0].status.tolist() == [HERE] * 16
    story = Story()
    story.wait(1, 0, 3)
    assert read(story.events).age_ns(ZERO_NS) is None
    waiting = read(story.events)
    (waiter,) = waiting.waiters
    assert waiting.waited_ns(waiter, ZERO_NS + 9 * MS) == 8 * MS
    story.state(5, "failed")
    failed = read(story.events)
    (waiter,) = failed.waiters
    assert failed.waited_ns(waiter, ZERO_NS + 9 * MS) == 4 * MS
