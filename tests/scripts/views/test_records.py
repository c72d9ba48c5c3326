"""A wake-up ends the wait that it belongs to, in whatever order waits and wake-ups are told."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dest.trips
from dest.waits import Latencies
from protocol.geometry import PageId
from scripts.views.causes import percentiles_us, waited_us, waiting_over_time
from scripts.views.history import History
from scripts.views.live import LiveState
from scripts.views.records import OpenWaits, Wait
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


def wait(start_ns: int, wake_ns: int | None, vcpu: int = 0) -> Wait:
    """Return a wait for a page that does not matter."""
    return Wait(vcpu, 0, 0, start_ns, wake_ns, None)


@given(st.lists(st.integers(0, 10**12), max_size=60))
def test_the_percentiles_are_those_of_the_report(lengths_ns: list[int]) -> None:
    """The figures that views make of events are those that the destination makes of the waits."""
    latencies = Latencies(1)
    for length_ns in lengths_ns:
        latencies.record(
            dest.trips.Wait(
                0, PageId(0, 0), 5, 5, last_byte_ns=5, placed_ns=5, wake_ns=5 + length_ns
            )
        )
    reported = latencies.faults
    assert percentiles_us(wait(5, 5 + length_ns) for length_ns in lengths_ns) == {
        "p50": reported.p50_us,
        "p90": reported.p90_us,
        "p99": reported.p99_us,
        "p99.9": reported.p999_us,
        "max": reported.max_us,
    }


def test_waits_that_go_on_are_in_no_percentile() -> None:
    """Only what ended has a length; nothing at all has zeros."""
    waits = [wait(0, 4000), wait(0, 2000), wait(0, None)]
    expected = {"p50": 2, "p90": 4, "p99": 4, "p99.9": 4, "max": 4}
    assert percentiles_us(waits) == pytest.approx(expected, rel=1e-3)
    assert set(percentiles_us([]).values()) == {0.0}
    assert waited_us(waits) == 6


def test_the_number_of_waiting_vcpus_goes_up_and_down() -> None:
    """It rises with each touch, falls with each wake-up, and ends at nothing."""
    waits = [wait(10, 30), wait(20, None, 1), wait(30, 40)]
    assert waiting_over_time(waits, 50) == [(10, 1), (20, 2), (30, 2), (40, 1), (50, 0)]
