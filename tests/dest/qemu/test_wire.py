"""What is told of pages as they come: whole ones, runs, half ones, and what broke them off."""

from __future__ import annotations

from dest.qemu.wire import Wire
from protocol import events
from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from tests.stories import Recorder

HUGE = 2 << 20
GEOMETRY = Geometry((RamBlock("ram", 4 * HUGE, HUGE), RamBlock("rom", 8 * 4096, 4096)))
MAIN, PREEMPT = Channel.PRECOPY, Channel.POSTCOPY


class Rig:
    """A wire and what it tells."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.told = Recorder()
        self.wire = Wire(GEOMETRY, self.told)

    def part(
        self, channel: Channel, page: int, first: float, stop: float, *, urgent: bool = False
    ) -> None:
        """Have a share of a huge page come."""
        span = Span(0, page * HUGE + int(first * HUGE), int((stop - first) * HUGE))
        self.wire.begin(channel, span, urgent=urgent)
        self.wire.end(channel, span, span.length)

    @property
    def lines(self) -> list[str]:
        """All events, short."""
        return [
            f"{event.event} {event.page} {event.channel}"
            + " urgent" * event.urgent
            + " boosted" * event.boosted
            for event in self.told.events
            if isinstance(event, events.PageEvent)
        ]


def test_a_page_that_comes_in_parts_is_told_once() -> None:
    """However many messages a page takes, it begins once and ends once, with what it took."""
    rig = Rig()
    rig.part(MAIN, 2, 0, 0.5)
    rig.part(MAIN, 2, 0.5, 1)
    assert rig.lines == ["page-start 2 precopy", "page-sent 2 precopy"]
    start, end = rig.told.of(events.PageEvent)
    assert end["channel_bytes"] == HUGE + HUGE // TARGET_PAGE_BYTES * 8
    assert start["remaining_bytes"] == GEOMETRY.length_bytes
    assert end["remaining_bytes"] == GEOMETRY.length_bytes - HUGE


def test_a_half_sent_page_and_the_urgent_ones_between() -> None:
    """What was half-sent when an urgent page began is told as a part, and its rest by itself."""
    rig = Rig()
    rig.part(MAIN, 1, 0, 0.25)
    rig.part(PREEMPT, 3, 0, 1, urgent=True)
    rig.part(PREEMPT, 0, 0, 1, urgent=True)
    rig.part(MAIN, 1, 0.25, 0.75, urgent=True)
    rig.part(MAIN, 1, 0.75, 1, urgent=True)
    assert rig.lines == [
        "page-start 1 precopy",
        "part-sent 1 precopy",
        "page-start 3 postcopy urgent",
        "page-sent 3 postcopy urgent",
        "page-start 0 postcopy urgent",
        "page-sent 0 postcopy urgent",
        "page-start 1 precopy urgent boosted",
        "page-sent 1 precopy urgent boosted",
    ]


def test_a_page_that_stays_incomplete_ends_with_the_next() -> None:
    """In precopy only what is dirty comes, so a page may end before its end."""
    rig = Rig()
    rig.part(MAIN, 0, 0.5, 0.75)
    rig.part(MAIN, 1, 0, 0.5)
    assert rig.lines == ["page-start 0 precopy", "page-sent 0 precopy", "page-start 1 precopy"]


def test_a_run_of_base_pages_is_one_stretch() -> None:
    """Base pages that come together are told by the first and how many they are."""
    rig = Rig()
    span = Span(1, 2 * 4096, 3 * 4096)
    rig.wire.begin(MAIN, span, urgent=False)
    rig.wire.end(MAIN, span, 3)
    assert rig.lines == ["page-start 2 precopy", "page-sent 2 precopy"]
    assert rig.told.of(events.PageEvent)[-1]["pages"] == 3
    assert rig.told.of(events.PageEvent)[-1]["channel_bytes"] == 3 * 9


def test_progress_counts_what_is_missing() -> None:
    """A second pass does not make it less than nothing; postcopy begins with what is stale."""
    rig = Rig()
    for _ in range(2):
        for page in range(4):
            rig.part(MAIN, page, 0, 1)
    rig.wire.tell_progress()
    rig.wire.switch_over(HUGE)
    rig.part(PREEMPT, 3, 0, 0.5, urgent=True)
    rig.wire.tell_progress()
    progress = rig.told.of(events.Progress)
    assert [fields["remaining_bytes"] for fields in progress] == [0, HUGE // 2]
    assert progress[0]["postcopy_bytes"] == 0
    assert progress[1]["postcopy_bytes"] > HUGE // 2
