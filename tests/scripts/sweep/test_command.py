"""`midstream sweep` as it is typed: lines, tables, and what a second start does."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

from pyarrow import parquet

from tests.processes import Lab, until

SIMULATED = """
[options]
size = "16MiB"
postcopy-after = "0"
access-rate = 0

[axes]
policy = ["ordered", "drop"]
link = ["1Gbit/s"]
rtt = ["0", "1ms"]
seed = "{seeds}"
"""
# A policy with which no run begins, in a worker, before there is a file for it.
GATED = """
import sys, time
from pathlib import Path
from protocol.policy import preset

while "scripts.sweep.worker" in sys.orig_argv and not Path(__file__).with_name("gate").exists():
    time.sleep(0.01)
MINE = preset("ordered")
"""
REAL = """
command = "migrate"
[options]
size = "8MiB"
start-paused = true
[axes]
seed = [0, 1]
"""


def write(lab: Lab, text: str) -> Path:
    """Write a sweep's file."""
    path = lab.folder / "sweep.toml"
    path.write_text(text, encoding="utf-8")
    return path


def lines(lab: Lab) -> list[dict[str, Any]]:
    """Return the lines that there are."""
    path = lab.folder / "out" / "runs.jsonl"
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in whole]


def test_runs_are_lines_and_rows(lab: Lab) -> None:
    """Each point is one, in the order of the axes; nothing of it is run a second time."""
    path = write(lab, SIMULATED.format(seeds="0..1"))
    first = lab.run("sweep", path, "--out=out")
    assert first.status == 0, first.errors
    assert first.output == "8 runs, 0 of them there already: out/runs.jsonl\n"
    told = (lab.folder / "out" / "runs.jsonl").read_bytes()
    with (lab.folder / "out" / "runs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["axis.policy"], row["axis.rtt"], row["axis.seed"]) for row in rows] == [
        (policy, rtt, seed)
        for policy in ("ordered", "drop")
        for rtt in ("0", "1ms")
        for seed in "01"
    ]
    assert {row["option.link.rtt-ms"] for row in rows} == {"0.0", "1.0"}
    by_key = {line["key"]: line for line in lines(lab)}
    for row in rows:
        report = by_key[row["key"]]["report"]
        assert float(row["faults.p50-us"]) == report["midstream"]["faults"]["p50-us"] > 0
    table = parquet.read_table(lab.folder / "out" / "runs.parquet")
    assert table.num_rows == 8
    assert table.column_names == list(rows[0])
    assert "fault p99 over rtt" in (lab.folder / "out" / "index.html").read_text(encoding="utf-8")
    second = lab.run("sweep", path, "--out=out").succeed()
    assert second.output == "8 runs, 8 of them there already: out/runs.jsonl\n"
    assert (lab.folder / "out" / "runs.jsonl").read_bytes() == told


def test_what_is_cancelled_goes_on(lab: Lab) -> None:
    """Ctrl-C keeps what is done, leaves nobody behind, and the rest is run by the next."""
    (lab.folder / "gated.py").write_text(GATED, encoding="utf-8")
    text = SIMULATED.format(seeds="0..4").replace('"drop"]', '"drop", "gated.py:MINE"]')
    path = write(lab, text)
    first = lab.start("sweep", path, "--out=out", "--quiet", "--workers=2")
    until(lambda: len(lines(lab)) == 20)
    first.signal(signal.SIGINT)
    first.fail(130, "cancelled by SIGINT")
    lab.expect_nobody()
    kept = lines(lab)
    assert len(kept) == 20
    # As a machine that is switched off may leave it.
    with (lab.folder / "out" / "runs.jsonl").open("ab") as file:
        file.write(b'{"schema": "midstr')
    (lab.folder / "gate").touch()
    again = lab.start("sweep", path, "--out=out", "--workers=2")
    assert again.wait() == 0
    told, *progress = again.errors.splitlines()
    assert told == "midstream: out/runs.jsonl: the last line was torn, and is cut off"
    assert all(" of 10 runs, about " in line for line in progress)
    assert again.output == "30 runs, 20 of them there already: out/runs.jsonl\n"
    assert lines(lab)[:20] == kept
    assert len({line["key"] for line in lines(lab)}) == len(lines(lab)) == 30


def test_a_wrong_sweep_runs_nothing(lab: Lab) -> None:
    """File, line and reason; no folder is made."""
    path = write(lab, SIMULATED.format(seeds="1..0"))
    lab.run("sweep", path, "--out=out").fail(2, "sweep.toml:11: seed: 1..0 is empty")
    assert not (lab.folder / "out").exists()


def test_real_runs_are_lines_too(lab: Lab) -> None:
    """They are migrations as `midstream migrate` makes them, verified."""
    lab.run("sweep", write(lab, REAL), "--out=out", "--quiet").succeed()
    told = lines(lab)
    assert [line["point"]["seed"] for line in told] == [0, 1]
    for line in told:
        assert line["report"]["status"] == "completed"
        assert line["report"]["midstream"]["verified"]["mismatches"] == 0


def test_a_real_run_that_is_cancelled_leaves_nobody(lab: Lab) -> None:
    """Its two sides end in order, and there is no line of it."""
    slow = REAL.replace('"8MiB"', '"64MiB"\nmax-bandwidth = "1MB/s"')
    process = lab.start("sweep", write(lab, slow), "--out=out", "--quiet")
    lab.pid_of("-m scripts migrate")
    process.signal(signal.SIGINT)
    process.fail(130, "cancelled by SIGINT")
    lab.expect_nobody()
    assert lines(lab) == []
