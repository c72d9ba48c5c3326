"""`midstream compare`: several policies on one trace."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts.figures.compare import compare
from tests.reports import read_report

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
    told = read_report(report)
    assert told["schema"] == "midstream-compare/1"
    for outcome in told["policies"].values():
        own = outcome["report"]["midstream"]
        assert own["faults"]["count"] == len(outcome["fault-latencies-us"])
        assert own["bytes-sent-twice"] == 0
        assert own["verified"]["digest-equal"]
    assert "critical-first: median" in picture.read_text()


@pytest.mark.usefixtures("native")
def test_policies_are_compared_with_another_guest(tmp_path: Path) -> None:
    """Machine code makes the accesses of the trace as the interpreter does."""
    report = tmp_path / "compare.json"
    options = ["--size=16MiB", "--vcpus=2", "--policies=ordered", "--guest=native"]
    result = CliRunner().invoke(compare, [*options, f"--report={report}"], catch_exceptions=False)
    assert result.exit_code == 0
    own = json.loads(report.read_text())["policies"]["ordered"]["report"]["midstream"]
    assert (own["guest"], own["verified"]["digest-equal"]) == ("native", True)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--policies=ordered,best", "'best'"),
        ("--policies=ordered,orderd", "'orderd' (did you mean 'ordered'?)"),
        ("--policies=,", "names no policy"),
        ("--size=5", "pages of 2097152 bytes"),
        ("--page-size=5", ""),
        ("--link=fast", "is not a rate"),
        ("--link=1kbit/s", "64kbit/s"),
        ("--link=1Gbit/s,queue=lifo", "pfifo_fast"),
        ("--guest=vmware", "'vmware' is not one of"),
        ("--vcpus=0", ""),
        ("--against=qemu=/nowhere/qemu", "/nowhere/qemu"),
        ("--accesses=/nowhere/trace", "No such file"),
        ("--accesses=/dev/zero", "not a regular file"),
        ("--report=/nowhere/report", "folder does not exist"),
        ("--picture=/nowhere/picture.svg", "folder does not exist"),
    ],
)
def test_a_wrong_option_is_refused(option: str, words: str) -> None:
    """What no run could have is a wrong command line, by its name, found before the first run."""
    result = CliRunner().invoke(compare, [option])

    assert result.exit_code == 2
    assert "..." not in result.stderr
    assert option.partition("=")[0] in result.stderr
    assert words in " ".join(result.stderr.split())


def test_a_wrong_trace_is_refused_by_its_line(tmp_path: Path) -> None:
    """It is read before the first run, for the guest and the vCPUs of all of them."""
    trace = tmp_path / "trace"
    for text, words in (
        ("0 ram 0 r\n9 ram 0 r\n", "trace:2: '9' is not a vCPU from 0 to 4"),
        ("0 ram 999 r\n", "trace:1: page 999 is outside"),
    ):
        trace.write_text(text, encoding="utf-8")
        result = CliRunner().invoke(compare, [f"--accesses={trace}"])
        assert result.exit_code == 2
        assert "--accesses" in result.stderr
        assert words.replace(" ", "") in "".join(result.stderr.split()).replace("│", "")
