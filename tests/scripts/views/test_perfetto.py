"""Traces follow the rules of the trace event format, and tell of each thing once."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from scripts.views.history import History
from scripts.views.perfetto import TraceWriter
from tests.stories import PAGE_BYTES, Story, broken_once, half_sent
from tests.traces import TraceEvent, check_rules


def trace_of(events: list[dict[str, Any]]) -> list[TraceEvent]:
    """Return the trace events of a run, as a reader of the file has them."""
    history = History()
    for event in events:
        history.take(event)
    document = json.loads(json.dumps(TraceWriter(history).document(), allow_nan=False))
    found: list[TraceEvent] = document["traceEvents"]
    return found


def test_a_trace_keeps_the_rules() -> None:
    """The story of the half-sent page makes a trace that any reader of the format takes."""
    check_rules(trace_of(half_sent()))


@pytest.mark.parametrize(
    "damage",
    [
        lambda trace: trace.remove(next(each for each in trace if each["ph"] == "e")),
        lambda trace: trace.remove(next(each for each in trace if each["ph"] == "f")),
        lambda trace: next(each for each in trace if each["ph"] == "X").pop("dur"),
        lambda trace: next(each for each in trace if each["ph"] == "t").update(ts=1.0),
    ],
)
def test_the_rules_can_be_broken(damage: Any) -> None:  # noqa: ANN401 - a lambda
    """The check of the rules finds an open end, a lost arrow, a missing key, an arrow astray."""
    trace = trace_of(half_sent())
    damage(trace)
    with pytest.raises(AssertionError):
        check_rules(trace)


def test_between_two_qemus_pages_and_messages_go_by_their_names() -> None:
    """A page has its RAMBlock's name where there are several, and a message its own."""
    told: list[tuple[int, str, dict[str, Any]]] = [
        (0, "run", {"policy": "qemu", "chunk-bytes": 0, "vcpus": 0, "program": "relay"}),
        *(
            (
                0,
                "ram-block",
                {"block": index, "name": name, "length-bytes": 1 << 24, "page-bytes": 1 << 21},
            )
            for index, name in enumerate("ab")
        ),
        (1, "peer-message", {"connection": 1, "direction": "forward", "name": "package"}),
        (2, "page-request", {"block": 1, "page": 3}),
        (
            5,
            "request-served",
            {
                "block": 1, "page": 3, "channel": "precopy", "latency-us": 2900.0,
                "begun-bytes": 0, "lane": 0, "behind": "0:4 1:5", "behind-count": 2,
            },
        ),
        (9, "state", {"state": "completed"}),
    ]  # fmt: skip
    trace = trace_of(
        [{"t-ns": ms * 10**6, "side": "relay", "event": name, **more} for ms, name, more in told]
    )
    check_rules(trace)
    (wait,) = [each for each in trace if each["name"].startswith("waits")]
    assert (wait["name"], wait["args"]["behind"]) == ("waits for page b:3", "a:4 b:5")
    way = [(each["ph"], each["name"], each["ts"]) for each in trace if each["ph"] in "be"]
    assert way == [("b", "page b:3", 2000.0), ("e", "page b:3", 5000.0)]
    assert "package" in [each["name"] for each in trace if each["ph"] == "i"]


def test_every_send_is_there_once_and_says_how_urgent_it_was() -> None:
    """Each stretch of a page is one span on its channel, by name, category and colour its kind."""
    trace = trace_of(half_sent())
    sends = [each for each in trace if each["ph"] == "X" and each["cat"] in {
        "background", "urgent", "boosted"
    }]  # fmt: skip
    assert [(each["name"], each["tid"], each["args"]["ended"]) for each in sends] == [
        ("background page 5", 2, "preempt"),
        ("urgent page 9", 3, "page-sent"),
        ("boosted page 5", 2, "page-sent"),
        ("background page 7", 2, "page-sent"),
    ]
    assert len({each["cname"] for each in sends}) == 3
    assert [each["args"]["urgent"] for each in sends] == [False, True, True, False]


def test_arrows_lead_from_the_touch_to_the_wake_up() -> None:
    """Both waits have an arrow: from their vCPU over the send that served it and back."""
    trace = trace_of(half_sent())
    arrows = [each for each in trace if each["ph"] in "stf"]
    assert [(each["ph"], each["name"], each["tid"]) for each in arrows] == [
        ("s", "page 9", 10), ("t", "page 9", 3), ("f", "page 9", 10),
        ("s", "page 5", 11), ("t", "page 5", 2), ("f", "page 5", 11),
    ]  # fmt: skip


def test_counters_end_with_nothing_left() -> None:
    """The bytes that remain and the vCPUs that wait are counted over time."""
    trace = trace_of(half_sent())
    counters = [each for each in trace if each["ph"] == "C"]
    waiting = [each["args"]["waiting"] for each in counters if each["name"] == "waiting vCPUs"]
    assert (max(waiting), waiting[-1]) == (2, 0)
    remaining = [each["args"]["remaining"] for each in counters if "remaining" in each["args"]]
    assert remaining == sorted(remaining, reverse=True)
    assert len(remaining) == 9


def test_a_run_that_broke_makes_a_trace_too() -> None:
    """Waits without an end, and requests that nobody answered, reach to the end of the trace."""
    story = Story()
    story.state(0, "postcopy-active")
    story.wait(1, 0, 3)
    story.state(5, "failed")
    trace = trace_of(story.events)
    check_rules(trace)
    (wait,) = [each for each in trace if each.get("cat") == "wait"]
    assert (wait["ts"], wait["dur"], wait["args"]["ended"]) == (1000, 4000, False)
    assert Counter(each["ph"] for each in trace)["s"] == 0


@pytest.mark.parametrize("counts_anew", [False, True])
def test_a_break_takes_nothing_back(counts_anew: bool) -> None:
    """What a channel has sent never becomes less, and requests end when their vCPU runs again."""
    trace = trace_of(broken_once(counts_anew=counts_anew))
    check_rules(trace)
    sent = [
        each["args"]["sent"] for each in trace
        if each["ph"] == "C" and each["name"] == "precopy channel, sent (bytes)"
    ]  # fmt: skip
    assert sent == sorted(sent)
    assert sent[-1] == 2 * PAGE_BYTES
    spans = [
        (each["ph"], each["ts"]) for each in trace if each["ph"] in "be" and each["cat"] == "page"
    ]
    assert spans == [("b", 45_150), ("e", 142_000), ("b", 103_000), ("e", 142_000)]


def test_the_stages_of_a_wait_follow_each_other() -> None:
    """Each is a span inside the wait, in the order of time, also where a break came between."""
    trace = trace_of(broken_once())
    (wait,) = (each for each in trace if each["ph"] == "X" and each["cat"] == "wait")
    parts = [each for each in trace if each["ph"] == "X" and each["cat"] == "stage"]
    assert [part["name"] for part in parts] == ["detect", "request", "broken", "request", "queue"]
    assert parts[0]["ts"] == wait["ts"]
    assert all(
        one["ts"] + one["dur"] == pytest.approx(other["ts"]) for one, other in pairwise(parts)
    )
    assert parts[-1]["ts"] + parts[-1]["dur"] == pytest.approx(wait["ts"] + wait["dur"])
    assert {part["args"]["what"] for part in parts} >= {"no connection", "waiting for its turn"}


def test_a_wait_says_how_it_was_answered() -> None:
    """The wait for the half-sent page was boosted, behind the page that it was broken off for."""
    waits = [
        each["args"]
        for each in trace_of(half_sent())
        if each["ph"] == "X" and each["cat"] == "wait"
    ]
    (five,) = (args for args in waits if args["page"] == 5)
    assert (five["answer"], five["behind"], five["behind-count"]) == ("boosted", "0:9", 1)
