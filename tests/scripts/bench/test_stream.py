"""Streams beside the plain pair."""

from dataclasses import replace
from typing import Any

import pytest

from scripts.bench import stream
from scripts.bench.figure import Plan
from scripts.figures.raw_pair import RawRun


def test_a_real_round_measures_all(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain pair, a precopy for each page size and a postcopy give a figure each."""
    monkeypatch.setattr(stream, "has_iperf", lambda _: False)
    figures = dict(stream._round(replace(plan, page_sizes=("4KiB",))))

    assert list(figures) == [stream.YARDSTICK, "precopy, 4KiB pages", "postcopy"]
    assert min(figures.values()) > 0


def test_the_warm_up_does_not_count(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each counted run stands beside its neighbour, and the first round is thrown away."""
    rates = iter([9e9, 1e9, 2e9])
    monkeypatch.setattr(stream, "has_iperf", lambda _: False)
    monkeypatch.setattr(stream, "measure", lambda *_: RawRun(next(rates), 0.1))
    told: dict[str, Any] = {"ram": {"mbps": 4000.0}, "total-time": 112, "setup-time": 100}
    monkeypatch.setattr(stream, "migrate", lambda _: told)
    said: list[str] = []

    figures = stream.measure_stream(replace(plan, runs=2, length_bytes=10**7, say=said.append))

    assert said == ["stream: warm-up", "stream: run 1 of 2", "stream: run 2 of 2"]
    assert figures[0].values == (1.0, 2.0)
    assert figures[1].ratios == (0.5, 0.25)
    assert figures[-1].ratios == pytest.approx((1.2, 2.4))
    assert [figure.is_met for figure in figures] == [None, False, False, False]
