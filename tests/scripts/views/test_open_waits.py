"""A wake-up ends the wait that it belongs to, in whatever order waits and wake-ups are told."""

from typing import Any

import pytest

from scripts.views.history import History
from scripts.views.live import LiveState
from scripts.views.open_waits import OpenWaits
from tests.processes import Lab, read_events
from tests.stories import MS, ZERO_NS, Story


def told(vcpu: int, page: int, ms: float) -> dict[str, Any]:
    """Return a wait told at that time, touched a moment before."""
    return {
        "t-ns": round(ms * MS), "vcpu": vcpu, "block": 0, "page": page,
        "fault-ns": round((ms - 0.1) * MS),
    }  # fmt: skip


def wake(vcpu: int, page: int, touched_ms: float) -> dict[str, Any]:
    """Return a wake-up from a touch at that time."""
    return {
        "t-ns": round((touched_ms + 9) * MS), "vcpu": vcpu, "block": 0, "page": page,
        "fault-ns": round(touched_ms * MS),
    }  # fmt: skip


def present(waits: OpenWaits) -> list[tuple[int, int]]:
    """Return who waits for which page."""
    return [(wait["vcpu"], wait["page"]) for wait in waits.present]


def test_the_next_wait_told_first_goes_on() -> None:
    """Where the next fault is heard of before a wake-up, the vCPU waits for that page."""
    waits = OpenWaits()
    waits.begin(told(0, 5, 1))
    waits.begin(told(1, 5, 1))
    waits.begin(told(0, 6, 3))
    assert present(waits) == [(0, 6), (1, 5)]
    ended = waits.end(wake(0, 5, 0.9))
    assert ended is not None
    assert ended["t-ns"] == 1 * MS
    assert present(waits) == [(0, 6), (1, 5)]
    assert waits.end(wake(0, 6, 2.9)) is not None
    assert present(waits) == [(1, 5)]


def test_the_same_page_twice() -> None:
    """A vCPU that is woken for a part of a page may wait for it again; each wake-up ends one."""
    waits = OpenWaits()
    waits.begin(told(0, 5, 1))
    waits.begin(told(0, 5, 3))
    assert waits.end(wake(0, 5, 0.9)) is not None
    assert present(waits) == [(0, 5)]
    assert waits.end(wake(0, 5, 2.9)) is not None
    assert present(waits) == []


def test_a_wait_whose_wake_up_nobody_told() -> None:
    """A later wake-up ends it, too; a wake-up of which no wait was told ends none."""
    waits = OpenWaits()
    waits.begin(told(0, 5, 1))
    waits.begin(told(0, 6, 3))
    waits.begin(told(0, 5, 5))
    assert waits.end(wake(0, 5, 4.9)) == told(0, 5, 5)
    assert present(waits) == []
    waits.begin(told(0, 7, 20))
    assert waits.end(wake(0, 9, 12)) is None
    assert present(waits) == [(0, 7)]
    for ms in range(100):
        waits.begin(told(0, ms, 30 + ms))
    assert present(waits) == [(0, 99)]


def test_all_views_agree() -> None:
    """What is open at the end of events is the same in the live picture and in the history."""
    story = Story()
    story.wait(1, 0, 3)
    story.wait(1, 1, 3)
    story.wait(5.5, 0, 4)
    story.wake(5, 0, 3, 4)
    live, history = LiveState(), History()
    for event in story.events:
        live.take(event)
        history.take(event)
    waiting = [(1, 3, ZERO_NS + 1 * MS), (0, 4, ZERO_NS + round(5.5 * MS))]
    assert [(each.vcpu, each.page, each.since_ns) for each in live.waiters] == waiting
    open_ = [wait for wait in history.all_waits if wait.wake_ns is None]
    assert sorted((wait.start_ns, wait.vcpu, wait.page) for wait in open_) == sorted(
        (since_ns, vcpu, page) for vcpu, page, since_ns in waiting
    )
    (ended,) = history.waits
    assert (ended.vcpu, ended.page, ended.latency_us) == (0, 3, 4000)


@pytest.mark.parametrize("policy", ["ordered", "critical-first"])
def test_who_waits_at_every_moment_of_a_run(lab: Lab, policy: str) -> None:
    """Who has been heard to wait and still does, by its own word, is shown; the others are not."""
    file = lab.folder / "events"
    lab.run(
        "migrate", "--size=24MiB", "--vcpus=4", "--access-rate=0", "--postcopy-after=0",
        f"--policy={policy}", f"--events={file}", "--quiet",
    ).succeed()  # fmt: skip
    events = sorted(read_events(file), key=lambda event: int(event["t-ns"]))
    waits = [event for event in events if event["event"] == "vcpu-wait"]
    ends: dict[int, int] = {}
    heard: dict[int, int] = {}
    for woke in (event for event in events if event["event"] == "vcpu-wake"):
        # A vCPU says when it touched the page; that it waits is heard some time after.
        begun = next(
            wait for wait in waits
            if id(wait) not in ends
            and (wait["vcpu"], wait["page"]) == (woke["vcpu"], woke["page"])
            and wait["t-ns"] >= woke["fault-ns"]
        )  # fmt: skip
        ends[id(begun)] = woke["fault-ns"] + round(woke["latency-us"] * 1000)
        heard[id(begun)] = woke["t-ns"]
    assert len(ends) >= 4
    live = LiveState()
    for event in events:
        live.take(event)
        now_ns = event["t-ns"]
        known = [wait for wait in waits if wait["t-ns"] <= now_ns]
        shown = {(waiter.vcpu, waiter.page) for waiter in live.waiters}
        assert shown >= {
            (wait["vcpu"], wait["page"]) for wait in known
            if id(wait) in ends and wait["t-ns"] < now_ns < ends[id(wait)]
        }  # fmt: skip
        assert shown <= {
            (wait["vcpu"], wait["page"]) for wait in known
            if heard.get(id(wait), now_ns) >= now_ns
        }  # fmt: skip
    assert live.waiters == []
