"""How long it takes to begin."""

from typing import Any

import pytest

from scripts.bench import startup
from scripts.bench.plan import Plan


def test_the_first_page_ends_the_start(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted is from the command to the first page that goes out, not to the end of the run."""
    clock = iter([1_000_000_000])
    monkeypatch.setattr("time.monotonic_ns", lambda: next(clock))
    told: list[dict[str, Any]] = [
        {"event": "state", "t-ns": 1_200_000_000},
        {"event": "page-start", "t-ns": 1_750_000_000},
        {"event": "page-start", "t-ns": 1_800_000_000},
    ]
    monkeypatch.setattr(startup, "migrate_with_events", lambda _: ({}, told))

    help_text, first = startup.measure_startup(plan)

    assert help_text.values[0] > 0
    assert first.values == (0.75,)
    assert first.is_met
