"""`midstream simulate` as it is typed: what it writes, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scripts.commands import midstream, run
from scripts.views.saved import read_all
from tests.reports import read_report
from tests.traces import check_rules

SMALL = ("--size=16MiB", "--link=1Gbit/s", "--postcopy-after=0", "--access-rate=0")


def invoke(*arguments: str) -> Result:
    """Run `midstream simulate`."""
    return CliRunner().invoke(midstream, ["simulate", *arguments])


def test_the_table_says_what_it_is() -> None:
    """A person is told that it was simulated, by what model, and that nothing was compared."""
    result = invoke(*SMALL)
    assert result.exit_code == 0, result.output
    assert "completed, simulated" in result.output
    assert "model           reference" in result.output
    assert "no byte compared" in result.output
    assert "placement modelled" in result.output


def test_outputs_are_those_of_a_real_run(tmp_path: Path) -> None:
    """Report, events in the order of their time, trace and page are there, as of `migrate`."""
    names = ("report", "events", "perfetto", "html")
    files = {name: tmp_path / name for name in names}
    result = invoke(*SMALL, "--quiet", *(f"--{name}={path}" for name, path in files.items()))
    assert result.exit_code == 0, result.output
    assert not result.output
    report = read_report(files["report"])
    assert report["midstream"]["schema"] == "midstream-report/1"
    told = list(read_all(files["events"]))
    for side in ("source", "dest"):
        times = [each["t-ns"] for each in told if each["side"] == side]
        assert times == sorted(times)
        assert times
    waits = [each for each in told if each["event"] == "vcpu-wake"]
    assert len(waits) == report["midstream"]["faults"]["count"] > 0
    check_rules(json.loads(files["perfetto"].read_text())["traceEvents"])
    assert "<html" in files["html"].read_text()[:2000]


def test_help_names_every_option() -> None:
    """The help shows what a guest and a link may be, in 80 columns."""
    result = CliRunner().invoke(midstream, ["simulate", "--help"], terminal_width=80)
    assert result.exit_code == 0
    for option in ("--size", "--policy", "--vcpus", "--link", "--model", "--set", "--against"):
        assert option in result.output
    assert "up to 512" in " ".join(result.output.split())
    assert max(map(len, result.output.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--vcpus=513"], "1 to 512 vCPUs"),
        (["--policy=orderd"], "orderd"),
        (["--link=1Gbit/s,rrt=1ms"], "says nothing of a link"),
        (["--model=nativ"], "nativ"),
        (["--set=fault-nss=1"], "did you mean"),
        (["--set=fault-ns"], "NAME=VALUE"),
        (["--set=fault-ns=many"], "no number"),
        (["--set=fault-ns=-1"], "cannot be"),
        (["--set=access-ns=0"], "cannot be"),
        (["--set=fill=2"], "0.5 to 1"),
        (["--set=congestion-control=vegas"], "vegas"),
        (["--backing=thp"], "--backing"),
        (["--against=/nonexistent"], "No such file"),
    ],
)
def test_wrong_options_are_refused_in_a_line(
    arguments: list[str], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What cannot be is named, in one line and with exit status 2."""
    assert run(["simulate", *arguments]) == 2
    told = capfd.readouterr().err
    assert reason in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is to be schema"),
        ('schema = "midstream-model/1"\n[model]\nspeed = 1\n', "speed"),
        ('schema = "midstream-model/1"\n[model]\naccess-ns = "x"\n', "no number"),
        ('schema = "midstream-model/1"\nquite = true\n', "quite"),
        ("schema = \n", "line 1"),
        ("\0", "model"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    text: str, reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The file is named, and what is wrong with it."""
    path = tmp_path / "model.toml"
    path.write_text(text)
    assert run(["simulate", f"--model={path}"]) == 2
    told = capfd.readouterr().err
    assert str(path) in told
    assert reason in told
    assert told.count("\n") == 1


def test_a_model_of_a_file_counts(tmp_path: Path) -> None:
    """Its values are taken, and it is named with its date."""
    path, report = tmp_path / "model.toml", tmp_path / "report"
    path.write_text(
        'schema = "midstream-model/1"\ndate = 2026-11-30\nquiet = false\n'
        "[model]\nfault-ns = 9000000\n"
    )
    assert invoke(*SMALL, "--quiet", f"--model={path}", f"--report={report}").exit_code == 0
    own: dict[str, Any] = read_report(report)["midstream"]
    assert own["simulated"]["model"] == f"{path} of 2026-11-30"
    assert own["simulated"]["values"]["fault-ns"] == 9_000_000
    assert own["stages"]["detect"]["p50-us"] > 9000
    assert own["faults"]["p99-us"] is None


def real(path: Path, **changes: object) -> Path:
    """Write what a real run's report would be: a simulated one's, without saying so."""
    assert invoke(*SMALL, "--quiet", f"--report={path}").exit_code == 0
    report = json.loads(path.read_text())
    del report["midstream"]["simulated"]
    report["midstream"]["faults"]["p50-us"] *= 1.25
    report.update(changes)
    path.write_text(json.dumps(report))
    return path


def test_predicted_stands_beside_measured(tmp_path: Path) -> None:
    """Each figure has its prediction, the median and the range of real runs, and how far off."""
    reports = [real(tmp_path / str(number)) for number in range(3)]
    result = invoke(*SMALL, *(f"--against={path}" for path in reports))
    assert result.exit_code == 0, result.output
    lines = {line.split("  ")[0]: line for line in result.output.splitlines()}
    assert lines["fault p50"].endswith("-20%")
    assert lines["faults"].endswith("+0%")
    assert "3 real runs" in result.output


def test_what_no_run_has_measured_is_said(tmp_path: Path) -> None:
    """Where nobody waited, or a machine was too noisy to tell, there is nothing to stand beside."""
    path = real(tmp_path / "one")
    report = json.loads(path.read_text())
    report["midstream"]["faults"]["p99-us"] = None
    path.write_text(json.dumps(report))
    result = invoke(*SMALL, f"--against={path}")
    assert result.exit_code == 0, result.output
    line = next(each for each in result.output.splitlines() if each.startswith("fault p99"))
    assert line.split()[-1] == "none"


def test_runs_of_something_else_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A prediction beside a run of another policy, guest or link would say nothing."""
    path = real(tmp_path / "one")
    for other, reason in (
        ("--policy=drop", "policy"),
        ("--size=32MiB", "memory"),
        ("--vcpus=3", "vCPUs"),
        ("--link=2Gbit/s", "link"),
        ("--link=1Gbit/s,rtt=1ms", "round trip"),
    ):
        assert run(["simulate", *SMALL, other, f"--against={path}"]) == 2
        assert reason in capfd.readouterr().err
    failed = real(tmp_path / "two", status="failed")
    assert run(["simulate", *SMALL, f"--against={failed}"]) == 2
    assert "not completed" in capfd.readouterr().err
