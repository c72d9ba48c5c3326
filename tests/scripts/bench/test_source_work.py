"""The scheduler's decisions and a pass over a clean guest, measured small."""

from __future__ import annotations

import pytest

from scripts.bench import source_work
from scripts.bench.figure import LeftOut, Plan
from scripts.bench.source_work import measure_clean_pass


def test_a_small_guest_gives_all_figures(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates are of decisions that were made; a page takes a byte or little more."""
    monkeypatch.setattr(source_work, "_QUICK_DECISIONS", 200)
    figures = source_work.measure_scheduler(plan, guest_bytes=256 << 20)

    *rates, memory = figures
    assert len(rates) == 3
    assert all(rate.values[0] > 0 for rate in rates)
    assert 0 < memory.values[0] < 8
    assert memory.is_met


def test_a_still_guest_costs_hardly_anything(plan: Plan) -> None:
    """Each page size has a figure, which names the pages that were really used."""
    try:
        figures = measure_clean_pass(plan, guest_bytes=16 << 20)
    except LeftOut as reason:
        pytest.skip(str(reason))

    assert len(figures) == 2
    assert "(base)" in figures[1].name
    assert all(figure.values[0] > 0 for figure in figures)


def test_a_kernel_without_a_log_is_left_out(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not tell of writes there is nothing to measure, and why is told."""
    monkeypatch.setattr(
        "guest.handle.GuestHandle.choose_dirty_log", lambda _: (None, "no PAGEMAP_SCAN")
    )
    with pytest.raises(LeftOut, match="no PAGEMAP_SCAN"):
        measure_clean_pass(plan, guest_bytes=16 << 20)
