"""Figures: their ratios, their spread, and whether they come to what was wanted."""

import pytest

from scripts.bench.figure import Figure, Limit, Target


def test_ratios_are_of_neighbours() -> None:
    """Each run is held against the limit of its own round, or against the only one there is."""
    runs = Figure("s", "a", "GB/s", (1.0, 3.0, 0.9), Limit("b", (2.0, 4.0, 1.0)))
    alone = Figure("s", "a", "ms", (10.0, 30.0), Limit("wire", (20.0,)))

    assert runs.ratios == (0.5, 0.75, 0.9)
    assert alone.ratios == (0.5, 1.5)
    assert runs.to_plain()["ratio"] == {"median": 0.75, "lowest": 0.5, "highest": 0.9}


@pytest.mark.parametrize(
    ("target", "is_met"),
    [
        (Target(0.75, at_least=True), True),
        (Target(0.76, at_least=True), False),
        (Target(0.75), True),
        (Target(0.74), False),
        (Target(1.5, at_least=True, of_ratio=False), True),
        (Target(1.4, of_ratio=False), False),
    ],
)
def test_the_median_is_judged(target: Target, is_met: bool) -> None:
    """A bound itself is reached, and one bad run of three changes nothing."""
    figure = Figure("s", "a", "ms", (1.0, 1.5, 90.0), Limit("b", (2.0, 2.0, 2.0)), target)

    assert figure.is_met is is_met
    assert figure.to_plain()["met"] is is_met


def test_json_holds_every_run() -> None:
    """What was measured can be worked with later: all values, and nothing of a missing target."""
    plain = Figure("s", "a", "ms", (1.0, 5.0, 2.0), note="so it is").to_plain()

    assert plain["values"] == [1.0, 5.0, 2.0]
    assert (plain["lowest"], plain["median"], plain["highest"]) == (1.0, 2.0, 5.0)
    assert plain["note"] == "so it is"
    assert not {"limit", "ratio", "target", "met"} & plain.keys()
