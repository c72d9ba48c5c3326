"""The demo's runs: the half-sent page is asked for on every machine, by whatever policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.demo.cases import (
    FIRST,
    HALF_SENT,
    PAGES,
    POLICIES,
    REQUESTS,
    NoCase,
    case_of,
    run_case,
    scenario_text,
)
from scripts.injection.actions import Fault
from scripts.injection.inject import judge
from scripts.injection.outcome import Outcome
from scripts.injection.scenario import read_scenario
from scripts.injection.trial import Trial
from scripts.runtime.looping import run_until_signalled


@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_meets_the_same_faults(tmp_path: Path, policy: str) -> None:
    """The scenarios differ in nothing but the policy and what is expected of it."""
    (tmp_path / "case.toml").write_text(scenario_text(policy), encoding="utf-8")
    scenario = read_scenario(tmp_path / "case.toml")
    assert scenario.source.policy.name == policy
    (step,) = scenario.steps
    assert isinstance(step.action, Fault)
    indices = [page.index for page in step.action.pages]
    assert indices[:2] == [FIRST, HALF_SENT]
    assert len(set(indices)) == len(indices) == REQUESTS == scenario.program.vcpu_count
    assert max(indices) < PAGES == scenario.geometry.page_count
    assert step.action.target_page == 511


@pytest.mark.parametrize(
    ("policy", "ahead"), [("drop", REQUESTS - 1), ("ordered", 1), ("critical-first", None)]
)
def test_the_half_sent_page_is_asked_for(tmp_path: Path, policy: str, ahead: int | None) -> None:
    """A real run comes to its case, and its order is the policy's, whatever the machine does."""
    case = run_case(policy, tmp_path)
    assert case.policy == policy
    assert case.wait_us > 0
    assert case.compared_bytes == PAGES << 21
    assert case.bytes_sent_twice == 0
    if ahead is not None:
        assert case.ahead == ahead
    events = [(event["event"], event.get("page")) for event in case.events]
    assert events.index(("preempt", HALF_SENT)) < events.index(("page-sent", FIRST))
    assert (("boost", HALF_SENT) in events) == (policy == "ordered")


def outcome(*events: dict[str, Any], **fields: Any) -> Outcome:  # noqa: ANN401 - of an outcome
    """Return how a run ended that told these events."""
    report = {"ram": {"total": 1 << 21}, "midstream": {"bytes-sent-twice": 0}}
    return Outcome({"source": 0, "dest": 0}, events=events, report=report, **fields)


def event(name: str, side: str, t_ns: int, page: int = HALF_SENT, **fields: int) -> dict[str, Any]:
    """Return an event about a page."""
    return {"event": name, "side": side, "t-ns": t_ns, "block": 0, "page": page, **fields}


ASKED = event("page-request", "dest", 1000)
CAME = event("page-request", "source", 5000)
RAN = event("vcpu-wake", "dest", 99_000, **{"fault-ns": 900, "latency-us": 40})


def test_the_wait_is_counted_from_when_the_source_had_the_request() -> None:
    """What stood still before it, which is arranged, is no part of it; what was sent before is."""
    sent = [
        event("page-sent", "source", 6000, page) for page in (FIRST, 2, FIRST + 3, HALF_SENT, 7)
    ]
    case = case_of("drop", outcome(ASKED, CAME, *sent, RAN))
    assert case.wait_us == pytest.approx((900 + 40_000 - 5000) / 1000)
    # Page 2 nobody has asked for.
    assert case.ahead == 2


@pytest.mark.parametrize("told", [(), (ASKED, RAN), (ASKED, CAME)])
def test_a_run_without_the_case_is_no_demo(told: tuple[dict[str, Any], ...]) -> None:
    """Where the page was not asked for, or nobody waited, nothing is said of a wait."""
    with pytest.raises(NoCase, match="the run with ordered is no demo: page 5 was not waited for"):
        case_of("ordered", outcome(*told))


def test_why_a_side_failed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails ends with the side's reason and its exit status."""
    failed = Outcome({"source": 1, "dest": 3}, reasons={"dest": "page 7 is wrong"}, events=())
    monkeypatch.setattr("scripts.demo.cases.run_until_signalled", lambda _: failed)
    with pytest.raises(NoCase, match="dest: page 7 is wrong") as caught:
        run_case("drop", tmp_path)
    assert caught.value.exit_status == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_a_machine_without_the_kernels_help_comes_to_the_case(tmp_path: Path, policy: str) -> None:
    """Base pages, no userfaultfd, writes logged by the vCPUs: the order is the same."""
    poor = 'placement = "simulated"\nbacking = "base"\ndirty-log = "software"\nlink = '
    path = tmp_path / "poor.toml"
    path.write_text(scenario_text(policy).replace("link = ", poor), encoding="utf-8")
    scenario = read_scenario(path)
    outcome = run_until_signalled(Trial(scenario, tmp_path).run)
    assert judge(scenario, outcome) == []
    assert outcome.report is not None
    own = outcome.report["midstream"]
    assert (own["placement"], own["backing"], own["dirty-log"]) == ("simulated", "base", "software")
    assert case_of(policy, outcome).wait_us > 0
