"""`midstream bench`: its options, its output."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts.figures.bench import bench
from scripts.figures.throughput import Pair, Throughput


def test_it_prints_both_rates_and_their_ratio() -> None:
    """One run of a small guest gives the three lines and nothing else on standard output."""
    result = CliRunner().invoke(bench, ["--size=8MiB", "--runs=1"], catch_exceptions=False)

    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert [line.split()[0] for line in lines] == ["loopback,", "plain", "precopy", "ratio"]
    assert result.stderr.splitlines() == ["warm-up", "run 1 of 1"]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures at once, without a measurement."""
    throughput = Throughput(8 << 20, "2MiB", "1MiB", (Pair(2e9, 1e9),))
    monkeypatch.setattr("scripts.figures.bench.run_throughput", lambda *_: throughput)


def test_the_report_is_json_alone(figures: None) -> None:
    """With `--report -` standard output is one JSON object with every run in it."""
    result = CliRunner().invoke(bench, ["--size=8MiB", "--runs=1", "--report=-"])

    report = json.loads(result.stdout)
    assert report["schema"] == "midstream-bench/1"
    assert len(report["runs"]) == 1


@pytest.mark.parametrize("size", ["many", "3MiB", "5000000", "0"])
def test_a_wrong_size_is_refused(size: str) -> None:
    """A size that is none, or that pages of 2 MiB do not divide, is a wrong command line."""
    result = CliRunner().invoke(bench, [f"--size={size}", "--runs=1"])

    assert result.exit_code == 2
    assert "--size" in result.stderr


def test_an_unwritable_report_is_refused_first(tmp_path: Path) -> None:
    """A report that cannot be written is a wrong command line, found before any measurement."""
    target = tmp_path / "missing" / "report.json"

    result = CliRunner().invoke(bench, ["--size=8MiB", "--runs=1", f"--report={target}"])

    assert result.exit_code == 2
    assert "--report" in result.stderr
    assert "warm-up" not in result.stderr
