"""Random breaks: where they fall is the seed's to say, and what may come of them is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protocol.channels import Channel
from scripts.injection.marks import Direction
from scripts.injection.outcome import Outcome
from scripts.injection.scenario import Scenario, read_scenario
from scripts.injection.storm import BREAKS_MAX, broken_at_random, judge_storm
from scripts.injection.triggers import Passed

PASSAGES = {
    (channel, direction): count
    for count, (channel, direction) in enumerate(
        ((channel, direction) for channel in Channel for direction in Direction), start=100
    )
}


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    """A scenario with a step of its own."""
    path = tmp_path / "base.toml"
    path.write_text("""name = "base"
[[step]]
when = { time = "1ms" }
network = { do = "stall", for = "1ms" }
[expect]
status = "completed"
""")
    return read_scenario(path)


def test_a_seed_is_a_storm(scenario: Scenario) -> None:
    """The same seed breaks at the same bytes, others at others, all of them within what passes."""
    storms = [broken_at_random(scenario, PASSAGES, seed).steps for seed in range(50)]
    assert storms == [broken_at_random(scenario, PASSAGES, seed).steps for seed in range(50)]
    assert len({str(steps) for steps in storms}) == 50
    assert {len(steps) for steps in storms} == set(range(1, BREAKS_MAX + 1))
    for steps in storms:
        for step in steps:
            assert isinstance(step.when, Passed)
            mark = step.when.mark
            assert 1 <= mark.count <= PASSAGES[mark.channel, mark.direction]


def states(side: str, *names: str) -> list[dict[str, Any]]:
    """Return the events of a side's states."""
    return [{"event": "state", "side": side, "state": name} for name in names]


def report(recoveries: int = 0, mismatches: int = 0, *, equal: bool = True) -> dict[str, Any]:
    """Return what of a report is looked at."""
    return {
        "midstream": {
            "preemptions": {"boosted": 0, "count": 0},
            "verified": {"mismatches": mismatches, "digest-equal": equal},
            "recoveries": recoveries,
            "bytes-sent-twice": 0,
            "pages-sent-twice": 0,
            "bytes-lost": 0,
            "checksums": {"changed": 0},
            "requests": {"postponed": 0},
        }
    }


# What a source leaves that failed.
NO_REPORT: dict[str, Any] = {"status": "failed", "midstream": {"reason": "cut"}}

IN_PRECOPY = [*states("source", "setup", "active", "failed"), *states("dest", "active", "failed")]
UNHEARD = [
    *states("source", "postcopy-active", "completed"),
    *states("dest", "active", "completed"),
]
IN_POSTCOPY = states("source", "active", "device", "postcopy-active", "postcopy-paused", "failed")


@pytest.mark.parametrize(
    ("outcome", "fault", "recovered"),
    [
        (Outcome({"source": 0, "dest": 0}, report=report()), "", False),
        (Outcome({"source": 0, "dest": 0}, report=report(recoveries=2)), "", True),
        (Outcome({"source": 1, "dest": 1}, events=IN_PRECOPY), "", False),
        (Outcome({"source": 1, "dest": 1}, events=IN_PRECOPY, report=NO_REPORT), "", False),
        (
            Outcome({"source": 1, "dest": 1}, events=IN_POSTCOPY, report=NO_REPORT),
            "it ended with",
            False,
        ),
        (Outcome({"source": 1, "dest": 4}, events=IN_POSTCOPY), "it ended with", False),
        (Outcome({"source": 1, "dest": -9}, events=IN_PRECOPY), "it ended with", False),
        (Outcome({"source": 0, "dest": 1}, report=report()), "completed, and yet", False),
        (
            Outcome({"source": 0, "dest": 0}, report=report(equal=False)),
            "completed, and yet",
            False,
        ),
        (Outcome({"source": 1, "dest": 0}, events=UNHEARD, report=NO_REPORT), "", False),
        (Outcome({"source": 1, "dest": 1}, events=UNHEARD), "it ended with", False),
        (Outcome({"source": 1, "dest": 0}, events=UNHEARD[:3]), "it ended with", False),
        (Outcome({"source": 3, "dest": 3}, report=report(mismatches=1)), "wrong memory", False),
        (Outcome({"source": None, "dest": None}, timed_out=True), "it hung", False),
    ],
)
def test_how_a_run_may_end(outcome: Outcome, fault: str, recovered: bool) -> None:
    """Completed with all memory right, heard by the source or not, or failed before that."""
    ending = judge_storm(outcome)
    assert fault in ending.fault
    assert bool(fault) == bool(ending.fault)
    assert ending.recovered is recovered
