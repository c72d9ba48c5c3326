"""A pass over clean memory."""

import pytest

from scripts.bench.clean_pass import measure_clean_pass
from scripts.bench.plan import LeftOut, Plan


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
