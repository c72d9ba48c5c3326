"""The relay between two QEMUs, beside the same two without it."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import pytest

from protocol.geometry import Geometry
from scripts.bench import against, relayed
from scripts.bench.figure import LeftOut, Plan
from scripts.bench.relayed import measure_relay
from scripts.links.link import PROXY, Link
from scripts.links.spec import LinkSpec
from scripts.qemu.against import Peer
from scripts.relay.timed import Timed

TITLE = "between two of QEMU 1.2, preempt, 64MiB of 2MiB pages, 1 thread without pause"


@pytest.fixture
def qemu_plan(plan: Plan) -> Plan:
    """Two rounds, on a link that is there."""
    link = Link(LinkSpec(125_000_000), PROXY)
    return replace(plan, runs=2, against=Peer("qemu", "QEMU 1.2"), link=link)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """No run starts a process: each tells its seed, and whether a relay is wanted."""
    seen: list[tuple[int, bool]] = []

    async def timed(
        program: str, geometry: Geometry, link: Link, seed: int, *, relayed: bool
    ) -> Timed:
        assert (program, geometry.length_bytes, link.kind) == ("qemu", 64 << 20, PROXY)
        seen.append((seed, relayed))
        if relayed:
            return Timed(1.5, (30_000_000, 30_000_000, 90_000_000), 0.25 * seed)
        return Timed(1.0, (20_000_000, 20_000_000, 60_000_000))

    monkeypatch.setattr(relayed, "run_timed", timed)
    monkeypatch.setattr(against, "make_block", lambda *_: BytesIO())
    return seen


def test_both_take_turns(qemu_plan: Plan, runs: list[tuple[int, bool]]) -> None:
    """Each round has one without the relay and one with it, with the same memory and touches."""
    measure_relay(qemu_plan)
    assert runs == [(1, False), (1, True), (2, False), (2, True)]


@pytest.mark.usefixtures("runs")
def test_the_relay_stands_beside_its_absence(qemu_plan: Plan) -> None:
    """Median and 99th percentile of the faults, the time in all, and the relay's processor time."""
    figures = {figure.name.rpartition(": ")[2]: figure for figure in measure_relay(qemu_plan)}
    assert {figure.name.partition(", 125")[0] for figure in figures.values()} == {TITLE}
    assert list(figures) == ["p50", "p99", "in all", "the relay's processor time"]
    assert figures["p50"].values == pytest.approx((30, 30), rel=2e-3)
    assert figures["p50"].ratios == pytest.approx((1.5, 1.5), rel=2e-3)
    assert figures["p99"].values == pytest.approx((90, 90), rel=2e-3)
    assert figures["p99"].note == "faults in all runs: 6, without the relay 6"
    assert figures["in all"].ratios == (1.5, 1.5)
    assert figures["the relay's processor time"].values == (0.25, 0.5)


def test_without_a_qemu_nothing_is_measured(plan: Plan) -> None:
    """The section is left out, and says why."""
    with pytest.raises(LeftOut, match="--against"):
        measure_relay(plan)
