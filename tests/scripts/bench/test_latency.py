"""Waits beside the wire's time."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from protocol.policy import PRESETS
from scripts.bench import latency
from scripts.bench.figure import Plan
from scripts.bench.latency import Case, cases, measure_latency
from scripts.figures.raw_pair import RawRun
from scripts.links.link import LOOPBACK, PROXY, Link
from scripts.links.spec import LinkSpec


def told(options: Mapping[str, str]) -> dict[str, Any]:
    """Return what matters of a report: 16.8 ms at 1 Gbit/s is 2 MiB."""
    return {
        "ram": {"mbps": 950.0},
        "midstream": {"faults": {"p50-us": 16_777.216, "p99-us": 33_554.432}},
    }


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measurement is over at once."""
    monkeypatch.setattr(latency, "migrate", told)
    monkeypatch.setattr(latency, "measure", lambda *_: RawRun(2e9, 0.1))
    monkeypatch.setattr(latency, "link_of", lambda _: nullcontext(LOOPBACK))
    monkeypatch.setattr(latency, "ask", lambda _: [1e-4, 2e-4, 9e-4])


def test_all_is_measured_but_in_a_minute(plan: Plan) -> None:
    """Every policy has a case; a quick plan keeps the two that are judged."""
    chosen = cases(replace(plan, quick=False))

    assert {case.policy for case in chosen} == set(PRESETS)
    assert len(set(chosen)) == len(chosen)
    for link in ("0", "1Gbit/s", "10Gbit/s"):
        assert {(case.vcpus, case.access_rate) for case in chosen if case.link == link} == {
            (vcpus, rate) for vcpus in (1, 4, 16) for rate in (0, 50)
        }
    assert {case.policy for case in cases(plan)} == {"ordered", "critical-first"}


def test_every_run_has_the_guest_that_is_wanted(
    plan: Plan, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs the vCPUs is the same for all."""
    kinds = []

    def note(options: Mapping[str, str]) -> dict[str, Any]:
        kinds.append(options["guest"])
        return told(options)

    monkeypatch.setattr(latency, "migrate", note)
    measure_latency(plan)
    assert set(kinds) == {"python"}
    kinds.clear()
    measure_latency(replace(plan, guest="native"))
    assert set(kinds) == {"native"}
    assert replace(plan, guest="native").shape("4KiB")["guest"] == "native"


def test_waits_stand_beside_the_wire(plan: Plan, at_once: None) -> None:
    """On a link the wire's time is the rate's; both percentiles and the link's share are judged."""
    figures = {figure.name: figure for figure in measure_latency(plan)}

    title = "ordered, 1 vCPU without pause, 1Gbit/s"
    assert figures[f"{title}: p50"].ratios == pytest.approx((1.0,))
    assert figures[f"{title}: p50"].is_met
    assert figures[f"{title}: p99"].ratios == pytest.approx((2.0,))
    assert figures[f"{title}: p99"].is_met is False
    assert figures[f"{title}: page data over the link's capacity"].values == (0.95,)
    idle = figures["ordered, 4KiB pages, 1 vCPU, loopback, idle stream: p50"]
    assert idle.limit is not None
    assert idle.limit.values == pytest.approx((200.0,))


def test_loopback_stands_beside_the_plain_pair(plan: Plan, at_once: None) -> None:
    """There a page's time is what the plain pair took in the same round, and none is judged."""
    figures = measure_latency(replace(plan, quick=False))

    on_loopback = [f for f in figures if f.name == "ordered, 1 vCPU without pause, loopback: p50"]
    assert on_loopback[0].ratios == pytest.approx((16_777.216e-6 * 2e9 / (2 << 20),))
    assert on_loopback[0].target is None


def test_a_fast_link_is_no_faster_than_this_machine(plan: Plan, at_once: None) -> None:
    """What the plain pair makes of it stands beside the waits there."""
    figures = {figure.name: figure for figure in measure_latency(replace(plan, quick=False))}

    share = figures["plain pair, 10Gbit/s: page data over the link's capacity"]
    assert share.values == (1.6,)
    waits = figures["critical-first, 16 vCPUs every 20 ms, 10Gbit/s: p50"]
    assert waits.ratios == pytest.approx((10.0,))
    assert waits.target is None


def test_a_link_of_ones_own_is_the_only_one(plan: Plan, at_once: None) -> None:
    """With `--link` nothing is measured anywhere else."""
    figures = measure_latency(replace(plan, quick=False, link=Link(LinkSpec(1_250_000_000), PROXY)))

    assert all("1250000000B/s" in figure.name for figure in figures)


def test_a_case_says_what_it_is() -> None:
    """Policy, vCPUs, their pause and the link stand in its name."""
    assert Case("drop", 1, 50, "0").title == "drop, 1 vCPU every 20 ms, loopback"
    assert Case("drop", 4, 0, "1Gbit/s").title == "drop, 4 vCPUs without pause, 1Gbit/s"


def test_policies_of_the_users_own_are_measured_alone(plan: Plan) -> None:
    """Each with one vCPU and with four, and nothing else."""
    chosen = cases(replace(plan, quick=False, policies=("mine.py:x", "read-ahead")))
    assert [(case.policy, case.vcpus) for case in chosen] == [
        ("mine.py:x", 1), ("mine.py:x", 4), ("read-ahead", 1), ("read-ahead", 4)
    ]  # fmt: skip
