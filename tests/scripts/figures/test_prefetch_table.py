"""What prefetching was worth, from the reports of several runs."""

from typing import Any

from rich.console import Console

from protocol.policy import PRESETS
from scripts.figures.prefetch_table import prefetch_figures, prefetch_table
from source.prefetchers.schemes import no_prefetch, read_ahead, stride


def report(requests: int, **prefetch: int | None) -> list[dict[str, Any]]:
    """Return what matters here of the report of a policy's only run."""
    own: dict[str, Any] = {
        "requests": {"received": requests},
        "faults": {"p50-us": 1500.0, "p99-us": 2500.0},
    }
    if prefetch:
        own["prefetch"] = {name.replace("_", "-"): count for name, count in prefetch.items()}
    return [{"postcopy-blocktime": 7, "midstream": own}]


PICKED = {"late": 3, "useful": 40, "useless": 5, "useless_bytes": 5 << 20}


def test_a_prefetcher_is_held_against_its_own_switches() -> None:
    """What it avoids is the difference to the run that is like it in all else."""
    policies = {"ordered": PRESETS["ordered"], "none": no_prefetch, "ahead": read_ahead}
    reports = {"ordered": report(90), "none": report(100), "ahead": report(30, **PICKED)}
    figures = prefetch_figures(policies, reports)
    assert list(figures) == ["ordered", "none", "ahead"]
    assert (figures["ahead"].against, figures["ahead"].avoided) == ("none", 70)
    assert (figures["none"].against, figures["none"].avoided) == (None, None)
    assert figures["ahead"].to_plain() == {
        "network-faults": 30, "against": "none", "p50-ms": 1.5, "p99-ms": 2.5,
        "blocked-ms": 7, "late": 3, "useful": 40, "useless": 5, "useless-bytes": 5 << 20,
    }  # fmt: skip


def test_without_its_own_switches_the_first_without_a_prefetcher_counts() -> None:
    """And where there is none, nothing is said of what it avoids."""
    policies = {"ahead": read_ahead, "split": PRESETS["split"], "drop": PRESETS["drop"]}
    reports = {"ahead": report(30, **PICKED), "split": report(20), "drop": report(90)}
    assert prefetch_figures(policies, reports)["ahead"].avoided == -10
    alone = {"ahead": read_ahead, "stride": stride}
    reports = {"ahead": report(30, **PICKED), "stride": report(31, **PICKED)}
    assert prefetch_figures(alone, reports)["stride"].avoided is None


def test_without_a_prefetcher_there_is_no_table() -> None:
    """A comparison of presets is what it was."""
    assert prefetch_figures(PRESETS, {name: report(9) for name in PRESETS}) == {}


def test_the_table_says_what_is_not_known() -> None:
    """A guest whose touches are scripted leaves open what was useful."""
    unknown = {"late": 3, "useful": None, "useless": None, "useless_bytes": None}
    policies = {"none": no_prefetch, "ahead": read_ahead}
    reports = {"none": report(100), "ahead": report(30, **unknown)}
    console = Console(width=80)
    with console.capture() as capture:
        console.print(prefetch_table(prefetch_figures(policies, reports)))
    lines = [line.split() for line in capture.get().splitlines()]
    assert lines[0][0] == "policy"
    assert lines[2] == ["none", "100", "-", "1.50", "2.50", "7", "-", "-", "-", "-"]
    assert lines[3] == ["ahead", "30", "70", "1.50", "2.50", "7", "3", "-", "-", "-"]


def test_all_runs_count() -> None:
    """Each figure is the median of all runs, what is avoided of these; without a run there is none.

    Of what one run does not know the others say nothing.
    """
    policies = {"none": no_prefetch, "ahead": read_ahead, "stride": stride}
    ahead = [*report(10, **PICKED), *report(50, **PICKED | {"late": 9}), *report(30, **PICKED)]
    reports = {"none": [*report(900), *report(100), *report(110)], "ahead": ahead, "stride": []}
    figures = prefetch_figures(policies, reports)
    assert list(figures) == ["none", "ahead"]
    assert (figures["ahead"].network_faults, figures["ahead"].avoided) == (30, 80)
    assert (figures["ahead"].late, figures["ahead"].useful) == (3, 40)
    reports["ahead"] = [*ahead, *report(30, **PICKED | {"useful": None})]
    assert prefetch_figures(policies, reports)["ahead"].useful is None
    reports["none"] = []
    assert prefetch_figures(policies, reports)["ahead"].against is None
