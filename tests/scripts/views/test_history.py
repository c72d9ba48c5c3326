"""A history holds what the events tell, whichever way the two sides' lines are mixed."""

from typing import Any

import pytest

from protocol.report import STAGES
from scripts.views import history as module
from scripts.views import traffic
from scripts.views.causes import request_ends, served_by, status_of
from scripts.views.history import History
from scripts.views.records import BOOSTED, URGENT
from tests.stories import MS, ZERO_NS, Story, broken_once, half_sent


def read(events: list[dict[str, Any]]) -> History:
    """Return the history of these events."""
    history = History()
    for event in events:
        history.take(event)
    return history


def at(ms: float) -> int:
    """Return a moment of a story."""
    return ZERO_NS + round(ms * MS)


def test_the_sides_may_be_mixed_in_any_way() -> None:
    """Who writes when is chance: all of one side first tells the same."""
    events = half_sent()
    whole = read(events)
    apart = read(sorted(events, key=lambda event: str(event["side"])))
    assert status_of(apart) == status_of(whole)
    for name in ("sends", "waits", "placed", "requests", "marks", "blackout_ns"):
        assert getattr(apart, name) == getattr(whole, name)


def test_a_wait_has_its_stages_and_its_send() -> None:
    """A wait lasts from the touch to the wake-up; the send that ended it is found."""
    history = read(half_sent())
    nine, five = history.waits
    assert (nine.vcpu, nine.page, nine.start_ns, nine.wake_ns) == (0, 9, at(15), at(32))
    assert nine.stages_us is not None
    assert len(nine.stages_us) == len(STAGES)
    assert sum(nine.stages_us) == pytest.approx(nine.latency_us) == 17000
    served = [history.sends[number or 0] for number in served_by(history, [nine, five])]
    assert [(send.page, send.kind) for send in served] == [(9, URGENT), (5, BOOSTED)]


def test_a_wait_without_end_is_kept() -> None:
    """When a run breaks, who waited then is part of what happened; a new fault replaces the old."""
    story = Story()
    story.wait(1, 0, 3)
    story.wait(2, 0, 4)
    history = read(story.events)
    assert history.waits == []
    (wait,) = history.all_waits
    assert (wait.page, wait.wake_ns, wait.latency_us) == (4, None, 0)
    assert served_by(history, [wait]) == [None]


def test_requests_are_paired_page_by_page() -> None:
    """What the source answered belongs to the request for that page."""
    requests = read(half_sent()).requests
    assert [(each.page, each.answer) for each in requests] == [(9, "queued"), (5, "queued")]
    assert [each.came_ns for each in requests] == [at(15.3), at(15.5)]


def test_no_request_gets_over_a_break() -> None:
    """What was asked for before a break was never heard; asked again, it was."""
    # The source had closed its end before the first one could come.
    story = [event for event in broken_once() if "answer" not in event or event["t-ns"] > at(100)]
    first, again = read(story).requests
    assert (first.asked_ns, first.came_ns) == (at(45.15), None)
    assert (again.asked_ns, again.came_ns, again.answer) == (at(103), at(104), "queued")


def test_a_request_is_over_when_its_vcpu_runs() -> None:
    """Not with a placement before or after; both requests of one wait end with it."""
    history = read(broken_once())
    assert request_ends(history, history.requests) == [at(142), at(142)]
    history = read(half_sent())
    assert request_ends(history, history.requests) == [at(32), at(43.8 + 0.2)]


def test_requests_of_waits_that_nobody_told() -> None:
    """They are over when their page is placed after them; or never, as far as is known."""
    story = Story()
    for ms, page in ((1, 3), (1, 4), (6, 3)):
        story.tell(ms, "dest", "page-request", block=0, page=page)
    for placed_ms in (0.5, 5, 9):
        story.tell(placed_ms, "dest", "page-placed", block=0, page=2, pages=2, channel="precopy")
    story.wait(10, 0, 5)
    history = read(story.events)
    assert request_ends(history, history.requests) == [at(5), None, at(9), None]


def test_a_page_asked_for_part_by_part() -> None:
    """Each request belongs to the wait that had begun last, though all are for one page."""
    story = Story()
    for begin in (1, 10):
        story.wait(begin, 0, 3)
        story.wake(begin + 5, 0, 3, 5)
    history = read(story.events)
    assert request_ends(history, history.requests) == [at(6), at(15)]


def test_the_run_is_summed_up() -> None:
    """Blocks, vCPUs, the blackout and how it ended are there."""
    history = read(half_sent())
    assert history.run["policy"] == "ordered"
    assert history.page_count(0) == 16
    assert (history.vcpu_count, status_of(history)) == (2, "completed")
    assert history.blackout_ns == (at(11), at(13))
    assert [state for _, state in history.states("dest")][-1] == "completed"


def test_the_downtime_is_the_reports() -> None:
    """What the source says is told; where it says nothing, what lies between stop and run."""
    story = half_sent()
    assert read(story).downtime_us == 2000
    told = {"t-ns": at(63), "side": "source", "event": "downtime", "ms": 2.125}
    assert read([*story, told]).downtime_us == 2125
    still = [event for event in story if event["event"] != "guest-run"]
    assert read(still).downtime_us is None
    assert read([*still, told]).downtime_us == 2125


def test_events_of_old_still_make_a_history() -> None:
    """Without a `run`, bytes and stages, pages and times are still told."""
    keep = {"t-ns", "side", "event", "state", "block", "page", "channel", "urgent", "vcpu"}
    old = [
        {name: value for name, value in event.items() if name in {*keep, "latency-us"}}
        for event in half_sent()
        if event["event"] not in {"run", "ram-block", "accesses", "verdict"}
    ]
    history = read(old)
    assert history.page_count(0) == 10
    assert {send.bytes for send in history.sends} == {None}
    assert [wait.stages_us for wait in history.waits] == [None, None]


def test_what_is_too_much_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limits nothing more is kept, and how much was left out is known."""
    for name in ("SENDS_MAX", "WAITS_MAX", "NOTES_MAX"):
        monkeypatch.setattr(module, name, 1)
    monkeypatch.setattr(traffic, "SENDS_MAX", 1)
    history = read(half_sent())
    assert [len(kept) for kept in (history.sends, history.waits, history.placed)] == [1, 1, 1]
    assert history.left_out == {"sends": 3, "waits": 1, "placed": 1, "notes": len(
        [event for event in half_sent() if event["event"] in {
            "run", "ram-block", "state", "guest-stop", "guest-run", "boost", "preempt",
            "accesses", "verdict",
        }]
    ) - 1}  # fmt: skip


def test_a_wait_tells_how_it_was_answered() -> None:
    """By what, behind which pages, and in which stages one after the other."""
    five = next(wait for wait in read(half_sent()).waits if wait.page == 5)
    assert (five.answer, five.behind, five.behind_count) == ("boosted", ((0, 9),), 1)
    assert [stage for stage, _ in five.parts] == list(STAGES)
    (broken,) = read(broken_once()).waits
    assert broken.parts == (
        ("detect", 100.0), ("request", 900.0), ("broken", 60_000.0), ("request", 1_000.0),
        ("queue", 35_000.0),
    )  # fmt: skip


def test_stages_that_a_file_does_not_have_took_no_time() -> None:
    """Files of before all of them were told apart are read, too."""
    events = half_sent()
    for event in events:
        event.pop("broken-us", None)
    waits = read(events).waits
    assert [wait.stages_us and wait.stages_us[-1] for wait in waits] == [0.0, 0.0]


def between_two_qemus() -> list[dict[str, Any]]:
    """Return what a relay tells of two requests, of which one waited for the other's page."""
    page: dict[str, Any] = {
        "block": 0,
        "channel-bytes": 9,
        "remaining-bytes": 9,
        "urgent": True,
        "boosted": False,
    }
    told: list[tuple[int, str, dict[str, Any]]] = [
        (0, "run", {"policy": "qemu", "chunk-bytes": 0, "vcpus": 0, "program": "relay"}),
        (1, "state", {"state": "postcopy-active"}),
        (2, "page-request", {"block": 0, "page": 5}),
        (3, "page-request", {"block": 0, "page": 9}),
        (4, "page-start", {**page, "page": 9, "channel": "postcopy"}),
        (6, "page-sent", {**page, "page": 9, "channel": "postcopy", "pages": 1}),
        (
            6, "request-served",
            {
                "block": 0, "page": 9, "channel": "postcopy", "latency-us": 3000.0,
                "begun-bytes": 0, "lane": 1,
            },
        ),
        (7, "page-start", {**page, "page": 5, "channel": "precopy"}),
        (
            8, "request-served",
            {
                "block": 0, "page": 5, "channel": "precopy", "latency-us": 6000.0,
                "begun-bytes": 4096, "lane": 0, "behind": "0:9", "behind-count": 1,
            },
        ),
        (9, "channel-lost", {"channel": "precopy", "reason": "reset"}),
        (10, "state", {"state": "completed"}),
    ]  # fmt: skip
    return [{"t-ns": at(ms), "side": "relay", "event": name, **fields} for ms, name, fields in told]


def test_between_two_qemus_requests_wait() -> None:
    """Where no vCPUs are seen, each request is a wait, from its passing to the page's last byte."""
    history = read(between_two_qemus())
    assert [(wait.vcpu, wait.page, wait.start_ns, wait.wake_ns) for wait in history.waits] == [
        (1, 9, at(3), at(6)),
        (0, 5, at(2), at(8)),
    ]
    assert history.waits[1].behind == ((0, 9),)
    assert history.waiter == "request"
    assert history.vcpu_count == 2
    assert read(half_sent()).waiter == "vCPU"


def test_between_two_qemus_a_wait_begins_with_its_request() -> None:
    """An event is told a moment before the time from which the wait's latency counts."""
    told = between_two_qemus()
    for each in told:
        if each["event"] == "request-served":
            each["latency-us"] -= 50
    history = read(told)
    assert [wait.start_ns for wait in history.waits] == [at(3), at(2)]
    assert request_ends(history, history.requests) == [at(8), at(6)]


def test_between_two_qemus_the_source_is_seen_from_outside() -> None:
    """What a relay tells of the migration's states and breaks stands for what the source would."""
    history = read(between_two_qemus())
    assert [state for _, state in history.states("source")] == ["postcopy-active", "completed"]
    assert status_of(history) == "completed"
    assert [(send.page, send.ended) for send in history.sends] == [
        (9, "page-sent"),
        (5, "channel-lost"),
    ]
    # How often a page was broken off nobody there can tell.
    assert history.source_count("preempt") is None
