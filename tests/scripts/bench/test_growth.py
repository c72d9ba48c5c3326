"""How cost grows."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.units import parse_bytes
from scripts.bench import growth
from scripts.bench.figure import Plan
from scripts.bench.growth import measure_growth, sizes_that_fit

SIZES = (256, 1024, 4096, 16384)


@pytest.mark.parametrize(
    ("available_gib", "sizes"),
    [(64, SIZES), (20, (256, 1024, 4096, 8192)), (5, (256, 1024, 2048)), (3, (256, 1024))],
)
def test_the_largest_guest_is_what_fits_twice(available_gib: int, sizes: tuple[int, ...]) -> None:
    """Two copies and some room are needed; what is too large is halved, and no size comes twice."""
    assert sizes_that_fit(SIZES, available_gib << 30) == sizes


def test_cost_stands_beside_that_of_a_gib(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 times the memory may cost 17 times as much; with too little memory that is told."""
    warm: list[int] = []

    def told(options: Mapping[str, str]) -> dict[str, Any]:
        if "access-rate" not in options:
            assert warm == [parse_bytes(options["size"])]
            warm.clear()
        assert options["guest"] == "native"
        gib = parse_bytes(options["size"]) / (1 << 30)
        if "image" in options:
            assert Path(options["image"]).stat().st_size == gib * (1 << 24)
        return {"midstream": {"cpu-seconds": {"source": gib * 1.1, "dest": gib}}}

    monkeypatch.setattr(growth, "_SIZES_MIB", (256, 1024, 4096))
    monkeypatch.setattr(growth, "memory_info", lambda: {"MemAvailable": 5 << 30})
    monkeypatch.setattr(growth, "migrate", told)
    monkeypatch.setattr(growth, "warm_memory", warm.append)

    figures = measure_growth(replace(plan, quick=False, guest="native"))

    largest = next(figure for figure in figures if "2048 MiB" in figure.name)
    assert largest.ratios == pytest.approx((1.0,))
    assert largest.is_met
    assert any("fits here twice" in figure.name for figure in figures)
    assert len(figures) == 3 + 1 + 3 + 4
