"""`midstream compare`: several policies on one trace."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts.figures.compare import compare
from tests.processes import Lab
from tests.reports import expect_valid, read_report

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
        ("--program=chess", "'chess' is not one of"),
        ("--access-rate=often", "is not a number"),
        ("--write-ratio=2", ""),
        ("--postcopy-after=late", "is not a whole number"),
        ("--repeats=0", ""),
        ("--html=/nowhere/page", "folder does not exist"),
        ("--keep=/dev/null/kept", ""),
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


def test_repeated_runs_have_a_spread_and_are_kept(tmp_path: Path) -> None:
    """A program with precopy before, in turn: medians and ranges, each run's files, and a page."""
    report, page, kept = (tmp_path / name for name in ("report.json", "page.html", "kept"))
    options = (
        "--size=4MiB", "--vcpus=1", "--policies=ordered,split", "--program=uniform",
        "--access-rate=300", "--write-ratio=0.5", "--postcopy-after=1", "--repeats=2",
    )  # fmt: skip
    outputs = (f"--report={report}", f"--html={page}", f"--keep={kept}")
    result = CliRunner().invoke(compare, [*options, *outputs], catch_exceptions=False)
    assert result.exit_code == 0
    assert [line for line in result.stderr.splitlines() if line.endswith("...")] == [
        "ordered (1) ...", "split (1) ...", "ordered (2) ...", "split (2) ...",
    ]  # fmt: skip
    assert "lowest to highest" in result.stdout
    told = read_report(report)
    for name, row in told["policies"].items():
        runs = row["runs"]
        assert [row["report"], 2] == [runs[0]["report"], len(runs)]
        asked = [run["report"]["midstream"]["run"]["options"] for run in runs]
        assert asked[0] == asked[1]
        assert asked[0]["resolved"]["program"] == "uniform"
        assert asked[0]["resolved"]["postcopy-after"] == 1
        p99 = [run["report"]["midstream"]["faults"]["p99-us"] for run in runs]
        assert row["spread"]["p99-us"] == [min(p99), min(p99), max(p99)]
        for number, run in enumerate(runs, 1):
            assert read_report(kept / f"{name}-{number}.json")["status"] == "completed"
            assert (kept / f"{name}-{number}.jsonl").stat().st_size
            assert run["report"]["midstream"]["verified"]["digest-equal"]
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 1
    assert "difference from ordered" in text
    assert "Medians of 2 runs" in text


def test_a_trace_of_its_own_is_no_option(tmp_path: Path) -> None:
    """Two comparisons asked the same have equal options, wherever their trace was."""
    told = []
    for name in ("one", "other"):
        report = tmp_path / name
        arguments = ["--size=4MiB", "--vcpus=1", "--policies=ordered", f"--report={report}"]
        assert CliRunner().invoke(compare, arguments, catch_exceptions=False).exit_code == 0
        own = read_report(report)["policies"]["ordered"]["report"]["midstream"]
        told.append(own["run"]["options"])
    assert told[0] == told[1]
    assert told[0]["given"]["program"] == "trace:trace.txt"


def test_a_program_is_no_trace(tmp_path: Path) -> None:
    """Only one of them says what vCPUs do."""
    trace = tmp_path / "trace"
    trace.write_text("0 ram 0 r\n", encoding="utf-8")
    result = CliRunner().invoke(compare, [f"--accesses={trace}", "--program=zipf"])
    assert result.exit_code == 2
    assert "--program" in result.stderr


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no qemu-system-x86_64")
def test_a_qemu_is_not_waited_for_in_vain() -> None:
    """One that would never switch over is refused before the first run."""
    result = CliRunner().invoke(compare, ["--against=qemu", "--postcopy-after=never"])
    assert result.exit_code == 2
    assert "..." not in result.stderr
    assert "--against" in result.stderr


# Of each policy the second run fails, before the guest is handed over or after it.
_FAILING = """
from pathlib import Path

from source.scheme import Prefetcher, Scheme


class Early(Prefetcher):
    def restart(self, geometry, remaining):
        count(self, 2)


class Late(Prefetcher):
    def __init__(self):
        self.is_new = True

    def sent(self, page, channel):
        if self.is_new:
            self.is_new = False
            count(self, 2)


def count(who, bad):
    with Path(__file__).with_name(type(who).__name__).open("a+") as runs:
        runs.write("run\\n")
        runs.seek(0)
        if len(runs.readlines()) == bad:
            raise ValueError(f"run {bad} is bad")


early = Scheme("early", prefetcher=Early)
late = Scheme("late", prefetcher=Late)
"""


def test_a_repeat_that_fails_is_seen_everywhere(lab: Lab) -> None:
    """In the text, the exit status, the report, the page, the table of runs and what is kept.

    The runs after it are made all the same, and the figures are of those that ended well.
    """
    mine, folder = lab.folder / "mine.py", lab.folder
    mine.write_text(_FAILING, encoding="utf-8")
    process = lab.run(
        "compare", "--size=4MiB", "--page-size=4KiB", "--vcpus=1", "--policies=ordered",
        f"--policy={mine}:early", f"--policy={mine}:late", "--repeats=3",
        f"--report={folder / 'c.json'}", f"--html={folder / 'c.html'}", f"--keep={folder / 'kept'}",
    )  # fmt: skip
    assert process.wait() == 1, process.errors
    last = process.errors.splitlines()[-1]
    assert last.startswith("midstream: 2 of 9 runs did not end well; early (2): ")
    assert last.endswith("run 2 is bad")
    outcome = "7 of 9 runs verified. FAILED: early (2), late (2)."
    assert outcome in " ".join(process.output.split())
    assert outcome in (folder / "c.html").read_text(encoding="utf-8")
    assert sum(line.startswith("  FAILED ") for line in process.output.splitlines()) == 2

    told = read_report(folder / "c.json")
    assert (told["status"], told["run-count"], told["verified-count"]) == ("failed", 9, 7)
    assert "early (2)" in told["reason"]
    failures = [(each["row"], each["number"], each["exit-status"]) for each in told["failures"]]
    assert failures == [("early", 2, 1), ("late", 2, 5)]
    for name in ("early", "late"):
        runs = told["policies"][name]["runs"]
        assert ["failure" in run for run in runs] == [False, True, False]
        good = [runs[n]["report"]["midstream"]["faults"]["count"] for n in (0, 2)]
        assert told["policies"][name]["spread"]["count"] == [min(good), min(good), max(good)]
        assert (
            "run 2 is bad" in read_report(folder / "kept" / f"{name}-2.json")["midstream"]["reason"]
        )

    summary = lab.run("report", folder / "c.json", f"--csv={folder / 'c.csv'}").succeed().output
    assert "early (2): FAILED: " in summary
    assert "early: medians of 2 runs: " in summary
    assert "failure" in (folder / "c.csv").read_text(encoding="utf-8").partition("\n")[0]


def test_a_report_on_standard_output_says_why(lab: Lab) -> None:
    """Nobody adds to it what nobody can take back."""
    mine = lab.folder / "mine.py"
    mine.write_text(_FAILING.replace("count(self, 2)", "count(self, 1)"), encoding="utf-8")
    process = lab.run(
        "compare", "--size=4MiB", "--page-size=4KiB", "--vcpus=1", f"--policy={mine}:early",
        "--report=-",
    )  # fmt: skip
    assert process.wait() == 1, process.errors
    told = expect_valid(json.loads(process.output))
    assert (told["status"], told["verified-count"]) == ("failed", 0)
    assert "1 of 1 run did not end well; early: " in told["reason"]
