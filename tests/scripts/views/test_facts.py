"""What a verdict says of a run is what the events of both sides say, and what the report says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from protocol.report import STAGES
from scripts.screen.facts import facts_of
from scripts.screen.words import time_us
from scripts.views.facts import facts_of_events, verdict_of
from scripts.views.history import History
from scripts.views.outputs import history_of
from tests.processes import Lab, read_events
from tests.stories import half_sent


def facts_from(events: list[dict[str, Any]]) -> Any:  # noqa: ANN401 - Facts
    """Return the facts of made-up events."""
    return facts_of_events(history_of(events))


def check(report: dict[str, Any], events: list[dict[str, Any]]) -> None:
    """Check that a report's facts are those that both sides' events tell one by one."""
    facts, told = facts_of(report), facts_from(events)
    wakes = [event for event in events if event["event"] == "vcpu-wake"]
    assert facts.waits == told.waits == len(wakes)
    # A report keeps a thousandth of a wait to itself.
    waited_ms = sum(event["latency-us"] for event in wakes) / 1000
    assert facts.waited_ms == pytest.approx(waited_ms, rel=0.002, abs=0.01)
    assert told.waited_ms == pytest.approx(waited_ms)
    for stage in STAGES:
        spent_ms = sum(event[f"{stage}-us"] for event in wakes) / 1000
        assert facts.stage_ms[stage] == pytest.approx(spent_ms, rel=0.002, abs=0.01)
        if wakes:
            assert told.stage_ms[stage] == pytest.approx(spent_ms)
    same = (
        *("status", "verified", "ram_bytes", "has_postcopy", "vcpus", "policy", "page_bytes"),
        *("limits", "link_bytes_per_second", "breaks"),
    )
    for name in same:
        assert getattr(facts, name) == getattr(told, name), name
    close = ("postcopy_ms", "downtime_ms", "bytes_per_second", "median_us", "longest_us")
    for name in close:
        expected = pytest.approx(getattr(facts, name), rel=0.002, abs=0.01)
        assert getattr(told, name) == expected, name
    for mine, theirs in ((facts.source, told.source), (facts.dest, told.dest)):
        assert mine == pytest.approx(theirs, abs=0.001)
        assert mine is not None
        assert 0 < mine.total <= 1
    # The source stops the guest, and the destination's word that all is there ends postcopy.
    (stop,) = [event["t-ns"] for event in events if event["event"] == "guest-stop"]
    (run,) = [event["t-ns"] for event in events if event["event"] == "guest-run"]
    (downtime,) = [event["ms"] for event in events if event["event"] == "downtime"]
    assert facts.downtime_ms == pytest.approx(downtime)
    assert stop < run
    done = min(
        event["t-ns"] for event in events if (event["event"], event.get("state"), event["side"])
        == ("state", "completed", "source")
    )  # fmt: skip
    assert 0 <= facts.postcopy_ms <= (done - stop) / 1e6
    assert report["midstream"]["verdict"]["sentences"][0].startswith("Verified: ")


@pytest.mark.parametrize(
    "options",
    [
        ("--policy=ordered", "--vcpus=3", "--postcopy-after=0", "--link=400Mbit/s"),
        ("--policy=drop", "--max-postcopy-bandwidth=40MB/s", "--postcopy-after=0"),
        ("--policy=critical-first", "--postcopy-after=1"),
        ("--postcopy-after=never", "--access-rate=50"),
    ],
)
def test_a_real_run(lab: Lab, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Report and events, of whatever run, come to the same facts."""
    done = lab.run(
        "migrate", "--size=8MiB", "--quiet", "--events=e.jsonl", "--report=r.json", *options
    )
    assert done.status == 0, done.errors
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    check(report, read_events(tmp_path / "e.jsonl"))


def plain(text: str) -> str:
    """Return a text in one line, all of its spaces alike."""
    return " ".join(text.split())


def test_figures_of_one_run_are_the_same_wherever_they_stand(lab: Lab, tmp_path: Path) -> None:
    """Percentiles of waits and the downtime: result, report, page, and what `report` shows."""
    done = lab.run(
        "migrate", "--size=8MiB", "--page-size=4KiB", "--vcpus=3", "--access-rate=0",
        "--postcopy-after=0", "--max-postcopy-bandwidth=4MB/s", "--events=e.jsonl",
        "--report=r.json", "--html=p.html",
    )  # fmt: skip
    assert done.status == 0, done.errors
    own = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["midstream"]
    keys = {"p50": "p50-us", "p90": "p90-us", "p99": "p99-us", "max": "max-us"}
    waits_us = {name: own["faults"][key] for name, key in keys.items()}
    assert 0 < waits_us["p50"] <= waits_us["p90"] <= waits_us["p99"] <= waits_us["max"]
    # Rounded as for people, in the result and in the table of the events.
    times = {name: plain(time_us(us)) for name, us in waits_us.items()}
    downtime = plain(time_us(own["downtime-ms"] * 1000))
    said = plain(done.output)
    assert f"downtime {downtime}" in said
    assert ", ".join(f"{name} {time}" for name, time in times.items()) in said
    shown = plain(lab.run("report", "e.jsonl").succeed().output)
    assert f"downtime {downtime} " in shown
    for name, time in times.items():
        assert f"wait {name} {time} " in shown
    page = (tmp_path / "p.html").read_text(encoding="utf-8").replace(" ", "")
    for name, us in waits_us.items():
        assert f'"{name}":{us}' in page
    (downtime_us,) = re.findall(r'"downtime_us":([0-9.]+)', page)
    assert float(downtime_us) == pytest.approx(own["downtime-ms"] * 1000)


def test_a_run_that_was_cut_says_what_the_break_cost(lab: Lab, tmp_path: Path) -> None:
    """Both count one break; how long it took is what lies between the events of it."""
    scenario = Path(__file__).parents[2] / "scenarios" / "cut-in-postcopy.toml"
    done = lab.run("inject", scenario, "--keep=kept")
    assert done.status == 0, done.output + done.errors
    folder = tmp_path / "kept" / "cut-in-postcopy-1"
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    events = read_events(folder / "events.jsonl")
    facts, told = facts_of(report), facts_from(events)
    lost = min(event["t-ns"] for event in events if event["event"] == "channel-lost")
    (on,) = [
        event["t-ns"] for event in events
        if (event["event"], event["side"]) == ("recovered", "source")
    ]  # fmt: skip
    assert facts.breaks == told.breaks == 1
    # The source notices a little after the first who does, and goes on before it says so.
    assert 0 < facts.paused_ms <= (on - lost) / 1e6
    assert 0 < told.paused_ms <= (on - lost) / 1e6 + 0.01
    assert any("interrupted and resumed 1 time" in text for _, text in verdict_of_events(events))


def verdict_of_events(events: list[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Return the sentences on made-up events."""
    return verdict_of(history_of(events)).sentences


def test_a_story_is_told_by_its_events_alone() -> None:
    """Files of before tell no shares of processors and no rate; the rest is said all the same."""
    told = dict(verdict_of_events(half_sent()))
    facts = facts_from(half_sent())
    assert facts.source is None
    assert facts.bytes_per_second == 0
    assert "rate" not in told
    assert told["waits"].startswith(f"Its {facts.vcpus} vCPUs spent ")


def test_what_was_told_last_counts_where_events_end_too_soon() -> None:
    """A file that was cut off has no end, and its verdict says so."""
    events = [event for event in half_sent() if event["event"] != "verdict"]
    cut = [
        event for event in events
        if (event["event"], event.get("state")) != ("state", "completed")
    ]  # fmt: skip
    assert dict(verdict_of_events(cut))["outcome"].startswith(
        "Not finished: the last recorded state "
    )
    assert verdict_of(History()).tone == "open"


def lost(side: str, at_ns: int, event: str) -> dict[str, Any]:
    """Return an event of a break."""
    fields = {"channel": "precopy", "reason": "reset"} if event == "channel-lost" else {}
    return {"t-ns": at_ns, "side": side, "event": event, **fields}


def test_two_connections_of_one_break_are_one_pause() -> None:
    """Each pause is from the first loss that is told since the last one was over."""
    events = [
        lost("source", 1_000_000, "channel-lost"), lost("source", 2_000_000, "channel-lost"),
        lost("dest", 500_000, "channel-lost"), lost("source", 5_000_000, "recovered"),
        lost("source", 9_000_000, "channel-lost"), lost("source", 10_000_000, "recovered"),
        lost("dest", 11_000_000, "recovered"), lost("source", 12_000_000, "channel-lost"),
    ]  # fmt: skip
    facts = facts_from(events)
    assert facts.breaks == 2
    assert facts.paused_ms == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("told", "place"),
    [
        ([("source", "state", "failed")], "source"),
        ([("source", "state", "active"), ("dest", "state", "failed")], ""),
        ([("source", "guest-stop", ""), ("source", "state", "failed")], ""),
        (
            [
                ("source", "guest-stop", ""), ("source", "guest-run", ""),
                ("source", "state", "failed"),
            ],
            "source",
        ),
        ([("dest", "guest-run", ""), ("dest", "state", "postcopy-paused")], "dest"),
        ([("dest", "guest-run", ""), ("dest", "state", "postcopy-active")], ""),
    ],
)  # fmt: skip
def test_where_the_guest_is_is_said_where_it_is_certain(
    told: list[tuple[str, str, str]], place: str
) -> None:
    """A side that told how it ended has it, or not; of one that fell silent nobody knows."""
    events = [
        {"t-ns": number, "side": side, "event": event, **({"state": state} if state else {})}
        for number, (side, event, state) in enumerate(told)
    ]
    assert facts_from(events).guest_side == place
