"""How long it takes to begin."""

import os
from typing import Any

import pytest

from scripts.bench import startup
from scripts.bench.figure import Plan


def test_the_first_page_ends_the_start(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted is from the command to the first page that goes out, not to the end of the run."""
    clock = iter([1_000_000_000])
    monkeypatch.setattr("time.monotonic_ns", lambda: next(clock))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    told: list[dict[str, Any]] = [
        {"event": "state", "t-ns": 1_200_000_000},
        {"event": "page-start", "t-ns": 1_750_000_000},
        {"event": "page-start", "t-ns": 1_800_000_000},
    ]
    done: list[str] = []

    def run(_: object) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        assert "PYTHONDONTWRITEBYTECODE" not in os.environ
        done.append("run")
        return {}, told

    monkeypatch.setattr(startup, "migrate_with_events", run)
    monkeypatch.setattr(startup, "warm_memory", lambda _: done.append("warm"))

    help_text, first = startup.measure_startup(plan)

    assert done == ["run", "warm", "run"]
    assert help_text.values[0] > 0
    assert first.values == (0.75,)
    assert first.is_met
    assert os.environ["PYTHONDONTWRITEBYTECODE"] == "1"
