"""A QEMU beside two policies."""

from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import GuestFailed
from protocol.geometry import RamBlock
from scripts.bench import against
from scripts.bench.against import measure_against
from scripts.bench.figure import LeftOut, Plan
from scripts.links.link import PROXY, Link
from scripts.links.spec import LinkSpec
from scripts.qemu.against import Peer

ORDERED, CRITICAL = "ordered, 64MiB of", "critical-first, 64MiB of"
PLAIN, PREEMPT = "QEMU 1.2, 64MiB of", "QEMU 1.2, preempt, 64MiB of"


class Runs:
    """Runs that are over at once, and what they were asked for by."""

    def __init__(self) -> None:
        """Begin with none."""
        self.seen: list[tuple[str, dict[str, str], str]] = []

    def told(self, row: str, options: Mapping[str, str]) -> dict[str, Any]:
        """Keep a run; its waits are twice and four times the wire's time for 2 MiB."""
        trace = Path(options["program"].removeprefix("trace:")).read_text(encoding="utf-8")
        self.seen.append((row, dict(options), trace))
        faults = {"p50-us": 33_554.432, "p99-us": 67_108.864}
        return {"total-time": 1100, "setup-time": 26, "midstream": {"faults": faults}}


@pytest.fixture
def runs(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """No run starts a process."""
    runs = Runs()

    def qemu(peer: Peer, row: str, options: Mapping[str, str], _: Path, link: Link) -> object:
        assert peer.title == "QEMU 1.2"
        return runs.told(f"{row} at {link.bytes_per_second}", options)

    def policy(options: Mapping[str, str], _: Path) -> object:
        return runs.told(f"{options['policy']} at {options['link']}", options)

    monkeypatch.setattr(against, "run_qemu", qemu)
    monkeypatch.setattr(against, "run_migration", policy)
    monkeypatch.setattr(against, "make_block", lambda *_: BytesIO())
    return runs


@pytest.fixture
def qemu_plan(plan: Plan) -> Plan:
    """Two rounds, on a link that is there."""
    link = Link(LinkSpec(125_000_000), PROXY)
    return replace(plan, runs=2, against=Peer("qemu", "QEMU 1.2"), link=link)


def test_every_round_has_all_rows_with_the_same_accesses(qemu_plan: Plan, runs: Runs) -> None:
    """Policies and modes take turns; the trace is another in each round, and all rows have it."""
    measure_against(qemu_plan)

    policies = [f"{name} at 125000000B/s" for name in ("ordered", "critical-first")]
    modes = [f"{name} at 125000000" for name in ("qemu", "qemu-preempt")]
    assert [row for row, _, _ in runs.seen] == [*policies, *modes] * 2
    first, second = runs.seen[:4], runs.seen[4:]
    assert len({trace for _, _, trace in first}) == len({trace for _, _, trace in second}) == 1
    assert first[0][2] != second[0][2]
    assert first[0][2].count("\n0 ram ") == 32
    assert {options["vcpus"] for _, options, _ in runs.seen} == {"1"}
    assert {options["page-size"] for _, options, _ in runs.seen} == {"2MiB"}


def test_waits_stand_beside_the_wire(qemu_plan: Plan, runs: Runs) -> None:
    """Each row has its two percentiles beside the wire's time, and its time beside the memory's."""
    figures = {figure.name: figure for figure in measure_against(qemu_plan)}

    for row in (ORDERED, CRITICAL, PLAIN, PREEMPT):
        title = f"{row} 2MiB pages, 1 vCPU without pause, 125000000B/s"
        assert figures[f"{title}: p50"].ratios == pytest.approx((2.0, 2.0))
        assert figures[f"{title}: p99"].ratios == pytest.approx((4.0, 4.0))
        assert figures[f"{title}: in all"].values == (1.074, 1.074)
        assert figures[f"{title}: in all"].ratios == pytest.approx((2.0, 2.0), rel=1e-3)
    assert len(figures) == 12


def test_without_huge_pages_they_are_small(
    qemu_plan: Plan, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU has no other huge pages than those that are set aside; that is said."""

    def refuse(block: RamBlock, _: str) -> object:
        raise GuestFailed(f"{block.name} cannot be had")

    monkeypatch.setattr(against, "make_block", refuse)
    said: list[str] = []
    figures = measure_against(replace(qemu_plan, runs=1, say=said.append))

    assert all(" 64MiB of 4KiB pages, " in figure.name for figure in figures)
    assert said[0] == "qemu: 4KiB pages, as huge pages for 64MiB are not set aside"


def test_a_whole_plan_has_more_vcpus(qemu_plan: Plan, runs: Runs) -> None:
    """Beside one vCPU there are four, in a larger guest."""
    measure_against(replace(qemu_plan, runs=1, quick=False))

    assert [options["vcpus"] for _, options, _ in runs.seen] == ["1"] * 4 + ["4"] * 4
    assert {options["size"] for _, options, _ in runs.seen} == {"128MiB"}


def test_without_a_qemu_there_is_nothing(plan: Plan) -> None:
    """Nobody named one."""
    with pytest.raises(LeftOut, match="--against"):
        measure_against(plan)
