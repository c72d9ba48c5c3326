"""`python -m scripts.figures.prefetching`: every prefetcher on every kind of trace."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts.figures.prefetching import KINDS, main, spread, table, touches

FIGURES = {"network-faults": 40, "p50-ms": 1.5, "p99-ms": 22.4, "blocked-ms": 90}


@pytest.mark.parametrize("page_size", ["4KiB", "2MiB"])
def test_traces_are_of_the_guest_and_do_not_go_back(page_size: str) -> None:
    """Each kind that is made up, and the same again from the same seed."""
    for kind in set(KINDS) - {"recorded"}:
        trace = touches(kind, page_size, 64, seed=3)
        assert trace == touches(kind, page_size, 64, seed=3)
        assert all(0 <= page < 64 for _, _, page in trace), kind
        assert [at for at, _, _ in trace] == sorted(at for at, _, _ in trace)


def test_figures_are_medians_with_their_range() -> None:
    """One that nobody knows is left open."""
    runs = [{**FIGURES, "network-faults": count} for count in (30, 50, 40)]
    assert spread(runs, "network-faults") == "40 (30 to 50)"
    assert spread(runs, "p50-ms") == "1.5"
    assert spread(runs, "useless-bytes") == ""


def test_what_is_avoided_is_held_against_the_first_policy() -> None:
    """By the medians of both."""
    measured = {
        ("4KiB", "zipf", "none"): [FIGURES],
        ("4KiB", "zipf", "ahead"): [{**FIGURES, "network-faults": 10, "useless-bytes": 3 << 20}],
    }
    assert table(measured, "4KiB")[2:] == [
        "| zipf | `none` | 40 |  | 1.5 | 22 | 90 |  |",
        "|  | `ahead` | 10 | 75 % | 1.5 | 22 | 90 | 3 |",
    ]


def test_prefetchers_are_measured_in_virtual_time(tmp_path: Path) -> None:
    """Read-ahead at least halves sequential faults, a recording avoids nine in ten."""
    target = tmp_path / "figures.json"
    done = CliRunner().invoke(
        main,
        ["--virtual", "--size=16MiB", "--link=100Mbit/s", "--page-sizes=4KiB", "--kinds=sequential",
         "--policies=no-prefetch,read-ahead,recorded", f"--json={target}"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(target.read_text(encoding="utf-8"))
    none, ahead, recorded = (runs[0]["network-faults"] for runs in told.values())
    assert 2 * ahead <= none
    assert recorded <= none / 10
    assert "| sequential | `no-prefetch` |" in done.stdout
