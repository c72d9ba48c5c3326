"""`midstream bench`: its options, its output."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts.bench import command, noise, stream
from scripts.bench.command import bench
from scripts.bench.figure import Figure, LeftOut, Plan, Target
from scripts.qemu.against import Peer
from tests.reports import expect_valid, read_report


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Figures at once, without a measurement; the plans they were asked for by."""
    seen: list[Plan] = []

    def stream_at_once(plan: Plan) -> list[Figure]:
        seen.append(plan)
        return [Figure("stream", stream.YARDSTICK, "GB/s", (1.0, 3.0))]

    def qemu_at_once(plan: Plan) -> list[Figure]:
        assert plan.against is not None
        return [Figure("qemu", plan.against.title, "ms", (1.0,))]

    def no_start(plan: Plan) -> list[Figure]:
        raise LeftOut("no clock")

    sections = {"stream": stream_at_once, "qemu": qemu_at_once, "start": no_start}
    monkeypatch.setattr(command, "SECTIONS", sections)
    return seen


def test_the_report_is_json_alone(plans: list[Plan]) -> None:
    """With `--report -` standard output is one JSON object with every run in it."""
    result = CliRunner().invoke(bench, ["--report=-"])

    report = expect_valid(json.loads(result.stdout))
    assert report["schema"] == "midstream-bench/2"
    assert report["figures"][0]["values"] == [1.0, 3.0]
    assert f"{stream.YARDSTICK} varied by 100% of its median" in result.stdout
    assert "start is left out: no clock" in report["warnings"]


def test_a_person_gets_lines(plans: list[Plan], tmp_path: Path) -> None:
    """The table goes to standard output, and the JSON to its file."""
    target = tmp_path / "report.json"
    result = CliRunner().invoke(bench, ["--only=stream", f"--report={target}"])

    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:3] == ["", "stream"]
    assert read_report(target)["figures"][0]["median"] == 2.0


def test_what_takes_long_is_measured_only_where_it_is_named(
    plans: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All other sections are measured without their names."""
    monkeypatch.setitem(command.SECTIONS, "links", lambda _: [Figure("links", "far", "ms", (1.0,))])
    assert "links" not in CliRunner().invoke(bench, []).stdout
    assert "links" in CliRunner().invoke(bench, ["--only=links"]).stdout


@pytest.mark.parametrize(("load", "verdict"), [(0.0, "missed"), (99.0, "inconclusive")])
def test_a_busy_machine_misses_nothing(
    plans: list[Plan], monkeypatch: pytest.MonkeyPatch, load: float, verdict: str
) -> None:
    """What is not reached while others are busy is no verdict on midstream."""
    target = Target(2.0, at_least=True, of_ratio=False)
    figure = Figure("start", "it", "s", (1.0,), target=target)
    monkeypatch.setitem(command.SECTIONS, "start", lambda _: [figure])
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    monkeypatch.setattr(noise, "read_clocks", lambda: noise.Clocks(0, 0))
    shown = CliRunner().invoke(bench, ["--only=start"]).stdout
    assert f"target >= 2 s: {verdict}" in shown


def test_a_quick_plan_is_a_small_one(plans: list[Plan]) -> None:
    """`--quick` takes fewer runs and less memory, but what is said explicitly stands."""
    run = CliRunner().invoke
    run(bench, ["--only=stream"])
    run(bench, ["--only=stream", "--quick"])
    run(bench, ["--only=stream", "--quick", "--runs=7", "--size=64MiB", "--page-size=4KiB"])
    whole, quick, said = plans

    assert (whole.runs, whole.length_bytes, whole.page_sizes) == (5, 1 << 30, ("2MiB", "4KiB"))
    assert quick.quick
    assert quick.runs < whole.runs
    assert quick.length_bytes < whole.length_bytes
    assert (said.runs, said.length_bytes, said.page_sizes) == (7, 64 << 20, ("4KiB",))


@pytest.mark.parametrize("size", ["many", "3MiB", "5000000", "0"])
def test_a_wrong_size_is_refused(size: str, plans: list[Plan]) -> None:
    """A size that is none, or that pages of 2 MiB do not divide, is a wrong command line."""
    result = CliRunner().invoke(bench, [f"--size={size}"])

    assert result.exit_code == 2
    assert "--size" in result.stderr
    assert not plans


def test_an_unknown_section_is_refused(plans: list[Plan]) -> None:
    """The names that there are stand in the message."""
    result = CliRunner().invoke(bench, ["--only=stream,latecy"])

    assert result.exit_code == 2
    assert "'latecy' is not one of stream, qemu, start" in result.stderr


def test_a_qemu_is_measured_where_one_is_named(
    plans: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--against` its section is there, and the report says what QEMU it was."""
    monkeypatch.setattr(command, "peer_of", lambda named: named and Peer("qemu", "QEMU 1.2"))
    run = CliRunner().invoke

    report = json.loads(run(bench, ["--report=-", "--against=qemu"]).stdout)
    assert report["against"] == "QEMU 1.2"
    assert [figure["section"] for figure in report["figures"]] == ["stream", "qemu"]
    report = json.loads(run(bench, ["--report=-"]).stdout)
    assert report["against"] is None
    assert [figure["section"] for figure in report["figures"]] == ["stream"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--only=qemu"], "qemu needs --against"),
        (["--against=qemu=/nowhere/qemu"], "there is no program /nowhere/qemu"),
    ],
)
def test_a_qemu_that_is_not_there_is_refused(
    plans: list[Plan], arguments: list[str], reason: str
) -> None:
    """Nothing is measured before that is found out."""
    result = CliRunner().invoke(bench, arguments)

    assert result.exit_code == 2
    assert reason in result.stderr
    assert not plans


def test_an_unwritable_report_is_refused_first(tmp_path: Path, plans: list[Plan]) -> None:
    """A report that cannot be written is a wrong command line, found before any measurement."""
    target = tmp_path / "missing" / "report.json"

    result = CliRunner().invoke(bench, [f"--report={target}"])

    assert result.exit_code == 2
    assert "--report" in result.stderr
    assert not plans
