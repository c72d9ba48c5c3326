"""A model's costs are found by simulating what was measured."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from scripts.simulate.fitting import fit_costs, fit_crowding
from scripts.simulate.model import DEST_COSTS, SOURCE_COSTS, Model
from scripts.simulate.run import simulate as simulate_run
from tests.points import point, simulated


def ran(model: Model, vcpus: str = "1") -> dict[str, Any]:
    """Return the own part of the report of a run whose faults are served by 4 KiB."""
    run = replace(point(vcpus=vcpus, policy="critical-first"), model=model)
    part: dict[str, Any] = simulate_run(run)["midstream"]
    # That it is modelled, and by what.
    del part["simulated"]
    return part


@pytest.mark.parametrize("scales", [(0.3, 0.4, 0.2), (1, 1, 1), (2, 0.5, 1), (0.4, 1, 0.05)])
def test_costs_are_found_by_simulating(scales: tuple[float, float, float]) -> None:
    """A run of a machine whose costs are known has them found, each side's by itself."""
    base = Model()
    changes: dict[str, Any] = {
        name: round(getattr(base, name) * scale)
        for names, scale in zip((SOURCE_COSTS, DEST_COSTS, ("packet_bytes",)), scales, strict=True)
        for name in names
    }
    real = replace(base, **changes)

    model = fit_costs(base, ran(real), ran)
    for name in (*SOURCE_COSTS, *DEST_COSTS, "packet_bytes"):
        assert getattr(model, name) == pytest.approx(getattr(real, name), rel=0.15), name
    assert replace(model, **changes) == real


def test_a_machine_like_none_ends_the_fit() -> None:
    """Costs go no further than their bounds, and it ends."""
    part = simulated(vcpus="1", policy="critical-first")["midstream"]
    rounds = []

    def simulate(model: Model) -> dict[str, Any]:
        rounds.append(model)
        found: dict[str, Any] = part
        return found

    real = deepcopy(part)
    for name in ("send", "request", "receive"):
        real["stages"][name]["p50-us"] = 1e9
    fit_costs(Model(), real, simulate)
    assert 1 < len(rounds) < 20


@pytest.mark.parametrize("crowding", [4.0, 15.0, 40.0])
def test_how_late_several_vcpus_make_each_other_is_found(crowding: float) -> None:
    """It changes nothing for one vCPU; where a side is the limit it would not be seen."""
    cheap: dict[str, Any] = dict.fromkeys((*SOURCE_COSTS, *DEST_COSTS), 10_000)
    base = replace(Model(), **cheap)
    real = replace(base, crowding=crowding)
    assert ran(real) == ran(base)
    model = fit_crowding(base, ran(real, "4"), lambda tried: ran(tried, "4"))
    assert model.crowding == pytest.approx(crowding, rel=0.1)
    assert replace(model, crowding=0.0) == base
