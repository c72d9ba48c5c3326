"""Waits over links as they are, as one table."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from protocol.errors import MigrationError
from scripts.bench import links
from scripts.bench.figure import LeftOut, Plan, lines
from scripts.bench.links import (
    COLUMNS,
    TARGETS,
    YARDSTICK,
    Case,
    cases,
    measure_links,
)
from scripts.links.link import LOOPBACK, PROXY, Link
from scripts.links.spec import LinkSpec, parse_link
from tests.scripts.bench.test_figure import report

BEST = {"ordered", "critical-first"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Every measurement is over at once; what was asked for."""
    seen: list[dict[str, str]] = []

    def migrate(options: Mapping[str, str]) -> dict[str, Any]:
        seen.append(dict(options))
        faults = {"p50-us": 1_677.7216, "p99-us": 3_355.4432}
        return {"ram": {"mbps": 900.0}, "midstream": {"faults": faults}}

    monkeypatch.setattr(links, "migrate", migrate)
    monkeypatch.setattr(links, "ask", lambda _: [1e-4, 2e-4, 9e-4])
    monkeypatch.setattr(links, "namespaces_link", lambda _: nullcontext(LOOPBACK))
    return seen


def test_all_that_is_wanted_is_measured_once() -> None:
    """Each target has its line, and so has each queue, round trip and number of vCPUs."""
    chosen = cases()
    assert len(set(chosen)) == len(chosen)
    assert TARGETS.keys() <= set(chosen)
    for queue in ("", "fifo"):
        of_queue = [case for case in chosen if case.queue == queue]
        fast = {(case.policy, case.vcpus) for case in of_queue if case.rate == "10Gbit/s"}
        assert fast == {(policy, vcpus) for policy in BEST for vcpus in (1, 4, 16)}
        far = {(case.policy, case.rtt) for case in of_queue if case.access_rate}
        assert far == {(policy, rtt) for policy in BEST for rtt in ("", "1ms", "10ms", "50ms")}
    for case in chosen:
        assert parse_link(case.link).bytes_per_second


def test_a_fifo_has_the_lines_of_the_default_queue() -> None:
    """So that both can be read beside each other."""
    chosen = cases()
    for case in chosen:
        if not case.queue:
            assert replace(case, queue="fifo") in chosen


def test_the_table_has_a_line_a_case(plan: Plan, asked: list[dict[str, str]]) -> None:
    """Median, percentile and share stand in columns, each with what was wanted of it."""
    figures = measure_links(replace(plan, runs=2))
    assert figures[0].name == YARDSTICK
    assert len(figures) == 1 + len(COLUMNS) * len(cases())
    assert len(asked) == 2 * len(cases())
    shown = lines(report(*figures))
    assert len([line for line in shown if all(column in line for column in COLUMNS)]) == 1
    (busiest,) = lines_of("critical-first, 2MiB, 16 vCPUs without pause, 1Gbit/s ", shown)
    assert "1.68 ms 0.1x (<= 0.1x: reached)" in busiest
    (small,) = lines_of("ordered, 4KiB, 1 vCPU without pause, 1Gbit/s ", shown)
    assert "1.68 ms 0.1x (<= 0.3 ms: missed)" in small
    assert small.endswith("  0.9")


def lines_of(begin: str, shown: list[str]) -> list[str]:
    """Return the lines of a table that begin so."""
    return [line for line in shown if line.strip().startswith(begin)]


def test_over_a_distance_the_round_trip_counts() -> None:
    """What is asked for is a page, or where the policy is critical a target page of it."""
    near = Case("critical-first", 1).limit()
    assert near.values == pytest.approx((16.777216,))
    ordered = Case("ordered", 1, rtt="10ms", access_rate=50).limit()
    assert ordered.values == pytest.approx((10 + 2 + 16.777216,))
    critical = Case("critical-first", 1, rtt="10ms", access_rate=50).limit()
    assert critical.values == pytest.approx((10 + 2 + 0.032768,))


def test_a_link_that_this_machine_cannot_have_is_left_out(
    plan: Plan, asked: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why is said, and all else is measured."""
    said: list[str] = []

    def refuse(_: LinkSpec) -> Link:
        raise MigrationError("no relay")

    monkeypatch.setattr(links, "namespaces_link", refuse)
    names = [figure.name for figure in measure_links(replace(plan, say=said.append))]
    left_out = [line for line in said if "left out" in line]
    assert len(left_out) == len(set(left_out)) == 6
    assert all("rtt=" in line and line.endswith("no relay") for line in left_out)
    assert not any("rtt=" in name for name in names)
    assert any("queue=fifo" in name for name in names)


def test_with_a_link_of_ones_own_there_is_no_table(plan: Plan) -> None:
    """What was to be measured has links of its own."""
    with pytest.raises(LeftOut):
        measure_links(replace(plan, link=Link(LinkSpec(1_250_000_000), PROXY)))
