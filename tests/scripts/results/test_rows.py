"""Tables of reports: a row a run, a column a field; and what a report says it is."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyarrow import parquet

from protocol.report import assemble_failed
from scripts.commands import run
from scripts.results.rows import columns_of, flat, rows_of
from scripts.results.summary import lines_of
from tests.processes import Lab

RUN = {
    "command": "compare", "started": "2026-01-02T03:04:05Z", "outputs": {"report": "x"}, "seed": 7,
    "options": {"given": {"size": "8MiB", "quick": True}, "resolved": {"size-bytes": 8 << 20}},
    "versions": {"midstream": "0.1.0", "python": "3.11.7", "kernel": "6.1", "trio": None},
    "machine": {"cpus": 1, "cpu-model": "a processor", "load-average": [0.5, 0, 0]},
}  # fmt: skip
FAULTS = {"count": 2, "p50-us": 1500.0, "p99-us": 2000.0, "max-us": 2000.0}


def migration(policy: str) -> dict[str, Any]:
    """Return a report of a migration."""
    own = {"schema": "midstream-report/1", "policy": policy, "faults": FAULTS, "backing": "base"}
    return {"status": "completed", "midstream": own}


REPORTS: dict[str, tuple[dict[str, Any], list[str | None], list[str]]] = {
    "migration": (
        {**migration("drop"), "midstream": {**migration("drop")["midstream"], "run": RUN}},
        [None],
        ["midstream compare, 2026-01-02T03:04:05Z", "--size=8MiB --quick", "p50 1.5 ms"],
    ),
    "failed": (assemble_failed("failed", "cut off"), [None], ["before they said", "cut off"]),
    "comparison": (
        {
            "schema": "midstream-compare/1", "status": "completed", "run": RUN,
            "policies": {
                name: {"report": migration(name), "fault-latencies-us": [1.0]}
                for name in ("drop", "split")
            },
        },
        ["drop", "split"],
        ["drop: 2 waits of vCPUs", "split: 2 waits of vCPUs"],
    ),
    "comparison with a run that failed": (
        {
            "schema": "midstream-compare/1", "status": "failed", "reason": "1 of 4 runs",
            "policies": {
                "drop": {
                    "report": migration("drop"), "fault-latencies-us": [1.0],
                    "runs": [
                        {"report": migration("drop"), "fault-latencies-us": [1.0]},
                        {"report": assemble_failed("failed", "no room"), "fault-latencies-us": [],
                         "failure": "no room", "exit-status": 1},
                    ],
                    "spread": {key: [value, value, value] for key, value in FAULTS.items()},
                },
                "split": {
                    "report": assemble_failed("failed", "gone"), "fault-latencies-us": [],
                    "failure": "gone", "exit-status": 4,
                },
            },
        },
        ["drop", "drop", "split"],
        ["drop: 2 waits of vCPUs", "drop (2): FAILED: no room", "split: FAILED: gone"],
    ),
    "benchmark": (
        {
            "schema": "midstream-bench/2", "status": "completed",
            "figures": [{"section": "s", "name": "n", "unit": "ms", "median": 1.0, "met": False}],
        },
        ["s: n"],
        ["1 figure, 1 beyond their targets", "missed: n"],
    ),
    "injection": (
        {
            "schema": "midstream-inject/1", "status": "failed", "reason": "1 of 2 runs",
            "scenarios": [{"name": "cut", "file": "f", "runs": [
                {"number": 1, "met": True, "failures": [], "report": migration("drop")},
                {"number": 2, "met": False, "report": None,
                 "failures": [{"what": "end", "expected": "a", "seen": "b"}]},
            ]}],
        },
        ["cut", "cut"],
        ["1 of 2 as expected", "end: expected a, seen b"],
    ),
    "demonstration": (
        {
            "schema": "midstream-demo/1", "status": "completed",
            "policies": {"drop": {"wait-us": 2500.0}},
        },
        ["drop"],
        ["waited for 2.5 ms"],
    ),
    "unfinished": (
        {"schema": "midstream-compare/1", "status": "setup", "reason": "not yet"},
        [None],
        ["setup: not yet"],
    ),
    "of a later version": ({"schema": "midstream-new/1", "status": "done"}, [None], ["done"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_says_what_it_is(kind: str) -> None:
    """The first line names the file and what was run; those below, how it went."""
    report, _, words = REPORTS[kind]
    lines = lines_of("name", report)
    assert lines[0].startswith("name: ")
    for word in words:
        assert word in "\n".join(lines)
    assert len(lines) < 12


@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_has_a_row_for_each_run(kind: str) -> None:
    """Whatever kind it is; a row says which of the file it is, and nothing in it is a list."""
    report, names, _ = REPORTS[kind]
    rows = rows_of("name", report)
    assert [row.get("row") for row in rows] == names
    assert {row["file"] for row in rows} == {"name"}
    assert not any(isinstance(value, (list, dict)) for row in rows for value in row.values())


def test_a_column_is_a_field() -> None:
    """Its path names it; what was run has short names; where results went is no column."""
    row = flat(REPORTS["migration"][0])
    assert row["faults.p50-us"] == 1500.0
    assert row["option.size-bytes"] == 8 << 20
    assert row["version.kernel"] == "6.1"
    assert row["machine.load-average"] == "[0.5, 0, 0]"
    assert row["run.seed"] == 7
    assert not any(name.startswith(("run.outputs", "run.options")) for name in row)
    assert columns_of([{"b": 1}, {"a": 1, "b": 2}]) == ["b", "a"]


def write_all(folder: Path) -> list[str]:
    """Write every kind of report to a file; return their names."""
    for kind, (report, _, _) in REPORTS.items():
        (folder / f"{kind}.json").write_text(json.dumps(report), encoding="utf-8")
    return [str(folder / f"{kind}.json") for kind in REPORTS]


def test_many_runs_are_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CSV and Parquet have the same rows and columns; what a row has not is empty, or null."""
    paths = [tmp_path / "table.csv", tmp_path / "table.parquet"]
    options = [f"--csv={paths[0]}", f"--parquet={paths[1]}"]
    assert run(["report", *write_all(tmp_path), *options]) == 0
    assert capsys.readouterr().out.count(".json: ") == len(REPORTS)
    with paths[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    count = sum(len(names) for _, names, _ in REPORTS.values())
    assert len(rows) == count
    table = parquet.read_table(paths[1])
    assert table.column_names == list(rows[0])
    frame = pd.read_csv(paths[0])
    assert frame["faults.p50-us"].dropna().tolist() == 5 * [1500.0]
    assert table.column("faults.p50-us").to_pylist().count(None) == count - 5
    assert {row["met"] for row in rows} == {"", "true", "false"}


def test_parquet_without_pyarrow_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what to install, before anything is written."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    files = write_all(tmp_path)
    before = sorted(tmp_path.iterdir())
    options = [f"--parquet={tmp_path / 'table'}", f"--csv={tmp_path / 'csv'}"]
    assert run(["report", *files, *options]) == 1
    assert capsys.readouterr().err == (
        "midstream: --parquet needs pyarrow, which is not installed: "
        "pip install 'midstream[parquet]'\n"
    )
    assert sorted(tmp_path.iterdir()) == before


def test_reports_and_events_go_together(lab: Lab) -> None:
    """Of each file that is shown which it is; a real report says how it was made."""
    files = [f"--{name}={lab.folder / name}" for name in ("report", "events")]
    lab.run("migrate", "--size=4MiB", "--page-size=4KiB", "--quiet", *files).succeed()
    shown = lab.run("report", lab.folder / "report", lab.folder / "events")
    assert (shown.wait(), shown.errors) == (0, "")
    assert "midstream migrate, 20" in shown.output
    assert "--size=4MiB --page-size=4KiB" in shown.output
    assert shown.output.count("Verified: the guest has moved") == 2
    assert "stage of a wait" in shown.output or "page requests" in shown.output
