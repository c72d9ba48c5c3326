"""Figures of several runs become one row, with their spread."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scripts.figures import fault_latency


def test_runs_become_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of run has a row: medians over the runs, and the least and most of them."""
    asked: list[dict[str, str]] = []

    def run(options: dict[str, str], _: Path) -> dict[str, Any]:
        asked.append(options)
        p50_us = 1000.0 * len(asked)
        faults = {"count": 10 * len(asked), "p50-us": p50_us, "p99-us": 2 * p50_us}
        return {"midstream": {"placement": "userfault", "backing": "thp", "faults": faults}}

    monkeypatch.setattr(fault_latency, "run_migration", run)
    arguments = ["--runs=3", "--page-sizes=2MiB", "--policies=ordered", "--link=1Gbit/s"]
    done = CliRunner().invoke(fault_latency.main, arguments)
    assert done.exit_code == 0
    assert done.output.splitlines()[2:] == [
        "| `ordered`, 2MiB | userfault | thp | 20 | 2 ms (1 to 3) | 4 ms (2 to 6) |"
    ]
    assert [options["seed"] for options in asked] == ["0", "1", "2"]
    assert {options["link"] for options in asked} == {"1Gbit/s"}


def test_a_run_without_a_wait_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody waited there is nothing to tell, and the reason is."""
    report = {"midstream": {"placement": "", "backing": "", "faults": {"count": 0}}}
    monkeypatch.setattr(fault_latency, "run_migration", lambda *_: report)
    done = CliRunner().invoke(fault_latency.main, ["--runs=1"])
    assert done.exit_code == 1
    assert "no vCPU waited" in done.output
