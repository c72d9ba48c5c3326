"""The scheduler alone."""

import pytest

from scripts.bench import scheduling
from scripts.bench.plan import Plan


def test_a_small_guest_gives_all_figures(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates are of decisions that were made; a page takes a byte or little more."""
    monkeypatch.setattr(scheduling, "_QUICK_DECISIONS", 200)
    figures = scheduling.measure_scheduler(plan, guest_bytes=256 << 20)

    *rates, memory = figures
    assert len(rates) == 3
    assert all(rate.values[0] > 0 for rate in rates)
    assert 0 < memory.values[0] < 8
    assert memory.is_met
