"""Figures of throughput: what is measured, and what is made of it."""

import pytest

from protocol.errors import MigrationError
from scripts.figures.throughput import Pair, Throughput, run_throughput


def test_a_run_measures_both_in_turn() -> None:
    """Each counted run gives a figure of the socket pair and one of the precopy stream."""
    told: list[int] = []

    throughput = run_throughput(8 << 20, "2MiB", "1MiB", 1, told.append)

    assert told == [0, 1]
    assert len(throughput.pairs) == 1
    assert throughput.pairs[0].raw > 0
    assert throughput.pairs[0].precopy > 0


def test_a_failing_run_is_told() -> None:
    """A migration that the benchmark cannot run ends it with the migration's own reason."""
    with pytest.raises(MigrationError, match="chunk-size"):
        run_throughput(8 << 20, "2MiB", "5000", 1, lambda _: None)


def test_figures_keep_every_run_and_their_spread() -> None:
    """Ratios are of neighbours in time, and median, lowest and highest are of all runs."""
    pairs = (Pair(raw=2.0, precopy=1.0), Pair(raw=4.0, precopy=3.0), Pair(raw=1.0, precopy=0.9))
    plain = Throughput(8 << 20, "2MiB", "1MiB", pairs).to_plain()

    assert plain["ratio"] == {"median": 0.75, "lowest": 0.5, "highest": 0.9}
    assert plain["raw-bytes-per-second"]["median"] == 2.0
    assert plain["runs"][1] == {"raw": 4.0, "precopy": 3.0}


def test_lines_name_what_was_measured() -> None:
    """A person reads the size, the number of runs, both rates and their ratio."""
    pairs = (Pair(raw=2e9, precopy=1e9),)

    lines = Throughput(1 << 30, "2MiB", "1MiB", pairs).lines()

    assert lines[0].startswith("loopback, 1024 MiB, 2MiB pages, 1 run")
    assert [line.split()[0] for line in lines[1:]] == ["plain", "precopy", "ratio"]
    assert "0.50" in lines[3]
