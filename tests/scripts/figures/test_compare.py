"""`midstream compare`: several policies on one trace."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts.figures.compare import compare

SMALL = ("--size=16MiB", "--vcpus=2", "--policies=ordered,critical-first")


def test_policies_are_compared_on_one_trace(tmp_path: Path) -> None:
    """Each policy gets a row, a report with all its latencies, and a line in the picture."""
    report, picture = tmp_path / "compare.json", tmp_path / "compare.svg"

    result = CliRunner().invoke(
        compare, [*SMALL, f"--report={report}", f"--picture={picture}"], catch_exceptions=False
    )

    assert result.exit_code == 0
    rows = [line.split()[0] for line in result.stdout.splitlines() if line.split()]
    assert {"ordered", "critical-first"} <= set(rows)
    told = json.loads(report.read_text())
    assert told["schema"] == "midstream-compare/1"
    for outcome in told["policies"].values():
        own = outcome["report"]["midstream"]
        assert own["faults"]["count"] == len(outcome["fault-latencies-us"])
        assert own["bytes-sent-twice"] == 0
        assert own["verified"]["digest-equal"]
    assert "critical-first: median" in picture.read_text()


@pytest.mark.parametrize(
    "option",
    [
        "--policies=ordered,best",
        "--size=5",
        "--link=fast",
        "--vcpus=0",
        "--against=qemu=/nowhere/qemu",
    ],
)
def test_a_wrong_option_is_refused(option: str) -> None:
    """What no run could have is a wrong command line, found before the first run."""
    result = CliRunner().invoke(compare, [option])

    assert result.exit_code == 2
    assert "..." not in result.stderr.splitlines()
