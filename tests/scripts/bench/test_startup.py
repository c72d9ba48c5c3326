"""How long it takes to begin."""

import os
from pathlib import Path
from typing import Any

import pytest

from scripts.bench import startup
from scripts.bench.plan import Plan


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


def test_warm_memory_was_all_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until what was freed before has gone to the host, none of it is free."""
    seen: list[int] = []

    def look(_: float) -> None:
        fields = Path("/proc/self/status").read_text(encoding="ascii").split()
        seen.append(int(fields[fields.index("RssShmem:") + 1]) << 10)

    monkeypatch.setattr("time.sleep", look)
    look(0)
    startup.warm_memory(32 << 20)
    look(0)
    assert seen[1] - seen[0] >= 32 << 20
    assert seen[2] == seen[0]
